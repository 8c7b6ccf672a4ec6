"""The standard measurements of a run: memorisation, likelihood, membership, marginal information, facts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.config import MetricsConfig
from mari_cli.data.records import Fact, Record
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.metrics import corpora as entries
from mari_cli.metrics import statistics
from mari_cli.metrics.aggregation import Aggregation, Combine, exp_ratio, mean, ratio
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.generation import recalled, verbatim_rouge_l
from mari_cli.metrics.marginal import marginal_information, support_information
from mari_cli.metrics.membership import LOSS, MIN_K, advantage_of, worst_threshold_advantage
from mari_cli.metrics.membership import auc as auc_of
from mari_cli.metrics.statistics import How
from mari_cli.models.load import LanguageModel
from mari_cli.progress import Track
from mari_cli.suites.attacks import membership, plain_attacks, privleak, score_attacks
from mari_cli.suites.draws import drawn, seeds_of
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.finite import is_finite, leave_out
from mari_cli.suites.generate import decode, question_and_truth
from mari_cli.suites.measured import Measured
from mari_cli.suites.scores import CorpusScores, ItemScore, score
from mari_cli.suites.states import StoredStates
from mari_cli.suites.suite import Summary

EstimateFunction = Callable[..., Estimate]
MEMBERSHIP = ("forget", "holdout")
"""The two roles that membership inference separates."""
MARGINAL_RESAMPLES = 200
"""Most resamples of marginal information: each needs a vocabulary vector for every position."""

_ESTIMATES: dict[Combine, EstimateFunction] = {
    mean: statistics.mean_estimate,
    ratio: statistics.ratio_estimate,
    exp_ratio: statistics.perplexity_estimate,
}


@dataclass(frozen=True)
class Corpus:
    """Records of one role, and the items made from them."""

    records: Sequence[Record]
    items: Sequence[Item]
    reference_nll: Sequence[float] | None = None
    """The mean token loss of each item under the model at `metrics.mia_reference`, if there is one."""

    def record_of(self, index: int) -> Record:
        return self.records[self.items[index].record]

    def subset(self, limit: int | None, *seeds: int) -> "Corpus":
        """At most ``limit`` items for each of ``seeds``, which draw them; the union in its old order."""
        chosen = drawn(len(self.items), limit, seeds)
        nll = self.reference_nll
        return Corpus(self.records, [self.items[i] for i in chosen], nll and [nll[i] for i in chosen])


CorporaByRole = Mapping[str, Corpus]
"""Corpora by role: `forget`, `retain` and, if there is one, `holdout`."""


def _of_answers(role: str) -> dict[str, Aggregation]:
    """Metrics of a corpus that are computed from the tokens of its answers, by full name."""
    return {
        metric.name: how
        for metric in entries.METRICS
        if isinstance(how := metric.aggregate, Aggregation)
        and how.sets == (role,)
        and all(column.score for column in how.columns)
    }


def quick(
    lm: LanguageModel,
    corpora: CorporaByRole,
    *,
    batch_size: int,
    min_k: float,
    track: Track,
    states: Mapping[str, StoredStates] | None = None,
) -> dict[str, float]:
    """The few metrics that are followed during training, without intervals and generation. ``states``: by
    role, where the hidden states of its items are kept."""
    values: dict[str, float] = {}
    scores = {}
    for role, corpus in corpora.items():
        scores[role] = score(
            lm,
            corpus.items,
            batch_size=batch_size,
            min_k=min_k,
            track=track,
            description=f"scoring {role}",
            keep=states[role].put if states and role in states else None,
        )
        for name, how in _of_answers(role).items():
            columns = [scores[role].column(column.name) for column in how.columns]
            if how.combine is mean:
                values[name] = sum(columns[0]) / len(columns[0])
            elif how.combine is ratio:
                values[name] = sum(columns[0]) / sum(columns[1])
    if "forget" in scores and "holdout" in scores:
        forget, holdout = scores["forget"], scores["holdout"]
        nlls = ([-nll for nll in scored.column("answer_nll")] for scored in (forget, holdout))
        values[f"privacy/{LOSS}_auc"] = _auc(*nlls)
        values[f"privacy/{MIN_K}_auc"] = _auc(forget.column(MIN_K), holdout.column(MIN_K))
        values |= _advantages(lm, corpora, scores)
    return values


def _advantages(
    lm: LanguageModel, corpora: CorporaByRole, scores: Mapping[str, CorpusScores]
) -> dict[str, float]:
    """By full name, what the best threshold of each attack adds to guessing."""
    forget, holdout = (
        plain_attacks(
            lm,
            corpora[role].items,
            scores[role].items,
            [corpora[role].record_of(i).text for i in range(len(corpora[role].items))],
        )
        for role in MEMBERSHIP
    )
    return {
        f"privacy/{advantage_of(attack)}": worst_threshold_advantage(values, holdout[attack])
        if is_finite([*values, *holdout[attack]])
        else math.nan
        for attack, values in forget.items()
    }


def _auc(forget: Sequence[float], holdout: Sequence[float]) -> float:
    return auc_of(forget, holdout) if is_finite([*forget, *holdout]) else math.nan


def measure(examiner: Examiner, corpora: CorporaByRole) -> Measured:
    """Everything that the examiner's config asks for, with intervals over items. Of several processes rank 0
    has all results; the others lack marginal information."""
    config, seed = examiner.config, examiner.seed
    how = _how(config, seed)
    corpora = {
        role: corpus.subset(config.max_items, *seeds_of(config, seed)) for role, corpus in corpora.items()
    }
    metrics: dict[str, Estimate] = {}
    by_key: dict[tuple[str, int], dict[str, Any]] = {}
    states = {}
    if config.marginal and "retain" in corpora:
        states = {role: StoredStates(corpora[role].items, examiner.cache) for role in ("retain", "forget")}
    scores = {
        role: _score_corpus(examiner, role, corpus.items, states.get(role))
        for role, corpus in corpora.items()
    }
    corpora, scores, places, notes = _finite(examiner, corpora, scores)
    for role, scored in scores.items():
        for name, made in _of_answers(role).items():
            columns = [scored.column(column.name) for column in made.columns]
            metrics[name] = _ESTIMATES[made.combine](*columns, how)
        for i, item in enumerate(scored.items):
            row = _row(role, i, corpora[role], item)
            row["item"] = places[role][i]  # in the whole corpus: models are compared item by item
            by_key[role, i] = row
    rows = list(by_key.values())
    if "holdout" in scores:
        scored_by = {role: _attacked(examiner, role, corpora[role], scores[role]) for role in MEMBERSHIP}
        for role, of_role in scored_by.items():
            for attack, values in of_role.items():
                if attack != "loss":  # a row has the loss as `answer_nll`
                    for i, value in enumerate(values):
                        by_key[role, i][attack] = value
            bad = [i for i, values in enumerate(zip(*of_role.values(), strict=True)) if not is_finite(values)]
            named = [places[role][i] for i in bad]
            notes += leave_out(named, len(places[role]), model=examiner.name, what=f"{role} (membership)")
            for attack, values in of_role.items():
                of_role[attack] = [value for i, value in enumerate(values) if i not in bad]
        metrics |= membership(scored_by["forget"], scored_by["holdout"], how)
    if states:
        if distributed.is_rank_zero():
            metrics |= _marginal(examiner.lm, states, places, config, seed)
        states.clear()  # frees their files before answers are generated
    answers: list[str] = []
    if config.generate:
        said = dict(zip(places["forget"], _generate(examiner, corpora, metrics, by_key, how), strict=False))
        answers = [said.get(i, "(left out)") for i in range(min(config.examples, max(said, default=-1) + 1))]
    return Measured(metrics, rows, answers, notes)


def _finite(
    examiner: Examiner, corpora: CorporaByRole, scores: Mapping[str, CorpusScores]
) -> tuple[dict[str, Corpus], dict[str, CorpusScores], dict[str, list[int]], list[str]]:
    """Corpora and scores of the items whose scores are finite, the places of these items, and notes."""
    found, kept, places, notes = {}, {}, {}, []
    for role, scored in scores.items():
        bad = {i for i, item in enumerate(scored.items) if not is_finite(item)}
        notes += leave_out(sorted(bad), len(scored.items), model=examiner.name, what=role)
        places[role] = good = [i for i in range(len(scored.items)) if i not in bad]
        kept[role] = CorpusScores([scored.items[i] for i in good])
        corpus = corpora[role]
        nll = corpus.reference_nll
        items = [corpus.items[i] for i in good]
        found[role] = Corpus(corpus.records, items, nll and [nll[i] for i in good])
    return found, kept, places, notes


def against_gold(measured: Measured, gold: Measured, how: How) -> Summary:
    """The metrics that compare with a gold model, which was measured on the same items."""
    own, golds = (
        [[row[MIN_K] for row in found.items if row["set"] == role] for role in MEMBERSHIP]
        for found in (measured, gold)
    )
    return privleak("privacy/privleak", own, golds, how) if all(own) else Summary({})


def _score_corpus(
    examiner: Examiner, role: str, items: Sequence[Item], states: StoredStates | None
) -> CorpusScores:
    config = examiner.config
    if states is None:
        return CorpusScores(examiner.score(items, role))
    return score(  # the cached scores have no hidden states, which are too large to cache
        examiner.lm,
        items,
        batch_size=config.batch_size,
        min_k=config.min_k,
        track=examiner.track,
        description=f"{examiner.name}: scoring {role}",
        keep=states.put,
    )


def _how(config: MetricsConfig, seed: int) -> How:
    return How(config.bootstrap, config.confidence, seed)


def _attacked(examiner: Examiner, role: str, corpus: Corpus, scored: CorpusScores) -> dict[str, list[float]]:
    texts = [corpus.record_of(i).text for i in range(len(corpus.items))]
    return score_attacks(
        examiner, corpus.items, scored.items, texts, role, reference_nll=corpus.reference_nll
    )


def _row(role: str, index: int, corpus: Corpus, item: ItemScore) -> dict[str, Any]:
    record = corpus.record_of(index)
    return {"set": role, "item": index, "key": record.key[:16], "fact": record.fact} | item.stored


def _marginal(
    lm: LanguageModel,
    states: Mapping[str, StoredStates],
    places: Mapping[str, Sequence[int]],
    config: MetricsConfig,
    seed: int,
) -> dict[str, Estimate]:
    head = head_of(lm.model)
    return marginal_information(
        states["retain"].supervised(places["retain"]),
        states["forget"].supervised(places["forget"]),
        lambda h_nD: head(h_nD.to(lm.device)),
        prior=config.prior,
        resamples=min(config.bootstrap, MARGINAL_RESAMPLES),
        confidence=config.confidence,
        seed=seed,
    )


def followed_information(
    lm: LanguageModel,
    corpora: CorporaByRole,
    states: Mapping[str, StoredStates],
    config: MetricsConfig,
    *,
    seed: int,
    support: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """Marginal information without intervals, from the ``states`` of all items; nothing where one of them is
    not finite. ``support``: tokens and their probabilities at each forget position."""
    retain, forget = (
        states[role].supervised(range(len(corpora[role].items))) for role in ("retain", "forget")
    )
    if not (torch.isfinite(retain.h_ND).all() and torch.isfinite(forget.h_ND).all()):
        return {}
    head = head_of(lm.model)

    def logits_of(h_nD: Tensor) -> Tensor:
        return head(h_nD.to(lm.device))

    found = marginal_information(retain, forget, logits_of, prior=config.prior, resamples=1, seed=seed)
    values = {name: estimate.value for name, estimate in found.items()}
    if support is not None:
        share = len(forget.h_ND) / (len(forget.h_ND) + len(retain.h_ND))
        values["marginal/support"] = support_information(
            forget.h_ND, *support, logits_of, share=share, prior=config.prior
        )
    return values


def _generate(
    examiner: Examiner,
    corpora: CorporaByRole,
    metrics: dict[str, Estimate],
    rows: Mapping[tuple[str, int], dict[str, Any]],
    how: How,
) -> list[str]:
    """ROUGE-L and recall of facts from generated answers; returns the answers to the forget questions."""
    answers: dict[str, list[str]] = {}
    for role, corpus in corpora.items():
        # at most as many items per role as forget items, so that generation does not outlast unlearning
        count = min(len(corpus.items), len(corpora["forget"].items))
        chosen = drawn(len(corpus.items), count, seeds_of(examiner.config, examiner.seed))
        asked = [corpus.items[i] for i in chosen]
        answers[role] = examiner.answers(asked, role)
        recalls: dict[Fact, list[float]] = {}
        rouge = []
        for i, item, generated in zip(chosen, asked, answers[role], strict=True):
            row, record = rows[role, i], corpus.record_of(i)
            truth = decode(examiner.lm, question_and_truth(item)[1])
            row["verbatim_rouge_l"] = verbatim_rouge_l(generated, truth)
            rouge.append(row["verbatim_rouge_l"])
            if record.fact is not None and record.value is not None:
                row["recalled"] = int(recalled(generated, record.value))
                recalls.setdefault(record.fact, []).append(float(row["recalled"]))
        metrics[f"{role}/verbatim_rouge_l"] = statistics.mean_estimate(rouge, how)
        if role == "forget":
            metrics |= {
                f"facts/{fact}_recall": statistics.mean_estimate(values, how)
                for fact, values in sorted(recalls.items())
            }
    return answers["forget"]
