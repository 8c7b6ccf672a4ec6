"""What several rooms' tests share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two test processes share two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a network
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

settings.register_profile("mari", deadline=None)  # how long an example takes depends on what else runs
settings.load_profile("mari")

SHARED = Path(os.environ.get("MARI_SHARED") or Path(__file__).resolve().parents[1].parent / "shared")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: targets and gold models are trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undrawn_figures() -> Iterator[None]:
    """Reports hold figures that are made once for each kind of run, and not drawn."""
    import undrawn

    from mari_cli.report.plots import FIGURES, style

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "to_svg", undrawn.to_svg)
        for name, draw in FIGURES.items():
            patch.setitem(FIGURES, name, undrawn.made_once(draw))
        yield


@pytest.fixture
def shared() -> Path:
    """Data and models that are too large for the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs models and data in {SHARED}")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests begin first, so that no process works alone at the end (see `make test`)."""
    ranks = {"slow": 0, "smoke": 1}
    of_file: dict[Path, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        of_file[item.path] = min(of_file.get(item.path, 2), *(ranks.get(mark, 2) for mark in marks), 2)
    items.sort(key=lambda item: of_file[item.path])


def pytest_collection_finish() -> None:
    """What the imports made lives to the end, so no collection of garbage has to look at it: a tenth of the
    time of a tiny run."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`gpu` tests are seen to be skipped where there is no GPU."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
