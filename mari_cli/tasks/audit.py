"""`mari audit`: does it come back? Before, now and gold under the same attacks, and a verdict in words."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mari_cli.audit.attack import Case, CaseValues, Evidence, chosen_items, measure_recall
from mari_cli.audit.card import CardRow, card_row, conclusion, worst
from mari_cli.audit.registry import ATTACKS
from mari_cli.audit.relearning import steps_to_half
from mari_cli.config import AuditRun, ModelConfig
from mari_cli.errors import UserError, counted
from mari_cli.metrics.statistics import How
from mari_cli.metrics.version import version_of
from mari_cli.models.fingerprint import cache_key, described, weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.options import RunOptions
from mari_cli.places import is_there, place
from mari_cli.progress import say, track
from mari_cli.storage import json_cache
from mari_cli.storage.hashing import key_hash
from mari_cli.storage.layout import MANIFEST, RUN
from mari_cli.storage.manifest import changes, read_manifest
from mari_cli.suites.examiner import items_hash
from mari_cli.suites.measured import Measured
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.preflight import check
from mari_cli.tasks.run_record import record_run
from mari_cli.tasks.setting import cache_directory, model_beside

CODE = ("mari_cli.audit.attack", *(f"mari_cli.audit.{name}" for name in ATTACKS))
"""The modules whose code makes what is kept."""
ROLES = ("target", "model", "gold")


def audit(config: AuditRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    config, expected, notes = settle(config)
    flight, lm = check(config, options)
    before = (
        None
        if config.before == "none"
        else model_beside(config.before, f"the model before at `{config.before}`", config, flight.setting)
    )
    corpus = flight.corpora["forget"]
    evidence = Evidence(
        flight.corpora,
        chosen_items(corpus, config.audit.items),
        config.seed,
        config.metrics.batch_size,
    )
    planned, left_out = plan(config, evidence)
    notes = [*notes, *flight.notes, *left_out]
    models: dict[str, ModelConfig | None] = {"target": before, "model": config.model, "gold": flight.gold}
    sources = {role: model for role in ROLES if (model := models[role])}
    say(describe_cost(lm, planned, evidence, len(sources)))

    with record_run(flight) as record:
        del lm
        found: dict[str, dict[str, CaseValues]] = {case.full_name: {} for case in planned}
        hashes = {}
        for role, source in sources.items():
            subject = flight.load(source)
            hashes[role] = weights_hash(subject.model)
            require_weights(role, hashes[role], expected)
            asking = AuditedModel(subject, role, hashes[role], evidence, cache_directory(config))
            for case in track(planned, f"{role}: attacks", len(planned)):
                found[case.full_name][role] = asking.ask(case)
        how = How(config.metrics.bootstrap, config.metrics.confidence, config.seed)
        rows = rows_of(config, planned, found, how)
        shown = worst(rows)
        said = conclusion(shown, gold="gold" in sources)
        return record.finish(
            task=config.task,
            name=config.model.name,
            loss=None,
            models=_as_models(shown, found, hashes, evidence),
            examples=[],
            outcome=None,
            compute=flight.setting.compute,
            notes=[said, *notes],
            audit=[row.as_json() for row in shown],
        )


# -- what is audited, and beside what ------------------------------------------------------------------------


def settle(config: AuditRun) -> tuple[AuditRun, dict[str, str], list[str]]:
    """The configuration with the run's own target and gold where they are `auto`; the weights that these must
    have, by role; notes. Refused where the run is no longer what its manifest says."""
    run = place(config.model.path or "")
    expected: dict[str, str] = {}
    places: Mapping[str, str] = {}
    if (run / MANIFEST).is_file():
        manifest = read_manifest(run)
        changed = changes(run, manifest)
        if changed:
            name, why = next(iter(changed.items()))
            raise UserError(
                f"`{run}` is not what its manifest says: `{name}` {why}",
                f"`mari verify {run}` lists what has changed; put it back, or audit `{run / 'checkpoint'}`",
            )
        weights = manifest["models"]
        expected = {"model": next(weights[r] for r in ("unlearned", "model") if r in weights)}
        expected |= {role: weights[role] for role in ("target", "gold") if role in weights}
        places = manifest["places"]
    notes, settled = [], {"before": config.before, "gold": config.gold}
    for key, role in (("before", "target"), ("gold", "gold")):
        if getattr(config, key) != "auto":
            expected.pop(role, None)
            continue
        path = places.get(role)
        if path and not is_there(path):
            raise UserError(
                f"the {role} of `{run}` is no longer at `{path}`",
                f"give it as `{key}=PATH`, or leave it out with `{key}=none`",
            )
        if not path:
            where = "has no manifest that names one" if (run / RUN).is_file() else "is no run"
            notes.append(f"there is no {role} beside it: `{config.model.path}` {where}")
        settled[key] = path or "none"
    return replace(config, before=settled["before"], gold=settled["gold"]), expected, notes


def require_weights(role: str, weights: str, expected: Mapping[str, str]) -> None:
    """Refuse a model that is no longer the one that the run was measured beside."""
    if expected.get(role, weights) != weights:
        raise UserError(
            f"the weights of the {role} are not those that the manifest names",
            "it was written anew since; give another one by its path",
        )


# -- what is asked -------------------------------------------------------------------------------------------


def plan(config: AuditRun, evidence: Evidence) -> tuple[list[Case], list[str]]:
    """Every case, in the order in which they are tried, and what is left out."""
    found, left_out = [], []
    for name, attack in ATTACKS.items():
        if name in config.audit.attacks:
            cases, notes = attack.cases(config.audit, evidence)
            found += cases
            left_out += notes
    if not found:
        raise UserError(f"no attack is left: {'; '.join(left_out)}", "choose others: `audit.attacks=[plain]`")
    return found, left_out


def describe_cost(lm: LanguageModel, planned: Sequence[Case], evidence: Evidence, models: int) -> str:
    """What the audit will take, from one batch that is timed."""
    some = evidence.items[: evidence.batch_size]
    begun = time.monotonic()
    measure_recall(lm, some, prompted=evidence.has_prompts, batch_size=evidence.batch_size)
    each = (time.monotonic() - begun) / len(some)
    passes = sum(case.passes for case in planned) * len(evidence.chosen) * models
    minutes = passes * each / 60
    return (
        f"{counted(len(planned), 'case')} on {counted(len(evidence.chosen), 'item')} of "
        f"{counted(models, 'model')}: about {passes:,.0f} forward passes, {minutes:.1f} min"
    )


@dataclass(frozen=True)
class AuditedModel:
    """One model, and what is kept of what it was asked."""

    lm: LanguageModel
    role: str
    weights: str
    evidence: Evidence
    cache: Path

    def ask(self, case: Case) -> CaseValues:
        """From the cache where the same model was asked the same before."""
        asked = {
            "case": dict(case.settings),
            "attack": case.attack,
            "items": items_hash(self.evidence.items),
            "values": [record.value for record in self.evidence.records],
            "others": {role: items_hash(corpus.items) for role, corpus in self.evidence.corpora.items()},
            "chosen": list(self.evidence.chosen),
            "seed": self.evidence.seed,
            "batch_size": self.evidence.batch_size,
        }
        key = key_hash(cache_key("audit", version_of(*CODE), described(self.lm, self.weights), asked))
        path = self.cache / "audit" / key[:2] / f"{key}.json"
        kept = json_cache.read(path)
        if kept is None:
            found = ATTACKS[case.attack].run(self.lm, case, self.evidence)
            kept = json_cache.write(path, {"values": found.values, "detail": found.detail})
        return CaseValues(kept["values"], kept["detail"])


# -- the card ------------------------------------------------------------------------------------------------


def rows_of(
    config: AuditRun, planned: Sequence[Case], found: Mapping[str, Mapping[str, CaseValues]], how: How
) -> list[CardRow]:
    """A row for each case that any item was asked."""
    rows = []
    whole = found.get("plain/greedy", {}).get("target")
    for case in planned:
        of_case = found[case.full_name]
        if not all(any(value is not None for value in of_model.values) for of_model in of_case.values()):
            continue
        row = card_row(
            ATTACKS[case.attack],
            case,
            of_case,
            tests=len(planned),
            alpha=config.audit.alpha,
            margin=config.audit.margin,
            how=how,
        )
        if case.attack == "relearning" and whole:
            half = sum(value or 0.0 for value in whole.values) / len(whole.values)
            for detail in row.detail.values():
                detail["steps_to_half"] = steps_to_half(detail, half)
        rows.append(row)
    return rows


def _as_models(
    rows: Sequence[CardRow],
    found: Mapping[str, Mapping[str, CaseValues]],
    hashes: Mapping[str, str],
    evidence: Evidence,
) -> dict[str, Examined]:
    """Each model with its numbers under `audit/ATTACK/CASE`, and the values of single items."""
    result = {}
    for role, weights in hashes.items():
        metrics = {f"audit/{row.attack}/{row.case}": row.models[role] for row in rows}
        items = [
            {
                "suite": "audit",
                "set": "forget",
                "item": evidence.chosen[i],
                "key": evidence.records[i].key[:16],
                **{
                    name.replace("/", "_"): of_case[role].values[i]
                    for name, of_case in found.items()
                    if of_case[role].values[i] is not None
                },
            }
            for i in range(len(evidence.chosen))
        ]
        result[role] = Examined(Measured(metrics, items, []), [], weights)
    return result
