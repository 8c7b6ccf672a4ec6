"""The models of one run, measured one after another, and the end that all tasks share: the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mari_cli.config import RunConfig
from mari_cli.models.load import LanguageModel
from mari_cli.suites.standard import Corpus
from mari_cli.suites.suite import Row
from mari_cli.tasks.beside import compare_models
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.measuring import (
    ask_reference,
    examples,
    measure_model,
    summarise_models,
    with_reference_losses,
)
from mari_cli.tasks.preflight import Preflight
from mari_cli.tasks.record import RunRecord
from mari_cli.train.loop import Outcome


@dataclass
class Assessment:
    """The questions for the models of a run, and the answers of each model so far."""

    flight: Preflight[RunConfig]
    corpora: dict[str, Corpus]
    reference_rows: list[Row]
    """Rows of the reference of membership inference on the suite."""
    models: dict[str, Examined] = field(default_factory=dict)
    """By role: `target`, `unlearned`, `gold`; or `model`."""

    @classmethod
    def begin(cls, flight: Preflight[Any]) -> "Assessment":
        """Ask the reference of membership inference first, where there is one."""
        corpora, rows = flight.corpora, []
        if flight.reference:
            lm = flight.load(flight.reference)
            if corpora:
                corpora = with_reference_losses(lm, corpora, flight.config)
            rows = ask_reference(lm, flight.suite, flight.config)
        return cls(flight, corpora, rows)

    def take(self, role: str, lm: LanguageModel, *, afresh: bool = False) -> Examined:
        """Measure ``lm`` as ``role``; with ``afresh`` metrics are computed anew though the cache has them."""
        self.models[role] = measure_model(
            lm,
            self.corpora,
            self.flight.suite,
            self.flight.config,
            name=role,
            reference=self.reference_rows,
            afresh=afresh,
        )
        return self.models[role]

    def finish(
        self,
        record: RunRecord,
        lm: LanguageModel,
        *,
        name: str,
        notes: Sequence[str],
        loss: str | None = None,
        outcome: Outcome | None = None,
        requests: Mapping[str, Any] | None = None,
        audit: Sequence[Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Set the models side by side, and write items, examples, report and result; returns the result.

        ``lm`` decodes the questions of the examples. ``notes`` come before those on the measurements.
        ``requests`` and ``audit``: what `RunRecord.finish` says of them.
        """
        config = self.flight.config
        models, missing = summarise_models(self.models, self.flight.suite, config.metrics, seed=config.seed)
        found = compare_models(models, config.metrics, seed=config.seed)
        return record.finish(
            name=name,
            loss=loss,
            models=found.models,
            examples=examples(lm, self.corpora, models, config.metrics, seed=config.seed),
            outcome=outcome,
            compute=self.flight.setting.compute,
            notes=[*notes, *missing, *found.notes],
            entered=found.entered,
            requests=requests,
            audit=audit,
        )
