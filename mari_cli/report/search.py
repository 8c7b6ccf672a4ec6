"""A search in a report: every trial, what each method came to on data that its settings were not chosen on,
in which order, and what of that order the data can tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from mari_cli.metrics.corpora import DISTANCE, FORGET_SIDE, KEPT_SIDE
from mari_cli.metrics.difference import Difference, difference_over_strata
from mari_cli.report.comparison import ModelRole, Side, data_hashes, difference, metric_of
from mari_cli.report.format import listed, number
from mari_cli.report.gold_distance import no_nearer
from mari_cli.report.read import RunData, read_run
from mari_cli.search.aim import Aim
from mari_cli.search.trials import Trial, best, middle


@dataclass(frozen=True)
class SearchedMethod:
    """One method of a search."""

    name: str
    ranges: str
    """In words; empty where nothing was searched."""
    trials: tuple[Trial, ...]
    reports: tuple[Path, ...]
    """Finished runs of its best trial on the seeds of the report."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search that has ended, and where its runs are."""

    directory: Path
    aim: Aim
    seed: int
    """On which settings were chosen."""
    budget: str
    """In words, of one trial."""
    report_seeds: tuple[int, ...]
    methods: tuple[SearchedMethod, ...]

    @property
    def runs(self) -> list[Path]:
        """Those that the page compares."""
        return [path for method in self.methods for path in self.paths_of(method)]

    def paths_of(self, method: SearchedMethod) -> Sequence[Path]:
        """Runs that a method is judged by: those of the report, or else its best trial."""
        if self.report_seeds:
            return method.reports
        chosen = best(method.trials)
        return [self.directory / chosen.run] if chosen else []

    def runs_of(self, method: SearchedMethod) -> tuple[RunData, ...]:
        """Those of `paths_of` that are finished."""
        return tuple(self.read[path] for path in self.paths_of(method) if path in self.read)

    @cached_property
    def read(self) -> dict[Path, RunData]:
        """Every finished run by its directory, read once."""
        trials = [
            self.directory / t.run for method in self.methods for t in method.trials if t.cost is not None
        ]
        paths = dict.fromkeys([*trials, *self.runs])
        return {path: read_run(path) for path in paths if (path / "result.json").is_file()}

    @property
    def sentences(self) -> list[str]:
        """What the search comes to, in words."""
        return [self.chosen_on, *ranking_words(self), *idle_words(self)]

    @property
    def chosen_on(self) -> str:
        if not self.report_seeds:
            return (
                f"Every figure is of seed {self.seed}, on which the settings were chosen: it flatters each "
                "method that was searched. `sweep.report_seeds` measures them on others."
            )
        data = {
            None: "",
            True: " The corpora are the same there: the seeds are of the training alone.",
            False: " The corpora are others there.",
        }[self._same_data]
        seeds = (
            f"seed{'s' * (len(self.report_seeds) > 1)} {listed([str(seed) for seed in self.report_seeds])}"
        )
        return (
            f"Settings were chosen on seed {self.seed}; the figures of the runs side by side are of "
            f"{seeds}, on which nothing was chosen.{data}"
        )

    @property
    def _same_data(self) -> bool | None:
        trial = next((t for method in self.methods for t in method.trials if t.cost is not None), None)
        report = next((path for method in self.methods for path in method.reports), None)
        if trial is None or report is None:
            return None
        searched, reported = self.read[self.directory / trial.run], self.read[report]
        return data_hashes(searched) == data_hashes(reported)


# -- in which order ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A method in the ranking: the mean of its seeds."""

    name: str
    value: float
    side: Side


def order_methods(search: Search) -> list[Ranked]:
    """The methods by the aim, best first; empty where fewer than two have a figure, or where the aim is read
    against gold's value."""
    if search.aim.direction == "gold":
        return []
    sign = -1 if search.aim.direction == "up" else 1
    found = []
    for method in search.methods:
        runs = search.runs_of(method)
        role: ModelRole = "unlearned" if runs and "unlearned" in runs[0].models else "model"
        values = [
            estimate.value for run in runs if (estimate := run.models[role].metrics.get(search.aim.metric))
        ]
        if runs and len(values) == len(runs) and all(map(math.isfinite, values)):
            side = Side(role=role, runs=runs)
            found.append(Ranked(name=method.name, value=sum(values) / len(values), side=side))
    return sorted(found, key=lambda one: sign * one.value) if len(found) > 1 else []


