"""The result in plain words, for someone who answers for the data and does not read tables.

Every sentence is computed from the numbers and claims no more than they carry: no gold model, no verdict; a
loss above gold's is over-forgetting; a bound for one token says nothing of a whole answer.
"""

import math
from dataclasses import dataclass, field

from mari_cli.errors import counted
from mari_cli.metrics.difference import difference_of_estimates
from mari_cli.metrics.estimate import Estimate, OverSeeds
from mari_cli.metrics.of_benchmarks import chance
from mari_cli.report.beside import differing_distances, distance, distances, drift, in_short
from mari_cli.report.comparison import (
    FORGOTTEN,
    KEPT,
    SUITE_FORGOTTEN,
    SUITE_KEPT,
    Change,
    Row,
    Standing,
    comparison_rows,
    confidence_of,
    differing_corpora,
    differing_items,
    is_a_test,
    metric_of,
    results,
    suite_of,
    unshared,
)
from mari_cli.report.numbers import duration, interval, listed, number, percent
from mari_cli.report.read import RunData


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value and its interval as they are printed; both are empty where nothing was measured."""

    value: str = ""
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric in plain words; ``reading`` judges it in a word or two, ``note`` says what to know of it."""

    says: str
    n: int
    now: Figure
    before: Figure = Figure()
    gold: Figure = Figure()
    reading: str = ""
    tone: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A heading and what stands under it: sentences, points with a lead word, figures."""

    heading: str
    sentences: list[str] = field(default_factory=list)
    points: list[tuple[str, str]] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Summary:
    headline: str
    warnings: list[str]
    claims: list[Claim]
    bound: Claim


def summarise(runs: list[RunData]) -> Summary:
    rows = comparison_rows(runs)
    made = results(rows)
    if len(made) != 1:
        head, claims = _headline_of_several(made), _claims_of_several(made)
    elif made[0].role == "model":
        head, claims = _headline_of_model(made[0]), _claims_of_model(made[0])
    else:
        head = headline(made[0])
        claims = [
            _was_known(made[0]),
            *_beside(made[0]),
            _forgotten(made[0]),
            _kept(made[0]),
            *_by_suite(made[0]),
        ]
    return Summary(headline=head, warnings=_warnings(rows, runs), claims=claims, bound=_bound(made, rows))


def confidence(runs: list[RunData]) -> str:
    """What the intervals cover, as `95 %`."""
    levels = {run.setting("metrics.confidence") for run in runs} - {None}
    return f"{100 * float(levels.pop()):g} %" if len(levels) == 1 else "95 %" if not levels else "stated"


# -- one run ---------------------------------------------------------------------------------------


def headline(row: Row) -> str:
    """The short of it where all is well; one sentence on forgetting, one on what was kept, and the distance
    to gold where it is known."""
    lead = "Forgotten as gold, kept as before." if _arrived(row) else ""
    return " ".join(filter(None, [lead, verdict(row), _verdict_kept(row), in_short(row)]))


def _arrived(row: Row) -> bool:
    """Whether no measure of the forget data tells the model from gold, though some told the model before from
    gold, and none of what was to be kept got worse."""
    standings = [row.standing(name) for name in _decisive(row)]
    told = [name for name in _decisive(row) if (apart := row.before_from_gold(name)) and apart.separable]
    changes = [row.change(name) for name in KEPT if not _guesses(row, name)]
    return (
        bool(told)
        and not _kept_the_start(row)
        and all(where is Standing.at for where in standings)
        and any(what is not None for what in changes)
        and Change.worse not in changes
    )


def _kept_the_start(row: Row) -> bool:
    return all(run.training and run.training.kept_step == 0 for run in row.runs)


def verdict(row: Row) -> str:
    """Forgotten or not, measured against gold; no verdict without one."""
    if _kept_the_start(row):
        return "Nothing was forgotten: no later step was fit to keep, so the model is the one from before."
    if row.gold is None:
        return (
            "No gold model was measured, so this report says what changed, not whether the data was "
            "forgotten."
            if row.role == "unlearned"
            else ""
        )
    names = _decisive(row)
    broken = [name for name in names if not _finite(row, name)]
    if broken:
        return (
            f"The measurement is broken: on the forget data, {_labels(broken)} {_is(broken)} not a finite "
            "number."
        )
    standings = {name: where for name in names if (where := row.standing(name)) is not None}
    if not standings:
        return "There are no intervals to judge the distance to the gold model by."
    short = [name for name, where in standings.items() if where in (Standing.short, Standing.away)]
    past = [name for name, where in standings.items() if where is Standing.past]
    off = [name for name, where in standings.items() if where is Standing.off]
    everything = f"the {_COUNTS[len(standings)]} below"
    if short and past:
        return (
            f"Forgotten unevenly: on the forget data, {_labels(short)} {_is(short)} still short of the gold "
            f"model's, while {_labels(past)} went past it."
        )
    if len(short) == len(standings):
        verb = "is" if len(short) == 1 else "are all"
        return f"Not forgotten: {everything} {verb} still short of the gold model's."
    if short:
        return (
            f"Not fully forgotten: on the forget data, {_labels(short)} {_is(short)} still short of the gold "
            "model's."
        )
    if past:
        return f"Over-forgotten: on the forget data, {_labels(past)} went past the gold model's."
    if off:
        return f"Not as the gold model: on the forget data, {_labels(off)} {_differ(off)} from gold's."
    if row.target and all(
        (apart := row.before_from_gold(name)) is not None and apart.separable is False
        for name in standings
        if name in row.target.metrics
    ):
        return (
            "The model was like one that never saw the forget data before already: there was nothing to "
            "forget that "
            "these measures could show."
        )
    if len(standings) == 1:
        return (
            f"On the forget data, {everything} does not tell the model from one that never saw it."
            + _too_few(row, list(standings))
        )
    return f"On the forget data, none of {everything} tells the model from one that never saw it." + _too_few(
        row, list(standings)
    )


FEW = 30


def _too_few(row: Row, names: list[str]) -> str:
    """How little it means that nothing was found."""
    fewest = min(found.n for name in names if (found := row.estimate(name)))
    return (
        f" With as few as {counted(fewest, 'item')} only a large difference could show."
        if fewest < FEW
        else ""
    )


_COUNTS = {
    1: "one measure",
    2: "two measures",
    3: "three measures",
    4: "four measures",
    5: "five measures",
    6: "six measures",
    7: "seven measures",
    8: "eight measures",
    9: "nine measures",
}


def _decisive(row: Row) -> list[str]:
    """What decides whether the data is forgotten: the corpora's own measures, else the suites'."""
    own = [name for name in FORGOTTEN if row.estimate(name)]
    return own or [name for name in SUITE_FORGOTTEN if row.estimate(name)]


def _verdict_kept(row: Row) -> str:
    changes = {name: row.change(name) for name in KEPT if not _guesses(row, name)}
    worse = [name for name, what in changes.items() if what is Change.worse]
    kept = [name for name, what in changes.items() if what in (Change.kept, Change.better)]
    if worse:
        return f"The price: {_labels(worse)} got worse."
    return (
        f"What was to be kept was kept: {_labels(kept)} {_is(kept)} not measurably worse than before."
        if kept
        else ""
    )


def _was_known(row: Row) -> Claim:
    before = row.target.metrics if row.target else {}
    exact, accuracy = before.get("forget/exact_match"), before.get("forget/token_accuracy")
    size = exact or accuracy or before.get("forget/answer_nll")
    corpus = row.run.setting("forget.name")
    sentences = []
    if size:
        named = f" of corpus “{corpus}”" if corpus else ""
        sentences.append(
            f"{exact.n if exact else size.n} forget records{named} were to be removed from "
            f"“{_model_name(row.run)}”."
        )
    if exact:
        sentences.append(f"Before, it completed {percent(exact.value)} of them word for word.")
    elif accuracy:
        sentences.append(f"Before, it predicted {percent(accuracy.value)} of their words (tokens) right.")
    if exact and exact.value < 0.1:
        sentences.append(
            "So it had not learned them by heart to begin with: there was little verbatim memory to remove, "
            "and a low "
            "figure afterwards is no achievement of the method."
        )
    sentences.append(_how(row))
    return Claim(
        heading="What was to be forgotten", sentences=[sentence for sentence in sentences if sentence]
    )


def _guesses(row: Row, name: str) -> bool:
    """Whether the model was at chance before: then the metric cannot show a loss."""
    before = row.target.metrics.get(name) if row.target else None
    guess = chance(name)
    return guess is not None and before is not None and _contains(before, guess)


def _how(row: Row) -> str:
    run, training = row.run, row.run.training
    if row.seeds:
        seeds = listed([str(seed) for seed in row.seeds])
        return f"The figures are means over {len(row.runs)} runs of “{run.name}” with the seeds {seeds}."
    if training is None:
        return ""
    took = f" in {duration(run.seconds)}" if run.seconds is not None else ""
    return f"The run “{run.name}” took {training.steps} training steps{took}, evaluation included."


def _forgotten(row: Row) -> Claim:
    measures = [measure for name in FORGOTTEN if (measure := _measure(row, name))]
    if row.gold is None:
        return Claim(
            heading="What changed on the forget data", sentences=_without_gold(row), measures=measures
        )
    return Claim(
        heading="Should be as for a model that never saw the data",
        sentences=[
            "The yardstick is the gold model, trained without the forget data. Best is to be like it, not to "
            "be as "
            "wrong as possible."
        ],
        measures=measures,
    )


_SAYS = {
    "forget/answer_nll": "Loss on the forget data, nats a token",
    "forget/token_accuracy": "Forget data: words (tokens) predicted right",
    "forget/exact_match": "Forget data: records completed word for word",
    "facts/unique_recall": "Facts stated only there, still told when asked",
    "privacy/loss_auc": "Telling forget data from unseen data by the loss (AUC, 0.5 is guessing)",
    "retain/token_accuracy": "Retain data: words (tokens) predicted right",
    "retain/exact_match": "Retain data: records completed word for word",
    "facts/shared_recall": "Facts that retained documents state too, told when asked about the forgotten",
    "tofu/forget_quality": "Forget quality: p-value of the test against gold",
    "tofu/forget/probability": "Forget questions: probability of the true answer",
    "tofu/forget/rouge_l_recall": "Forget questions: share of the true answer that is told (ROUGE-L recall)",
    "tofu/forget/truth_ratio": "Forget questions: truth ratio (1: true and wrong answers as likely)",
    "tofu/loss_auc": "Telling forget questions from unseen ones by the loss (AUC, 0.5 is guessing)",
    "tofu/model_utility": "Retained questions, real authors and world facts: model utility",
    "muse/verbatim_forget": "Forget passages: continued as they are written (ROUGE-L F1)",
    "muse/knowledge_forget": "Questions about the forget data: answered (ROUGE-L F1)",
    "muse/knowledge_retain": "Questions about the retain data: answered (ROUGE-L F1)",
    "muse/min_k_auc": "Telling forget passages from unseen ones by min-k (AUC, 0.5 is guessing)",
    "muse/privleak": "Privacy leak against gold, % (0 is as gold)",
}
_SHORT = {
    "forget/answer_nll": "loss",
    "forget/token_accuracy": "token accuracy",
    "forget/exact_match": "word-for-word recall",
    "facts/unique_recall": "fact recall",
    "privacy/loss_auc": "detectability",
    "retain/token_accuracy": "token accuracy on the retain data",
    "retain/exact_match": "word-for-word recall of the retain data",
    "facts/shared_recall": "recall of shared facts",
    "tofu/forget_quality": "forget quality",
    "tofu/forget/probability": "probability of the true answers",
    "tofu/forget/rouge_l_recall": "ROUGE-L recall",
    "tofu/forget/truth_ratio": "truth ratio",
    "tofu/loss_auc": "detectability",
    "muse/verbatim_forget": "verbatim memorization",
    "muse/knowledge_forget": "knowledge of it",
    "muse/min_k_auc": "detectability",
    "muse/privleak": "privacy leak",
}
"""The same inside a sentence; the first five after "on the forget data"."""
_READS: dict[Standing | Change, tuple[str, str]] = {
    Standing.at: ("as gold", "good"),
    Standing.short: ("not yet forgotten", "short"),
    Standing.away: ("further from gold than before", "short"),
    Standing.past: ("over-forgotten", "past"),
    Standing.off: ("not as gold", "past"),
    Change.kept: ("as before", "good"),
    Change.better: ("better than before", "good"),
    Change.worse: ("worse than before", "past"),
}


_NO_SHARES = ("_auc", "/forget_quality", "/probability", "/truth_ratio")


def _figure(name: str, estimate: Estimate | None) -> Figure:
    if estimate is None:
        return Figure()
    low, high = estimate.low, estimate.high
    if name.endswith(_NO_SHARES) or metric_of(name).high != 1:
        return Figure(value=number(estimate.value), interval=interval(low, high))
    ends = "" if low is None or high is None else f"{percent(low)} – {percent(high)}".replace(" % –", " –")
    return Figure(value=percent(estimate.value), interval=ends)


def _measure(row: Row, name: str) -> Measure | None:
    here = row.estimate(name)
    if here is None:
        return None
    gold = row.gold.metrics.get(name) if row.gold else None
    before = row.target.metrics.get(name) if row.target else None
    by_gold = name in FORGOTTEN or name in SUITE_FORGOTTEN
    read = row.standing(name) if by_gold else row.change(name)
    reading, tone = _READS[read] if read else ("", "")
    note = ""
    if _guesses(row, name):
        reading, tone, note = "", "", "The model guessed before already, so this cannot show a loss."
    elif read is Standing.past and gold and name == "forget/answer_nll" and here.value > gold.value:
        note = "Worse on these texts than a model that has never seen them, which is no merit."
    elif read is Standing.past and gold and name == "privacy/loss_auc" and here.value < gold.value:
        note = "Below gold's: the texts stand out by too high a loss, which shows what was removed as surely."
    elif is_a_test(name):
        level = number(1 - confidence_of(row.runs))
        note = f"Above {level} the test does not tell the model from gold; it is no degree of forgetting."
    return Measure(
        says=_SAYS.get(name) or (metric_of(name).label if suite_of(name) else _says_benchmark(name)),
        n=here.n,
        before=_figure(name, before),
        now=_figure(name, here),
        gold=_figure(name, gold),
        reading=reading,
        tone=tone,
        note=note,
    )


def _says_benchmark(name: str) -> str:
    metric, guess = metric_of(name), chance(name)
    kind = "General ability" if metric.high == 1 else f"Running text, {metric.unit}"
    return f"{kind} ({metric.label}{'' if guess is None else f'; {percent(guess)} is guessing'})"


def _without_gold(row: Row) -> list[str]:
    sentences = [
        "No gold model (the same model trained without the forget data) was measured. How such a model would "
        "answer is "
        "unknown, so the figures can be read against before only."
    ]
    forget, unseen = row.estimate("forget/answer_nll"), row.estimate("holdout/answer_nll")
    if forget and unseen and (apart := difference_of_estimates(forget, unseen)):  # of different items
        if not apart.separable:
            level = "is at the level of data that no model saw"
        elif forget.value < unseen.value:
            level = "is still below that of data that no model saw, so it looks familiar"
        else:
            level = "is above that of data that no model saw, which hints at over-forgetting"
        sentences.append(
            f"Its loss on the forget data ({number(forget.value)}) {level} ({number(unseen.value)}). "
            "That is a hint only: unseen data may be easier or harder by itself."
        )
    return sentences


def _beside(row: Row) -> list[Claim]:
    """How far from gold in one figure, and what was never seen; nothing where neither is known."""
    sentences, points = distance(row)
    claims = (
        Claim(heading="How far from gold, in one figure", sentences=sentences, points=points),
        Claim(heading="What no model has seen", sentences=drift(row)),
    )
    return [claim for claim in claims if claim.sentences or claim.points]


def _kept(row: Row) -> Claim:
    measures = [measure for name in KEPT if (measure := _measure(row, name))]
    none = "Nothing was measured on data that should be kept, so the price of forgetting is not known."
    return Claim(heading="Should be as before", measures=measures, sentences=[] if measures else [none])


def _bound(made: list[Row], rows: list[Row]) -> Claim:
    """What the Fano bound says, beside what it does not: always both."""
    heading = "What the bound says, and what it does not"
    told = [row for row in made if row.estimate("marginal/fano_accuracy_bound")]
    if not any(row.estimate("forget/answer_nll") for row in made):
        return Claim(heading=heading)  # only a suite or benchmarks were asked: nobody looks for it there
    if not told:
        return Claim(
            heading=heading,
            sentences=["Marginal information was not measured: there is no bound to read here."],
        )
    sentences = []
    worst = max(told, key=lambda row: _bound_of(row))
    bound, bayes = worst.estimate("marginal/fano_accuracy_bound"), worst.estimate("marginal/bayes_accuracy")
    assert bound
    prior = worst.run.setting("metrics.prior")
    chance = max(float(prior), 1 - float(prior)) if prior is not None else 0.5
    if not math.isfinite(bound.value):
        sentences.append(f"The bound is {number(bound.value)}, not a finite number, and says nothing.")
    else:
        sentences.append(
            "Somebody who sees one single token of the model's predictions, and has to say whether the "
            "forget data "
            f"played a part in it, is right in at most {_fine(bound.value)} of cases; guessing gives "
            f"{_fine(chance)}."
            + (f" The best possible detector reaches {_fine(bayes.value)} on these sets." if bayes else "")
            + (
                f" That is “{worst.label}”, the most detectable of the runs by this measure."
                if len(told) > 1
                else ""
            )
        )
        if bayes and math.isfinite(bayes.value) and bayes.value > bound.value + 1e-9:
            sentences.append(
                "This bound lies below the best detector's accuracy, which cannot be: the measurement is "
                "wrong, do "
                "not use either number."
            )
    before = [
        f"{_fine(value.value)} {'for ' if row.role == 'gold' else ''}{row.label}"
        for row in rows
        if row.role in ("target", "gold") and (value := row.estimate("marginal/fano_accuracy_bound"))
    ]
    if before:
        sentences.append(f"The same bound was {listed(before)}.")
    sentences.append(
        "It speaks of one token averaged over the whole data, not of whole answers: a model that recites "
        "every "
        "forgotten answer can have a bound close to guessing. Whether answers are still known is told by "
        "recall, exact "
        "match and the membership AUC; whether they can be brought back by further training is told by "
        "nothing here."
    )
    return Claim(heading=heading, sentences=sentences)


# -- a run without unlearning, several runs --------------------------------------------------------


def _headline_of_model(row: Row) -> str:
    verb = "trained" if row.run.task == "finetune" else "measured"
    if row.gold is not None and _decisive(row):
        return f"One model was {verb} beside a gold model; nothing was unlearned here. {verdict(row)}"
    unknown = " Without a gold model these figures do not say whether anything is forgotten."
    return f"One model was {verb}; nothing was unlearned.{unknown if _decisive(row) else ''}"


def _claims_of_model(row: Row) -> list[Claim]:
    measures = [measure for name in (*FORGOTTEN, *KEPT) if (measure := _measure(row, name))]
    return [Claim(heading="What the model knows", measures=measures), *_beside(row), *_by_suite(row)]


def _by_suite(row: Row) -> list[Claim]:
    """Of each suite what should be as gold's, then what should be as before."""
    names = [name for name in (*SUITE_FORGOTTEN, *SUITE_KEPT) if row.estimate(name)]
    return [
        Claim(
            heading=f"What {suite.upper()} says",
            measures=[
                measure for name in names if suite_of(name) == suite and (measure := _measure(row, name))
            ],
        )
        for suite in dict.fromkeys(suite_of(name) for name in names)
        if suite
    ]


