"""The audit with which a run of `mari unlearn` ends, planned and told before its first step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from mari_cli import distributed
from mari_cli.audit.attack import Case, Evidence
from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.errors import UserError
from mari_cli.metrics.statistics import How
from mari_cli.models.load import LanguageModel
from mari_cli.storage.layout import CHECKPOINT
from mari_cli.tasks.attacking import Audit, announce, evidence_of, second_gold_of
from mari_cli.tasks.preflight import Preflight
from mari_cli.tasks.record import RunRecord
from mari_cli.tasks.setting import cache_directory


@dataclass(frozen=True)
class ClosingAudit:
    flight: Preflight[UnlearnRun]
    evidence: Evidence
    planned: Sequence[Case]
    left_out: Sequence[str]
    second_gold: ModelConfig | None

    @classmethod
    def plan(cls, flight: Preflight[UnlearnRun], lm: LanguageModel) -> "ClosingAudit | None":
        """What the run is to be asked at its end, with its cost told; None where it asks for no audit. ``lm``
        has the architecture of the run's models."""
        config = flight.config
        if config.audit is None:
            return None
        if distributed.size() > 1:
            raise UserError(
                f"`audit` runs in one process, and this run has {distributed.size()}",
                "leave it out, and run `mari audit RUN` afterwards",
            )
        second = second_gold_of(config, flight)
        roles = roles_of(config, second_gold=second is not None)
        evidence = evidence_of(flight.corpora, config, lm, roles=roles)
        planned, left_out = announce(config.audit, lm, evidence)
        return cls(flight, evidence, planned, left_out, second)

    def run(
        self, record: RunRecord, target: ModelConfig, gold: ModelConfig | None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Attack target, the model that the run has made, and gold: the rows of the card, and notes."""
        config = self.flight.config
        assert config.audit is not None
        made = config.model.at(str(record.run.path / CHECKPOINT))
        models = {"target": target, "model": made, "gold": gold, "second_gold": self.second_gold}
        load = {role: partial(self.flight.load, model) for role, model in models.items() if model}
        audit = Audit(config.audit, self.evidence, self.planned, cache_directory(config), load)
        audit.run()
        rows, said = audit.card(How(config.metrics.bootstrap, config.metrics.confidence, config.seed))
        return [_of_run(asdict(row)) for row in rows], [*said, *self.left_out]


def roles_of(config: UnlearnRun, *, second_gold: bool) -> list[str]:
    """The models that there will be at the end of a run."""
    has_gold = config.finetunes_gold or config.gold not in ("none", "auto")
    return ["target", "model", *(["gold"] if has_gold else []), *(["second_gold"] if second_gold else [])]


def _of_run(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with the name that a run gives to the model that it has made: `unlearned`."""
    parts = {
        part: {"unlearned" if role == "model" else role: found for role, found in row[part].items()}
        for part in ("models", "detail")
    }
    return {**row, **parts}
