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


LONGEST = [
    "test_unlearn_smoke.py", "test_forgetting.py", "test_report_page.py", "test_fused.py",
    "test_launch.py", "test_planner.py", "test_processes.py", "test_planner_processes.py",
    "test_benchmarks_as_stock.py", "test_conf.py", "test_resume.py", "test_together.py",
    "test_engine.py", "test_fuzz.py", "test_search_plan.py", "test_lora_runs.py", "test_audit_runs.py",
    "test_from_log.py", "test_door.py", "test_benchmarks.py", "test_browser.py", "test_errors.py",
    "test_planted.py", "test_wheel.py", "test_seeds.py", "test_values.py", "test_kinds.py",
    "test_compare_damaged.py", "test_benchmarks_together.py", "test_planner_experts.py", "test_lora.py",
    "test_tokenize.py", "test_membership.py", "test_inside_formulas.py", "test_tables.py",
    "test_damaged_runs.py", "test_continual.py", "test_verify.py", "test_ask.py", "test_damaged.py",
    "test_help.py", "test_muse.py",
]  # fmt: skip
"""Files of ten seconds and more, the longest first; tests/test_house.py looks whether they are there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no process works alone at the end (see `make test`)."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


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