def _headline_of_several(made: list[Row]) -> str:
    unlearned = [row for row in made if row.role == "unlearned"]
    if not any(row.gold for row in unlearned):
        return (
            f"{_several(made)} side by side. No gold model was measured, so they can be read against before "
            "only."
            if unlearned
            else f"{len(made)} models side by side; nothing was unlearned."
        )
    good = [row.label for row in unlearned if _all_well(row)]
    if not good:
        return (
            f"{_several(made)} side by side: none of them both matches the gold model on the forget data and "
            "keeps "
            "the rest."
        )
    others = " The others are not." if len(good) < len(unlearned) else ""
    return f"{_several(made)} side by side. Forgotten as gold, kept as before: {listed(good)}.{others}"


def _several(made: list[Row]) -> str:
    """A method of several seeds is several runs."""
    return f"{len(made)} {'methods' if any(row.seeds for row in made) else 'runs'}"


def _all_well(row: Row) -> bool:
    standings = [row.standing(name) for name in FORGOTTEN if row.estimate(name)]
    changes = [row.change(name) for name in KEPT if row.estimate(name)]
    return (
        bool(standings)
        and bool(changes)
        and all(where is Standing.at for where in standings)
        and all(what in (Change.kept, Change.better) for what in changes)
    )


MOST_SENTENCES = 12


