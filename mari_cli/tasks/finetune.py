"""`mari finetune`: teach a model the corpora (a target), or the retain corpus alone (a gold model)."""

from typing import Any

from mari_cli.config import Corpora, FinetuneRun
from mari_cli.errors import counted
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.lora import describe_adapters, has_adapters, merge_adapters
from mari_cli.options import RunOptions
from mari_cli.progress import say
from mari_cli.storage.layout import STATE
from mari_cli.tasks.assessment import Assessment
from mari_cli.tasks.preflight import check_run, make_trainable
from mari_cli.tasks.run_record import record_run
from mari_cli.tasks.training import cut_metrics, describe_skipped, fine_tune, save_checkpoint


def finetune(config: FinetuneRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    flight, lm = check_run(config, options)
    base_hash = weights_hash(lm.model)
    make_trainable(config, lm)
    roles = ("forget", "retain") if config.corpora is Corpora.both else (config.corpora.value,)
    described = " + ".join(roles)

    with record_run(flight) as record:
        assessment = Assessment.begin(flight)
        if has_adapters(lm.model):
            say(f"training {describe_adapters(lm.model)}")
        notes = [*flight.notes, *cut_metrics(record.run, base_hash)]
        outcome = fine_tune(
            lm,
            [item for role in roles for item in flight.corpora[role].items],
            config.train,
            weights=base_hash,
            seed=config.seed,
            state_dir=record.run.path / STATE,
            log=record.log,
            description=f"fine-tuning on {described}",
        )
        say(f"{outcome.stopped_by or 'all epochs done'} after {counted(outcome.steps, 'step')}")
        save_checkpoint(record.run, lm, config, config.model, base_hash)
        merge_adapters(lm.model)
        assessment.take("model", lm, afresh=True)
        return assessment.finish(
            record,
            lm,
            name=f"{config.model.name} on {described}",
            notes=[*notes, *describe_skipped(outcome)],
            outcome=outcome,
        )
