"""Measure a model. What was measured before of the same weights, data and settings comes from the cache."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mari_cli import distributed
from mari_cli.config import MetricsConfig, RunConfig
from mari_cli.metrics import corpora as corpora_metrics
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import How
from mari_cli.metrics.version import version_of
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.progress import say, track
from mari_cli.storage import json_cache
from mari_cli.storage.hashing import key_hash
from mari_cli.suites.attacks import with_reference
from mari_cli.suites.benchmarks import OF_BENCHMARKS, benchmarks
from mari_cli.suites.draws import seeds_of
from mari_cli.suites.examiner import Examiner, items_hash
from mari_cli.suites.finite import finite_rows
from mari_cli.suites.generate import decode, question_and_truth
from mari_cli.suites.measured import Measured
from mari_cli.suites.registry import METRICS
from mari_cli.suites.standard import MEMBERSHIP, Corpus, against_gold, measure
from mari_cli.suites.suite import Row, Suite
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.setting import cache_directory

CODE = (
    "mari_cli.metrics.statistics",
    *(
        f"mari_cli.suites.{module}"
        for module in ("standard", "scores", "generate", "gradients", "attacks", "finite")
    ),
)
"""Modules, besides those of the metrics, whose code makes numbers of a model's answers: part of cache
keys."""


def measure_model(
    lm: LanguageModel,
    corpora: Mapping[str, Corpus],
    suite: Suite | None,
    config: RunConfig,
    *,
    name: str,
    reference: Sequence[Row] = (),
    afresh: bool = False,
) -> Examined:
    """Ask one model the questions of the corpora (where there are any), of the suite, and the benchmarks.

    Its answers are kept in the cache. With ``afresh`` the metrics are computed anew from these answers.
    ``reference``: what `ask_reference` returns.
    """
    examiner = _examiner(lm, config, name)
    if corpora:
        found = measure_corpora(examiner, corpora, afresh=afresh)
    else:
        say(f"{name}: measuring")
        found = Measured({}, [], [])
    figures, answered = benchmarks(examiner)
    found = replace(found, metrics=found.metrics | figures, items=found.items + answered)
    asked: list[Row] = []
    if suite is not None:
        rows = [{"suite": suite.name} | row for row in distributed.broadcast(suite.examine(examiner))]
        asked, notes = finite_rows(with_reference(rows, reference), model=name)
        found = replace(found, notes=found.notes + notes)
    return Examined(found, asked, examiner.weights)


def summarise_models(
    models: Mapping[str, Examined], suite: Suite | None, config: MetricsConfig, *, seed: int
) -> tuple[dict[str, Examined], list[str]]:
    """Notes, and for each model the metrics of the suite and those that compare it with gold. All models,
    gold among them, have been asked before."""
    how = How(config.bootstrap, config.confidence, seed)
    gold = models.get("gold")
    notes: dict[str, None] = {}
    result = {}
    for role, of_model in models.items():
        found = of_model.measured
        notes |= dict.fromkeys(found.notes)
        summaries = [against_gold(found, gold.measured, how)] if gold else []
        if suite is not None:
            summaries.append(suite.summarise(of_model.asked, gold.asked if gold else None, how))
        metrics = dict(found.metrics)
        for summary in summaries:
            metrics |= summary.metrics
            notes |= dict.fromkeys(summary.notes)
        result[role] = replace(of_model, measured=replace(found, metrics=metrics))
    return result, list(notes)


def with_reference_losses(
    lm: LanguageModel, corpora: Mapping[str, Corpus], config: RunConfig
) -> dict[str, Corpus]:
    """The corpora with the losses of ``lm``, the reference of membership inference, on forget and holdout."""
    examiner = _examiner(lm, config, "reference")
    found = dict(corpora)
    for role in MEMBERSHIP:
        scores = examiner.score(corpora[role].items, role)
        found[role] = replace(corpora[role], reference_nll=[score.answer_nll for score in scores])
    return found


def ask_reference(lm: LanguageModel, suite: Suite | None, config: RunConfig) -> list[Row]:
    """The rows of ``lm``, the reference of membership inference, on a suite that asks about membership."""
    if suite is None or f"{suite.name}/reference_auc" not in METRICS:
        return []
    examiner = _examiner(lm, config, "reference", generate=False, gradnorm=False, benchmarks=[])
    return distributed.broadcast(suite.examine(examiner))


def _examiner(lm: LanguageModel, config: RunConfig, name: str, **changes: Any) -> Examiner:
    """``changes``: settings of `metrics` that are other than in ``config``."""
    metrics = replace(config.metrics, **changes)
    return Examiner(lm, metrics, config.seed, weights_hash(lm.model), cache_directory(config), track, name)


def measure_corpora(examiner: Examiner, corpora: Mapping[str, Corpus], *, afresh: bool = False) -> Measured:
    """The metrics of the corpora, from the examiner's cache where they are there."""
    config, name = examiner.config, examiner.name
    asked = {
        "items": {role: items_hash(corpus.items) for role, corpus in corpora.items()},
        "records": {role: [r.key for r in corpus.records] for role, corpus in corpora.items()},
        "reference": {role: corpus.reference_nll for role, corpus in corpora.items()},
        "facts": [[r.fact, r.value] for r in corpora["forget"].records],
        "config": {name: value for name, value in asdict(config).items() if name not in OF_BENCHMARKS},
        "seed": examiner.seed,
        "metrics": {metric.name: metric.version for metric in corpora_metrics.METRICS},
    }
    key = key_hash(examiner.key("measured", version_of(*CODE), asked))
    path = None if afresh or examiner.cache is None else examiner.cache / "measured" / f"{key}.json"
    if path and (content := json_cache.read(path)) is not None:
        say(f"{name}: measured before")
        return _read(content)
    say(f"{name}: measuring")
    result = distributed.broadcast(measure(examiner, corpora))
    # the cache must return what the first run computed: every bit, and every missing value
    return _read(json_cache.write(path, asdict(result))) if path else result


def _read(content: dict[str, Any]) -> Measured:
    metrics = {
        name: Estimate(
            **{**estimate, "value": float("nan") if estimate["value"] is None else estimate["value"]}
        )
        for name, estimate in content["metrics"].items()
    }
    return Measured(metrics, content["items"], content["answers"], content["notes"])


def examples(
    lm: LanguageModel,
    corpora: Mapping[str, Corpus],
    models: Mapping[str, Examined],
    config: MetricsConfig,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """examples.json: the first forget questions, the truth, and what each model (by role) said.

    ``config`` and ``seed`` as the answers were measured with: they draw the same questions again.
    """
    if not corpora:
        return []
    answers = {role: found.measured.answers for role, found in models.items()}
    forget = corpora["forget"].subset(config.max_items, *seeds_of(config, seed))
    rows = []
    for i in range(min((len(texts) for texts in answers.values()), default=0)):
        record, item = forget.record_of(i), forget.items[i]
        question, truth = question_and_truth(item)
        texts = {"prompt": record.prompt, "answer": record.text}
        if record.prompt is None:
            texts = {"prompt": decode(lm, question), "answer": decode(lm, truth)}
        rows.append(texts | {role: said[i] for role, said in answers.items()})
    return rows