def _claims_of_several(made: list[Row]) -> list[Claim]:
    unlearned = [row for row in made if row.role == "unlearned" or (row.gold and _decisive(row))]
    if not unlearned:
        return []
    sentences = []
    if any(row.gold for row in unlearned):
        sentences.append(
            "The yardstick is the gold model, trained without the forget data. Best is to be like it: less "
            "forgetting "
            "and more forgetting than gold's are both faults."
        )
    shown = unlearned[:MOST_SENTENCES]
    if len(unlearned) > len(shown):
        sentences.append(f"Here are the first {len(shown)} of {len(unlearned)} runs; the table has all.")
    claims = [
        Claim(heading="Run by run", sentences=sentences, points=[(row.label, headline(row)) for row in shown])
    ]
    if points := distances(made):
        told = "The nearest first; 0 is gold, 1 as far as before with nothing lost."
        claims.append(
            Claim(
                heading="How far from gold, in one figure", sentences=[told], points=points[:MOST_SENTENCES]
            )
        )
    return claims


def _warnings(rows: list[Row], runs: list[RunData]) -> list[str]:
    warnings = []
    differing = differing_corpora(runs)
    if differing:
        warnings.append(
            f"The runs were not measured on the same data ({listed(differing)} "
            f"differ{'s' * (len(differing) == 1)}): "
            "do not compare their numbers."
        )
    elif other_items := differing_items(rows):
        warnings.append(
            f"Not all runs were asked the same items ({'; '.join(other_items)}), so on these sets they are "
            "compared by their intervals alone."
        )
    if apart := differing_distances(runs):
        warnings.append(apart)
    if some := unshared(rows):
        shared = set.intersection(*(set(row.model.metrics) for row in results(rows)))
        warnings.append(
            f"Not all runs were asked the same: {'; '.join(some)}. "
            + ("What one was not asked is compared with nothing." if shared else "No metric is of all.")
        )
    for row in rows:
        broken = [name for name in row.model.metrics if not math.isfinite(row.model.metrics[name].value)]
        if broken:
            warnings.append(
                f"Not finite for “{row.label}”: {listed([metric_of(name).label for name in broken])}."
            )
    return warnings


