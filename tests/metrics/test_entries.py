"""A metric is one function and one entry, and nothing else lists names of metrics."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import mari_cli
from mari_cli.metrics.aggregation import Aggregation, ByIntervals
from mari_cli.metrics.metric import register
from mari_cli.metrics.version import version_of
from mari_cli.suites.registry import METRICS

ROOT = Path(mari_cli.__file__).parent
OF_OTHERS = {
    "log_columns.py", "tofu_logs.py", "open_unlearning_logs.py", "open_unlearning_summary.py",
}  # fmt: skip
"""What reads the files of other programs: their names beside the names of our columns."""
BARE = {name.rpartition("/")[2] for name in METRICS}


def entry_files() -> set[Path]:
    """Files in which an entry is made, beside whose function its name stands."""
    made = ("Metric(", "membership_metrics(")
    return {path for path in ROOT.rglob("*.py") if any(call in path.read_text() for call in made)}


def measuring_files() -> set[Path]:
    """The code that an entry names as its own."""
    modules = {module for entry in METRICS.values() for module in entry.aggregate.modules}
    return {ROOT.parent / f"{module.replace('.', '/')}.py" for module in modules}


def names_in(node: ast.AST) -> list[str]:
    """Names of metrics that stand as elements or keys of a literal list, tuple, set or mapping."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        elements = node.elts
    elif isinstance(node, ast.Dict):
        elements = [key for key in node.keys if key is not None]
    else:
        return []
    words = [e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)]
    return [word for word in words if word in METRICS or word in BARE]


def test_no_list_of_metrics_stands_outside_their_entries():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {', '.join(names)}"
        for path in sorted(set(ROOT.rglob("*.py")) - entry_files() - measuring_files())
        if path.name not in OF_OTHERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if len(names := names_in(node)) > 1
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["('forget/exact_match', 'answer_nll')", "{'exact_match': 1, 'answer_nll': 2}"]
)
def test_a_list_of_metrics_is_recognised(text):
    assert len(names_in(ast.parse(text, mode="eval").body)) == 2


ENTRY = METRICS["forget/exact_match"]


@pytest.mark.parametrize("aggregate", [None, "mean", lambda values, draws: values])
def test_a_metric_that_does_not_say_how_it_is_resampled_is_refused(aggregate):
    with pytest.raises(ValueError, match="`forget/exact_match` does not say how it is made of items"):
        register([replace(ENTRY, aggregate=aggregate)])


def test_an_entry_is_registered_once_and_whole():
    assert register([ENTRY]) == {"forget/exact_match": ENTRY}
    with pytest.raises(ValueError, match="is registered twice"):
        register([ENTRY, ENTRY])
    with pytest.raises(ValueError, match="lacks its range, unit, label or description"):
        register([replace(ENTRY, low=1.0)])


@pytest.mark.parametrize("name", METRICS)
def test_what_items_do_not_give_says_why(name):
    aggregate = METRICS[name].aggregate
    assert isinstance(aggregate, Aggregation) or (isinstance(aggregate, ByIntervals) and aggregate.reason)
    assert not isinstance(aggregate, Aggregation) or (aggregate.sets and aggregate.columns)


def test_no_entry_has_the_reason_of_another_by_mistake():
    """Entries are made from one another by `replace`, which keeps what nobody sets anew."""
    by_reason: dict[str, set[str]] = {}
    for entry in METRICS.values():
        if isinstance(entry.aggregate, ByIntervals):
            by_reason.setdefault(entry.aggregate.reason, set()).add(entry.name)
    [of_tests] = [names for reason, names in by_reason.items() if reason.startswith("p-values")]
    assert of_tests == {name for name, entry in METRICS.items() if entry.is_test}
    [dkw] = [names for reason, names in by_reason.items() if "DKW" in reason]
    assert all(name.endswith("worst_threshold_advantage") for name in dkw)


def test_no_two_headlines_or_terms_of_the_distance_have_one_place():
    corpora = [entry for entry in METRICS.values() if not entry.name.startswith("benchmark/")]
    for places in ([e.headline for e in corpora], [e.distance_term for e in corpora]):
        there = [place for place in places if place is not None]
        assert len(there) == len(set(there))


# -- versions -------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module and returns its version."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        (tmp_path / "some_metric.py").write_text(text)
        version_of.cache_clear()
        return version_of("some_metric")

    yield write
    version_of.cache_clear()


def test_a_version_follows_what_the_code_does_and_not_its_words(module):
    plain = module("def f(x):\n    return x + 1\n")
    assert (
        module('"""Adds."""\n\n\ndef f(x):\n    """Of x."""\n    # one more\n    return (x + 1)\n') == plain
    )
    assert module("def f(x):\n    return x + 2\n") != plain


def test_an_entry_has_the_version_of_its_own_function_and_not_of_others():
    exact, loss = METRICS["forget/exact_match"], METRICS["forget/answer_nll"]
    assert exact.version == METRICS["retain/exact_match"].version
    assert exact.version == version_of("mari_cli.metrics.aggregation", "mari_cli.metrics.memorization")
    assert loss.version != exact.version
