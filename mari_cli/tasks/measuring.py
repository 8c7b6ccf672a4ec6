"""Measure a model, once: the same weights on the same data under the same settings are not measured again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mari_cli import distributed, runs
from mari_cli.config import MetricsConfig
from mari_cli.metrics.estimate import Estimate
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.progress import Track, say
from mari_cli.suites.generate import decode, question_and_truth
from mari_cli.suites.standard import Corpus, Measured, measure
from mari_cli.tasks.setting import items_hash

DEFINITIONS = 1
"""Part of every cache key: raise it when the definition of a metric changes."""


def measured(
    lm: LanguageModel,
    corpora: Mapping[str, Corpus],
    config: MetricsConfig,
    *,
    seed: int,
    cache: Path | None,
    track: Track,
    name: str,
) -> tuple[Measured, str]:
    """`measure`, and the hash of the weights; looked up in ``cache`` first where one is given."""
    weights = weights_hash(lm.model)
    key = runs.content_hash(
        {
            "definitions": DEFINITIONS,
            "weights": weights,
            "items": {role: items_hash(corpus.items) for role, corpus in corpora.items()},
            "records": {role: [r.key for r in corpus.records] for role, corpus in corpora.items()},
            "facts": [[r.fact, r.value] for r in corpora["forget"].records],
            "config": asdict(config),
            "seed": seed,
            "device": lm.device.type,
            "precision": lm.compute.precision,
            "packed": lm.layout.packed,
        }
    )[:24]
    path = cache / "measured" / f"{key}.json" if cache else None
    if path and distributed.agreed(path.exists()):
        say(f"{name}: measured before")
        return _read(json.loads(path.read_text())), weights
    say(f"{name}: measuring")
    result = measure(lm, corpora, config, seed=seed, track=track, name=name)
    result = distributed.agreed(result)
    if path:
        if distributed.first():
            runs.atomic_write_json(path, asdict(result))
        distributed.wait()
        # what a cache gives back must be what a first run sees, to the last bit and the last missing value
        result = _read(json.loads(path.read_text()))
    return result, weights


def _read(content: dict[str, Any]) -> Measured:
    metrics = {
        name: Estimate(
            **{**estimate, "value": float("nan") if estimate["value"] is None else estimate["value"]}
        )
        for name, estimate in content["metrics"].items()
    }
    return Measured(metrics, content["items"], content["answers"])


def examples(
    lm: LanguageModel,
    corpora: Mapping[str, Corpus],
    answers: Mapping[str, list[str]],
    config: MetricsConfig,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """examples.json: the first forget questions, the truth, and what each model (by role) said.

    ``config`` and ``seed`` as the answers were measured with: they draw the same questions again.
    """
    forget = corpora["forget"].subset(config.max_items, seed)
    rows = []
    for i in range(min((len(texts) for texts in answers.values()), default=0)):
        record, item = forget.record_of(i), forget.items[i]
        question, truth = question_and_truth(item)
        texts = {"prompt": record.prompt, "answer": record.text}
        if record.prompt is None:
            texts = {"prompt": decode(lm, question), "answer": decode(lm, truth)}
        rows.append(texts | {role: said[i] for role, said in answers.items()})
    return rows


def as_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}