def _finite(row: Row, name: str) -> bool:
    return all(
        math.isfinite(value.value)
        for value in (row.estimate(name), row.gold.metrics.get(name) if row.gold else None)
        if value
    )


def _contains(estimate: Estimate, value: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def _bound_of(row: Row) -> float:
    estimate = row.estimate("marginal/fano_accuracy_bound")
    assert estimate
    return math.inf if math.isnan(estimate.value) else estimate.value


def _fine(share: float) -> str:
    """Accuracies near one half need a decimal."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else number(share)


def _labels(names: list[str]) -> str:
    return listed([_SHORT.get(name) or metric_of(name).label for name in names])


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _differ(names: list[str]) -> str:
    return "differs" if len(names) == 1 else "differ"


def _model_name(run: RunData) -> str:
    return str(run.setting("model.name") or run.setting("model.path") or "the model")


def estimate_words(estimate: Estimate) -> str:
    """A value with its interval and n, for a tooltip."""
    ends = interval(estimate.low, estimate.high)
    words = f"{number(estimate.value)}{f' ({ends})' if ends else ''}, n = {estimate.n}"
    if isinstance(estimate, OverSeeds):
        each = ", ".join(f"{number(value)} (seed {seed})" for seed, value in estimate.values.items())
        words += f", mean of {each}"
    return words
