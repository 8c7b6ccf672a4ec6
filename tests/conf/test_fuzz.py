"""Every key of every command with values of every wrong kind: a configuration or two lines.

Nothing is built: what a key's value means to a model or a corpus is refused where that is read.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mari_cli import config, launch
from mari_cli.cli.door import one_line
from mari_cli.errors import UserError
from mari_cli.launch import Experiment
from mari_cli.launch.hydra_errors import keys
from mari_cli.losses.objective import build

FEW = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MANY = settings(FEW, max_examples=100)

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, True, False]),
    st.floats(),
    st.sampled_from([1e39, 5e-324, -0.0, 1.5]),
)
WORDS = st.one_of(
    st.sampled_from(["", " ", "null", "true", "nan", "inf", "1e999", "9" * 500, "???", "${seed}", "${nope}",
                     "${oc.env:NOPE}", "${", "~", "~nobody/x", "a" * 300, "../..", "npo", "_target_", "\0",
                     "\udcff", "\n", "a\nb", "auto", "[1]", "{a: 1}", "a,b"]),
    st.text(max_size=12),
)  # fmt: skip
PLAIN = st.one_of(st.none(), NUMBERS, WORDS)
VALUES = st.recursive(
    PLAIN, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip
AUDITS = ("quick", "standard", "full")
KEYS = {task: keys(task) for task in launch.TASKS}


@pytest.fixture(scope="module")
def composed() -> dict[str, list[Any]]:
    losses = [[f"loss={loss}"] for loss in config.kinds_of("loss")]
    files = ["forget=text", "forget.path=x.txt", "retain=jsonl", "holdout=jsonl", "tracker=wandb"]
    suites = [["model.path=x", f"suite={suite}"] for suite in ("tofu", "muse_news", "rwku", "own")]
    return {
        "unlearn": [launch.compose(Experiment("unlearn", words)) for words in [*losses, files]],
        "finetune": [launch.compose(Experiment("finetune"))],
        "evaluate": [launch.compose(Experiment("evaluate", words)) for words in suites],
        "audit": [launch.compose(Experiment("audit", ["model.path=x", f"audit={name}"])) for name in AUDITS],
    }


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(value):
        inner = getattr(value, field.name)
        yield f"{key}{field.name}", inner
        if is_dataclass(inner):
            yield from walk(inner, f"{key}{field.name}.")


def two_lines(error: UserError) -> None:
    assert one_line(str(error))
    assert error.hint is None or one_line(error.hint)


@pytest.mark.parametrize("task", launch.TASKS)
def test_every_key_takes_every_value_or_refuses_it(task, composed):
    """Values are put where composition leaves them; most are refused, and the rest is a configuration whose
    numbers are finite and whose loss can be built."""

    @MANY
    @given(st.data())
    def check(data: st.DataObject) -> None:
        cfg = data.draw(st.sampled_from(composed[task])).copy()
        with open_dict(cfg):
            for key in data.draw(st.lists(st.sampled_from(KEYS[task]), min_size=1, max_size=2)):
                try:
                    OmegaConf.update(cfg, key, data.draw(VALUES), force_add=True)
                except AssertionError:
                    continue  # a key in a section that is null
                except (OmegaConfBaseException, ValueError, TypeError, AttributeError, OverflowError):
                    continue  # Hydra meets the same, and what it raises is retold: see below
        try:
            parsed = launch.parse(cfg)
        except UserError as error:
            two_lines(error)
            return
        numbers = [value for _, value in walk(parsed) if isinstance(value, float)]
        assert all(abs(number) <= 1e15 for number in numbers)
        if isinstance(parsed, config.UnlearnRun):
            build(parsed.loss)

    check()


@FEW
@given(st.sampled_from(KEYS["unlearn"]), VALUES, st.sampled_from(["", "+", "++", "~"]))
def test_every_override_composes_or_is_refused_in_two_lines(key, value, sign):
    word = value if isinstance(value, str) else str(value).replace("None", "null")
    try:
        launch.show(Experiment("unlearn", [f"{sign}{key}={word}"]))
    except UserError as error:
        two_lines(error)


@FEW
@given(st.lists(st.text(max_size=20), max_size=3))
def test_any_words_compose_or_are_refused_in_two_lines(words):
    try:
        launch.show(Experiment("finetune", words))
    except UserError as error:
        two_lines(error)


def written(text: str) -> bytes:
    return text.encode(errors="replace")


CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(written),
    VALUES.map(lambda value: written(f"defaults: [finetune, _self_]\ntrain: {value}\n")),
    VALUES.map(lambda value: written(f"defaults: {value}\n")),
)


@FEW
@given(CONTENTS)
def test_any_file_composes_or_is_refused_in_two_lines(tmp_path, content):
    (tmp_path / "any.yaml").write_bytes(content)
    try:
        launch.show(Experiment("finetune", file=tmp_path / "any.yaml"))
    except UserError as error:
        two_lines(error)
