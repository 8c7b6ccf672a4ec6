"""Does the information rank models as detectors do? Spearman's ρ over runs, with an interval over runs.

    python experiments/bound/rank.py RUN... [--along] [--beside] [--out FILE]

Each finished run (a sweep stands for its jobs) gives one pair: the information of the model that it left,
and the advantage of the best detector (the largest |TPR - FPR| of loss, zlib, min-k and min-k++). With
`--along` each evaluation during training gives a pair instead (of the sample that is watched, in which the
forget data has another share, so that the two cannot be pooled); the interval still resamples runs. With
`--beside` the models before unlearning and the gold models count as well, each once. The best of four
thresholds, chosen on the items that it is measured on, is above 0 for a model that nothing tells apart: the
last line says how far.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy import stats

from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.membership import advantage_of
from mari_cli.metrics.statistics import How
from mari_cli.report.read import RunData, read_runs

DETECTORS = ("loss", "zlib", "min_k", "min_k_plus_plus")
ESTIMATORS = ("pooled", "token", "support")
Pairs = dict[str, list[tuple[float, float]]]
"""By run, (information in nats, advantage)."""


def rank_correlation(runs: Mapping[str, Sequence[tuple[float, float]]], how: How) -> Estimate:
    """Spearman's ρ of the pairs of all runs, in [-1, 1], with a percentile interval.

    ``runs``: by name, the pairs of a run. Runs are resampled, each with all its pairs, for pairs of one run
    are not independent. ``n``: pairs. Draws in which one side is constant have no ρ and are left out; there
    is no interval with fewer than three runs. NaN where one side is constant in the data.
    """
    pairs = [np.asarray(of_run, float).reshape(-1, 2) for of_run in runs.values()]
    every = np.concatenate(pairs)
    value = _spearman(every)
    if len(pairs) < 3:
        return Estimate(value=value, n=len(every))
    generator = np.random.default_rng(how.seed)
    drawn = generator.integers(len(pairs), size=(how.resamples, len(pairs)))
    found = np.array([_spearman(np.concatenate([pairs[i] for i in draw])) for draw in drawn])
    found = found[np.isfinite(found)]
    if not len(found):
        return Estimate(value=value, n=len(every))
    tail = (1 - how.confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(value=value, n=len(every), low=float(low), high=float(high))


def _spearman(pairs: np.ndarray) -> float:
    """Pearson's r of the ranks, ties at their mean rank."""
    if len(pairs) < 2 or (np.ptp(pairs, axis=0) == 0).any():
        return float("nan")
    x, y = stats.rankdata(pairs[:, 0]), stats.rankdata(pairs[:, 1])
    return float(np.corrcoef(x, y)[0, 1])


def advantage(values: dict[str, float]) -> float | None:
    """Of the best detector; None where none was measured."""
    found = [values[name] for attack in DETECTORS if (name := f"privacy/{advantage_of(attack)}") in values]
    finite = [value for value in found if math.isfinite(value)]
    return max(finite, default=None)


def points(run: RunData, *, along: bool, beside: set[str] | None) -> list[dict[str, float]]:
    """The metrics by full name of each model of a run that counts. ``beside``: hashes of the models before
    unlearning and of gold models that were counted; None: these do not count."""
    if along:
        return run.eval_rows
    models = []
    for role in ("unlearned", "model", "target", "gold"):
        model = run.models.get(role)
        if model is None:
            continue
        if role in ("target", "gold"):
            if beside is None or str(model.hash) in beside:
                continue
            beside.add(str(model.hash))
        models.append({name: estimate.value for name, estimate in model.metrics.items()})
    return models


def pairs_of(runs: list[RunData], estimator: str, *, along: bool = False, beside: bool = False) -> Pairs:
    found: Pairs = {}
    counted: set[str] | None = set() if beside else None
    for run in runs:
        for values in points(run, along=along, beside=counted):
            information, best = values.get(f"marginal/{estimator}"), advantage(values)
            if information is not None and best is not None and math.isfinite(information):
                found.setdefault(str(run.path), []).append((information, best))
    return found


def chance(run: RunData) -> float:
    """About what a single threshold reaches where nothing is to be told: sqrt(1/n + 1/m) · .87, the mean of
    Kolmogorov's distribution (sqrt(π/2) ln 2 = .869) for n forget and m holdout items."""
    n, m = (run.data.get(corpus, {}).get("items", 0) for corpus in ("forget", "holdout"))
    return math.sqrt(math.pi / 2) * math.log(2) * math.sqrt(1 / n + 1 / m) if n and m else math.nan


def main(
    runs: Annotated[list[Path], typer.Argument(help="Runs; a sweep stands for its jobs.")],
    along: Annotated[bool, typer.Option("--along", help="Take the evaluations during training.")] = False,
    beside: Annotated[
        bool, typer.Option("--beside", help="Count the models before unlearning and gold models, too.")
    ] = False,
    resamples: Annotated[int, typer.Option(min=100)] = 2000,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the pairs.")] = None,
) -> None:
    """Print for each estimator of the information its rank correlation with the best detector's advantage."""
    try:
        found = read_runs(runs)
    except UserError as error:
        print(f"error: {error}\n  hint: {error.hint}", file=sys.stderr)
        raise typer.Exit(2) from None
    told: dict[str, Any] = {}
    for estimator in ESTIMATORS:
        pairs = pairs_of(found, estimator, along=along, beside=beside)
        if not pairs:
            print(f"{estimator:<8} not measured in these runs")
            continue
        told[estimator] = pairs
        estimate = rank_correlation(pairs, How(resamples))
        ends = "no interval" if estimate.low is None else f"[{estimate.low:+.2f}, {estimate.high:+.2f}]"
        print(f"{estimator:<8} rho {estimate.value:+.2f} {ends}  {len(pairs)} runs, {estimate.n} models")
    floors = [floor for run in found if math.isfinite(floor := chance(run))]
    if floors:
        print(f"an advantage of about {min(floors):.2f} to {max(floors):.2f} is chance for one threshold")
    if out is not None:
        out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    typer.run(main)
