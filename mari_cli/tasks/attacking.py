"""The attacks of an audit on each of its models, one model after another, and the card that comes of them."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mari_cli.audit.attack import Case, CaseValues, ChatUse, Evidence, chosen_items, measure_recall
from mari_cli.audit.card import BOUND, DETECTORS, CardRow, card_row, conclusion, least_items, worst
from mari_cli.audit.patching import depth
from mari_cli.audit.registry import ATTACKS
from mari_cli.audit.relearning import steps_to_half
from mari_cli.config import AuditConfig, AuditRun, ModelConfig, UnlearnRun
from mari_cli.data.chat import check_chat
from mari_cli.data.tokenize import encode_question
from mari_cli.errors import UserError, counted
from mari_cli.metrics.statistics import How
from mari_cli.metrics.version import version_of
from mari_cli.models.fingerprint import cache_key, described, weights_hash
from mari_cli.models.layers import readable_layers
from mari_cli.models.load import LanguageModel
from mari_cli.progress import say, track
from mari_cli.storage import json_cache
from mari_cli.storage.hashing import key_hash
from mari_cli.suites.examiner import items_hash
from mari_cli.suites.measured import Measured
from mari_cli.suites.standard import Corpus
from mari_cli.tasks import inputs
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.preflight import Preflight
from mari_cli.tasks.setting import named_beside

CODE = (
    "mari_cli.audit.attack",
    "mari_cli.data.rewordings",
    "mari_cli.metrics.generation",
    "mari_cli.suites.generate",
    "mari_cli.suites.scores",
    "mari_cli.models.layers",
    "mari_cli.audit.answer_tokens",
    *(f"mari_cli.audit.{name}" for name in ATTACKS),
)
"""The modules whose code makes what is kept."""
ROLES = ("target", "model", "gold", "second_gold")
"""The models of an audit, in the order in which they are attacked. The second gold stands for gold in the
cases that set a model beside gold."""


# -- what is asked -------------------------------------------------------------------------------------------


def evidence_of(
    corpora: Mapping[str, Corpus], config: AuditRun | UnlearnRun, lm: LanguageModel, *, roles: Collection[str]
) -> Evidence:
    """What models of the architecture of ``lm`` are asked about; ``roles``: which models there are."""
    assert config.audit is not None
    chosen = chosen_items(corpora["forget"], config.audit.items)
    layers, batch = readable_layers(lm.model), config.metrics.batch_size
    return Evidence(corpora, chosen, config.seed, batch, layers, roles, chat_use(lm), lm.device)


def chat_use(lm: LanguageModel) -> ChatUse:
    """Whether the run of ``lm`` uses its chat template, and whether an attack can."""
    if lm.style.chat:
        return ChatUse.on
    if lm.tokenizer.chat_template is None:
        return ChatUse.none
    try:
        check_chat(lm.style.chat_of(lm.tokenizer), lm.tokenizer)
        encode_question("Where?", lm.tokenizer, replace(lm.style, chat=True))
    except UserError:
        return ChatUse.refused
    return ChatUse.off


def plan(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    """Every case, in the order in which they are tried, and what is left out."""
    found, left_out = [], []
    for name, attack in ATTACKS.items():
        if name in config.attacks:
            cases, notes = attack.cases(config, evidence)
            found += cases
            left_out += notes
    if not found:
        raise UserError(f"no attack is left: {'; '.join(left_out)}", "choose others: `audit.attacks=[plain]`")
    return found, left_out


def announce(config: AuditConfig, lm: LanguageModel, evidence: Evidence) -> tuple[list[Case], list[str]]:
    """Say what the audit will take, and where no verdict can come of it: what `plan` returns."""
    planned, left_out = plan(config, evidence)
    say(_describe_cost(lm, planned, evidence))
    if few := _describe_too_few(config, planned, evidence):
        say(f"note: {few}")
    return planned, left_out


def _describe_too_few(config: AuditConfig, planned: Sequence[Case], evidence: Evidence) -> str | None:
    """What to say where some cases, or all, measure too few items for a verdict."""
    least = least_items(len(planned), config.alpha)
    few = [case for case in planned if case.most_asked(evidence) < least]
    if not few:
        return None
    cases, most = counted(len(planned), "case"), max(case.most_asked(evidence) for case in few)
    who = f"{len(few)} of {cases} can get no verdict, as {few[0].full_name}"
    if len(few) == len(planned):
        who = "no verdict can come of this audit"
    return (
        f"{who}: with {cases} at `audit.alpha={config.alpha:g}` each needs {counted(least, 'item')}, and "
        f"{most} are measured; give more forget items, a larger `audit.items`, or fewer attacks "
        f"(`audit.attacks=[plain]` needs {least_items(1, config.alpha)})"
    )


def passes_of(planned: Sequence[Case], evidence: Evidence, models: int) -> int:
    """Forward passes of one item that the audit of so many models takes, about."""
    return round(sum(case.passes for case in planned) * len(evidence.chosen) * models)


def _describe_cost(lm: LanguageModel, planned: Sequence[Case], evidence: Evidence) -> str:
    """What the audit will take, from one batch that is timed."""
    models = len(evidence.roles)
    some = evidence.items[: evidence.batch_size]
    begun = time.monotonic()
    measure_recall(lm, some, prompted=evidence.has_prompts, batch_size=evidence.batch_size)
    each = (time.monotonic() - begun) / len(some)
    passes = passes_of(planned, evidence, models)
    minutes = passes * each / 60
    return (
        f"audit: {counted(len(planned), 'case')} on {counted(len(evidence.chosen), 'item')} of "
        f"{counted(models, 'model')}: about {passes:,.0f} forward passes, {minutes:.1f} min"
    )


def second_gold_of(config: AuditRun | UnlearnRun, flight: Preflight[Any]) -> ModelConfig | None:
    """The model that `second_gold` names; refused now where it cannot be loaded or has another tokenizer."""
    model = named_beside("second_gold", config, flight.setting)
    if model is not None:
        known = inputs.of_model_beside(flight.load(model), "the second gold model", flight.corpora)
        flight.models.update(known)
    return model


# -- the attacks ---------------------------------------------------------------------------------------------


@dataclass
class Audit:
    """The cases of an audit, and what each has found in each model so far."""

    config: AuditConfig
    evidence: Evidence
    planned: Sequence[Case]
    cache: Path
    load: Mapping[str, Callable[[], LanguageModel]]
    """By role, how the model is loaded."""
    check: Callable[[str, str], None] = lambda role, weights: None
    """Called with role and weights of each model before it is attacked; may raise UserError."""
    found: dict[str, dict[str, CaseValues]] = field(default_factory=dict)
    """By the full name of the case and by role."""
    weights: dict[str, str] = field(default_factory=dict)
    _last: tuple[str, LanguageModel] | None = None
    """The model that was set beside the attacked one last, and its role: one at a time is in memory."""

    def run(self) -> None:
        """Attack every model with every case."""
        for role in [role for role in ROLES if role in self.load]:
            lm = self.load[role]()
            self.weights[role] = self.weights.get(role) or weights_hash(lm.model)
            self.check(role, self.weights[role])
            stands_for = "gold" if role == "second_gold" else role
            asked = [
                case
                for case in self.planned
                if role in ("target", "model") or case.against_gold != (role == "gold")
            ]
            for case in track(asked, f"{role}: attacks", len(asked)):
                self.found.setdefault(case.full_name, {})[stands_for] = self._ask(lm, role, case)

    def _ask(self, lm: LanguageModel, role: str, case: Case) -> CaseValues:
        """From the cache where the same model was asked the same before."""
        evidence = replace(self.evidence, beside=self._beside)
        asked = {
            "case": dict(case.settings),
            "beside": {other: self._weights_of(other) for other in case.beside},
            "attack": case.attack,
            "items": items_hash(evidence.items),
            "values": [record.value for record in evidence.records],
            "others": {role: items_hash(corpus.items) for role, corpus in evidence.corpora.items()},
            "chosen": list(evidence.chosen),
            "seed": evidence.seed,
            "batch_size": evidence.batch_size,
        }
        key = key_hash(cache_key("audit", version_of(*CODE), described(lm, self.weights[role]), asked))
        path = self.cache / "audit" / key[:2] / f"{key}.json"
        kept = json_cache.read(path)
        if kept is None:
            found = ATTACKS[case.attack].run(lm, case, evidence)
            kept = json_cache.write(path, {"values": found.values, "detail": found.detail})
        return CaseValues(kept["values"], kept["detail"])

    def _beside(self, role: str) -> LanguageModel:
        if self._last is None or self._last[0] != role:
            self._last = None
            self._last = (role, self.load[role]())
        return self._last[1]

    def _weights_of(self, role: str) -> str:
        if role not in self.weights:
            self.weights[role] = weights_hash(self._beside(role).model)
        return self.weights[role]

    # -- the card --------------------------------------------------------------------------------------------

    def card(self, how: How) -> tuple[list[CardRow], list[str]]:
        """The worst row of each group, and what they say together in sentences, the main one first."""
        rows = worst(self._rows(how))
        said = [conclusion(rows, gold="gold" in self.load)]
        return rows, [*said, *([BOUND] if any(row.attack in DETECTORS for row in rows) else [])]

    def _rows(self, how: How) -> list[CardRow]:
        """A row for each case that any item was asked."""
        rows = []
        whole = self.found.get("plain/greedy", {}).get("target")
        for case in self.planned:
            of_case = self.found[case.full_name]
            if not all(any(value is not None for value in of_model.values) for of_model in of_case.values()):
                continue
            row = card_row(
                ATTACKS[case.attack],
                case,
                of_case,
                tests=len(self.planned),
                alpha=self.config.alpha,
                margin=self.config.margin,
                how=how,
            )
            if case.attack == "relearning" and whole:
                half = sum(value or 0.0 for value in whole.values) / len(whole.values)
                for detail in row.detail.values():
                    detail["steps_to_half"] = steps_to_half(detail, half)
            if case.attack == "patching" and (erased := depth(row.detail)) is not None:
                row.detail["model"]["depth"] = erased
            rows.append(row)
        return rows

    def models(self, rows: Sequence[CardRow]) -> dict[str, Examined]:
        """Each model with its numbers under `audit/ATTACK/CASE`, and the values of single items."""
        result = {}
        for role in [role for role in ROLES[:3] if role in self.load]:
            weights = self.weights[role]
            metrics = {
                f"audit/{row.attack}/{row.case}": row.models[role] for row in rows if role in row.models
            }
            result[role] = Examined(Measured(metrics, self._items(role), []), [], weights)
        return result

    def _items(self, role: str) -> list[dict[str, Any]]:
        """A line for each measured item with its value in every case that asks about it."""
        lines: dict[tuple[str, int], dict[str, Any]] = {}
        for case in self.planned:
            of_case = self.found[case.full_name]
            if role not in of_case:
                continue
            corpus, values = self.evidence.corpora[case.corpus], of_case[role].values
            for place, value in zip(self.evidence.places(case.corpus), values, strict=True):
                record = {"item": place, "key": corpus.record_of(place).key[:16]}
                line = lines.setdefault(
                    (case.corpus, place), {"suite": "audit", "set": case.corpus, **record}
                )
                if value is not None:
                    line[case.full_name.replace("/", "_")] = value
        return list(lines.values())
