"""`mari audit`: does it come back? Before, now and gold under the same attacks, and a verdict in words."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from mari_cli.config import AuditRun
from mari_cli.errors import UserError, shell_path
from mari_cli.metrics.statistics import How
from mari_cli.options import RunOptions
from mari_cli.places import is_there, place
from mari_cli.storage.layout import CHECKPOINT, MANIFEST, RUN
from mari_cli.storage.manifest import changes, read_manifest
from mari_cli.storage.run import Run
from mari_cli.tasks.attacking import ROLES, Audit, announce, evidence_of, second_gold_of
from mari_cli.tasks.models_of_run import places_of
from mari_cli.tasks.preflight import check_run
from mari_cli.tasks.run_record import record_run
from mari_cli.tasks.setting import cache_directory


def audit(config: AuditRun, options: RunOptions) -> dict[str, Any]:
    """Run it and return the result (result.json). Bad input is refused before anything is written."""
    config, expected, notes = resolve_auto(config)
    flight, lm = check_run(config, options)
    second = second_gold_of(config, flight)
    models = {"target": flight.before, "model": config.model, "gold": flight.gold, "second_gold": second}
    sources = {role: model for role in ROLES if (model := models[role])}
    evidence = evidence_of(flight.corpora, config, lm, roles=sources.keys())
    planned, left_out = announce(config.audit, lm, evidence)

    with record_run(flight) as record:
        del lm
        attacks = Audit(
            config.audit,
            evidence,
            planned,
            cache_directory(config),
            {role: partial(flight.load, source) for role, source in sources.items()},
            partial(require_weights, expected=expected),
        )
        attacks.run()
        rows, said = attacks.card(How(config.metrics.bootstrap, config.metrics.confidence, config.seed))
        return record.finish(
            name=config.model.name,
            models=attacks.models(rows),
            notes=[*said, *notes, *flight.notes, *left_out],
            audit=[asdict(row) for row in rows],
        )


# -- what is audited, and beside what ------------------------------------------------------------------------


def resolve_auto(config: AuditRun) -> tuple[AuditRun, dict[str, str], list[str]]:
    """The configuration with the run's own target and gold where they are `auto`; the weights that these must
    have, by role; notes. Refused where the run is not finished, or no longer what its manifest says."""
    run = place(config.model.path or "")
    if (run / RUN).is_file() and not Run(run).finished:
        hint = f"finish it with `--resume {shell_path(run)}`"
        if (run / CHECKPOINT).is_dir():
            hint += f", or audit the model that it has so far: `{run / CHECKPOINT}`"
        raise UserError(f"run `{run}` is not finished, so that nothing says what it was made from", hint)
    expected: dict[str, str] = {}
    places: Mapping[str, str] = {}
    if (run / MANIFEST).is_file():
        manifest = read_manifest(run)
        changed = changes(run, manifest)
        if changed:
            name, why = next(iter(changed.items()))
            raise UserError(
                f"`{run}` is not what its manifest says: `{name}` {why}",
                f"`mari verify {shell_path(run)}` lists what has changed; put it back, or audit "
                f"`{run / 'checkpoint'}`",
            )
        weights = manifest["models"]
        expected = {"model": next(weights[r] for r in ("unlearned", "model") if r in weights)}
        expected |= {role: weights[role] for role in ("target", "gold") if role in weights}
        places = places_of(run, manifest)
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