def ranking_words(search: Search) -> list[str]:
    """The order in a sentence, and in another which pairs cannot be told apart."""
    ranked = order_methods(search)
    if not ranked:
        return []
    metric = search.aim.metric
    places = "; ".join(
        f"{place}. {one.name} {number(one.value)}"
        + (f" ({nothing})" if (nothing := no_nearer(one.side.runs)) else "")
        for place, one in enumerate(ranked, start=1)
    )
    sentences = [f"Ranking by {metric_of(metric).label}, mean over the seeds: {places}."]
    pairs = list(combinations(ranked, 2))
    by_items = {(a.name, b.name): difference_on_items(metric, a.side, b.side) for a, b in pairs}
    sentences.append(_told_apart(by_items, "on the items of these seeds, in pairs"))
    if all(len(one.side.runs) > 1 for one in ranked):
        over = {(a.name, b.name): difference(metric, a.side, b.side) for a, b in pairs}
        count = len(ranked[0].side.runs)
        sentences.append(_told_apart(over, f"over {count} seeds, in pairs (Student's t)"))
    return sentences


def idle_words(search: Search) -> list[str]:
    """Where there is no ranking to say so: which methods are no nearer to gold than before."""
    if order_methods(search):
        return []
    with_runs = [(method.name, runs) for method in search.methods if (runs := search.runs_of(method))]
    return [f"{name} {nothing}." for name, runs in with_runs if (nothing := no_nearer(runs))]


def difference_on_items(metric: str, a: Side, b: Side) -> Difference | None:
    """The mean over seeds of the paired difference on each seed's items; None where seeds or items lack."""
    theirs = {run.seed: run for run in b.runs}
    found = []
    for run in a.runs:
        if run.seed not in theirs:
            return None
        apart = difference(
            metric, Side(role=a.role, runs=(run,)), Side(role=b.role, runs=(theirs[run.seed],))
        )
        if apart is None:
            return None
        found.append(apart)
    return difference_over_strata(found)


def _told_apart(apart: dict[tuple[str, str], Difference | None], where: str) -> str:
    same = [pair for pair, found in apart.items() if found is None or not found.separable]
    if not same:
        return f"Every two of them are told apart {where}."
    if len(same) == len(apart):
        return f"Not separable {where}: no two of them are told apart."
    pairs = "; ".join(f"{a} and {b}" for a, b in same)
    return f"Not separable {where}: {pairs}. The others are told apart."


# -- every trial ---------------------------------------------------------------------------------------------


def trial_rows(search: Search) -> list[tuple[str, str, list[list[str]]]]:
    """By method: its name, what was searched, and a row for each trial."""
    found = []
    for method in search.methods:
        chosen, untuned = best(method.trials), middle(method.trials)
        rows = [_row(search, trial, trial is chosen, trial is untuned) for trial in method.trials]
        found.append((method.name, method.ranges or "fixed: nothing was searched", rows))
    return found


COLUMNS = ("trial", "settings", "aim", "forget side", "kept side", "steps", "seconds", "")
"""Of `trial_rows`."""


def _row(search: Search, trial: Trial, is_best: bool, is_middle: bool) -> list[str]:
    run = search.read.get(search.directory / trial.run)
    settings = ", ".join(f"{key}={value}" for key, value in trial.settings.items()) or "as it comes"
    if run is None or trial.cost is None:
        return [str(trial.number), settings, "–", "–", "–", "–", "–", f"failed: {trial.failed}"]
    training = run.training
    notes = [word for word, said in (("best", is_best), ("median", is_middle)) if said]
    if training and training.stopped_by:
        notes.append(f"stopped: {training.stopped_by}")
    return [
        str(trial.number),
        settings,
        "–" if trial.value is None else number(trial.value),
        *(_figure(run, name) for name in (FORGET_SIDE, KEPT_SIDE)),
        str(training.steps) if training else "–",
        f"{run.seconds:.0f}" if run.seconds is not None else "–",
        "; ".join(notes),
    ]


def _figure(run: RunData, name: str) -> str:
    estimate = (run.models.get("unlearned") or next(iter(run.models.values()))).metrics.get(name)
    return number(estimate.value) if estimate else "–"


def sides(run: RunData | None) -> tuple[float, float] | None:
    """(loss of what was kept, distance to gold on the forget data) of a run; None where it has none."""
    model = run.models.get("unlearned") if run else None
    if model is None or DISTANCE not in model.metrics:
        return None
    kept, forget = model.metrics.get(KEPT_SIDE), model.metrics.get(FORGET_SIDE)
    if kept is None or forget is None or not math.isfinite(kept.value + forget.value):
        return None
    return kept.value, forget.value
