"""The first sentences of a report: whether the data was forgotten, and what unlearning cost.

Every sentence is computed from the numbers and claims no more than they show: without a gold model there is
no verdict; a loss above gold's is over-forgetting.
"""

import math

from mari_cli.errors import counted
from mari_cli.report.comparison import Change, ComparisonRow, Standing, metric_of
from mari_cli.report.format import listed
from mari_cli.report.gold_distance import in_short
from mari_cli.suites.registry import judged_metrics


def headline(row: ComparisonRow) -> str:
    """One sentence on forgetting, one on what was kept, and the distance to gold if it is known; a short
    summary comes first if unlearning succeeded."""
    lead = "Forgotten as gold, kept as before." if _succeeded(row) else ""
    return " ".join(filter(None, [lead, verdict(row), _verdict_kept(row), in_short(row)]))


def _succeeded(row: ComparisonRow) -> bool:
    """Whether no metric of the forget data separates the model from gold, while some metric separated the
    model before from gold, and no metric of data to be kept got worse."""
    names = decisive(row)
    kept = [name for name in judged_metrics("kept") if row.estimate(name) and not guesses(row, name)]
    return (
        not _kept_the_start(row)
        and any((apart := row.before_from_gold(name)) and apart.separable for name in names)
        and all(row.standing(name) is Standing.at for name in names)
        and bool(kept)
        and all(row.change(name) in (Change.kept, Change.better) for name in kept)
    )


def _kept_the_start(row: ComparisonRow) -> bool:
    return all(run.training and run.training.kept_step == 0 for run in row.runs)


def verdict(row: ComparisonRow) -> str:
    """Whether the data is forgotten, measured against gold; without gold there is no verdict."""
    if _kept_the_start(row):
        return "Nothing was forgotten: no later step was fit to keep, so the model is the one from before."
    if row.gold is None:
        return (
            "No gold model was measured, so this report says what changed, "
            "not whether the data was forgotten."
            if row.role == "unlearned"
            else ""
        )
    names = decisive(row)
    values = {name: (row.estimate(name), row.estimate(name, of="gold")) for name in names}
    broken = [name for name, two in values.items() if not all(math.isfinite(v.value) for v in two if v)]
    if broken:
        return (
            "The measurement is broken: on the forget data, "
            f"{_labels(broken)} {_is(broken)} not a finite number."
        )
    standings = {name: where for name in names if (where := row.standing(name)) is not None}
    if not standings:
        return "There are no intervals to judge the distance to the gold model by."
    short = [name for name, where in standings.items() if where in (Standing.short, Standing.away)]
    past = [name for name, where in standings.items() if where is Standing.past]
    off = [name for name, where in standings.items() if where is Standing.off]
    count = len(standings)
    everything = f"the {_NUMBERS[count - 1]} measure{'s' * (count > 1)} below"
    if short and past:
        return (
            "Forgotten unevenly: on the forget data, "
            f"{_labels(short)} {_is(short)} still short of the gold model's, "
            f"while {_labels(past)} went past it."
        )
    if len(short) == count:
        verb = "is" if count == 1 else "are all"
        return f"Not forgotten: {everything} {verb} still short of the gold model's."
    if short:
        return (
            "Not fully forgotten: on the forget data, "
            f"{_labels(short)} {_is(short)} still short of the gold model's."
        )
    if past:
        return f"Over-forgotten: on the forget data, {_labels(past)} went past the gold model's."
    if off:
        differ = "differs" if len(off) == 1 else "differ"
        return f"Not as the gold model: on the forget data, {_labels(off)} {differ} from gold's."
    if row.target and all(
        (apart := row.before_from_gold(name)) is not None and apart.separable is False
        for name in standings
        if name in row.target.metrics
    ):
        return (
            "The model was like one that never saw the forget data before already: "
            "there was nothing to forget that these measures could show."
        )
    tells = f"{everything} does not tell" if count == 1 else f"none of {everything} tells"
    few = _note_few_items(row, list(standings))
    return f"On the forget data, {tells} the model from one that never saw it.{few}"


FEW = 30


def _note_few_items(row: ComparisonRow, names: list[str]) -> str:
    """A note that few items show only large differences; empty for enough items."""
    fewest = min(found.n for name in names if (found := row.estimate(name)))
    return (
        f" With as few as {counted(fewest, 'item')} only a large difference could show."
        if fewest < FEW
        else ""
    )


_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def decisive(row: ComparisonRow) -> list[str]:
    """The metrics that decide whether the data is forgotten: the corpora's, else the suites'."""
    own = [name for name in judged_metrics("forgotten") if row.estimate(name)]
    return own or [name for name in judged_metrics("forgotten", suites=True) if row.estimate(name)]


def _verdict_kept(row: ComparisonRow) -> str:
    changes = {name: row.change(name) for name in judged_metrics("kept") if not guesses(row, name)}
    worse = [name for name, what in changes.items() if what is Change.worse]
    kept = [name for name, what in changes.items() if what in (Change.kept, Change.better)]
    if worse:
        return f"The price: {_labels(worse)} got worse."
    return (
        f"What was to be kept was kept: {_labels(kept)} {_is(kept)} not measurably worse than before."
        if kept
        else ""
    )


def headline_of_model(row: ComparisonRow) -> str:
    verb = "trained" if row.run.task == "finetune" else "measured"
    if row.gold is not None and decisive(row):
        return f"One model was {verb} beside a gold model; nothing was unlearned here. {verdict(row)}"
    unknown = " Without a gold model these figures do not say whether anything is forgotten."
    return f"One model was {verb}; nothing was unlearned.{unknown if decisive(row) else ''}"


def headline_of_several(made: list[ComparisonRow]) -> str:
    unlearned = [row for row in made if row.role == "unlearned"]
    if not any(row.gold for row in unlearned):
        return (
            f"{_several(made)} side by side. "
            "No gold model was measured, so they can be read against before only."
            if unlearned
            else f"{len(made)} models side by side; nothing was unlearned."
        )
    good = [row.label for row in unlearned if _succeeded(row)]
    if not good:
        return (
            f"{_several(made)} side by side: "
            "none of them both matches the gold model on the forget data and keeps the rest."
        )
    others = " The others are not." if len(good) < len(unlearned) else ""
    return f"{_several(made)} side by side. Forgotten as gold, kept as before: {listed(good)}.{others}"


def _several(made: list[ComparisonRow]) -> str:
    """The number of methods (with several seeds each) or runs."""
    return f"{len(made)} {'methods' if any(row.seeds for row in made) else 'runs'}"


def guesses(row: ComparisonRow, name: str) -> bool:
    """Whether the model was at chance before, so that the metric cannot show a loss."""
    before, guess = row.estimate(name, of="target"), metric_of(name).chance
    if guess is None or before is None or before.low is None or before.high is None:
        return False
    return before.low <= guess <= before.high


def _labels(names: list[str]) -> str:
    return listed([metric_of(name).short or metric_of(name).label for name in names])


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
