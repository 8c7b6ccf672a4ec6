"""Requests that arrive one after another: each an ordinary run that begins with the model the last one left.

`OUT/01-NAME/`, `OUT/02-NAME/`, … are runs of `mari unlearn`, with a manifest each; `OUT/` itself is a run
over all of it: the model before the first request against the one after the last, and the request × step
matrix (metrics/by_request.py). Nothing is trained here but target and gold models.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mari_cli import distributed
from mari_cli.config import ForgetConfig, ModelConfig, TargetChoice, UnlearnRun
from mari_cli.data.corpora import load_corpora
from mari_cli.data.requests import Request
from mari_cli.errors import UserError, counted
from mari_cli.losses import objective as losses
from mari_cli.losses.support import SETTINGS
from mari_cli.metrics.by_request import rows_of
from mari_cli.metrics.items import ItemValues, item_values
from mari_cli.metrics.statistics import How
from mari_cli.models.load import LanguageModel
from mari_cli.options import RunOptions
from mari_cli.progress import say
from mari_cli.sections import display_name
from mari_cli.storage.json_files import json_lines
from mari_cli.storage.layout import MANIFEST, REQUESTS, RUN
from mari_cli.storage.manifest import read_manifest
from mari_cli.storage.run import Run
from mari_cli.tasks import supporting
from mari_cli.tasks.alternatives import alternative_items
from mari_cli.tasks.assessment import Assessment
from mari_cli.tasks.examined import Examined
from mari_cli.tasks.preflight import Preflight, check_run, make_trainable
from mari_cli.tasks.run_record import hold_run, record_in
from mari_cli.tasks.setting import tokenize_corpora
from mari_cli.tasks.unlearn import fine_tune_anew, prepare_gold, prepare_target, unlearn

ITEMS = "items_by_step.jsonl"
"""The item values of every model, from which the matrix can be made again."""


def unlearn_in_turn(config: UnlearnRun, options: RunOptions) -> dict[str, Any]:
    """Unlearn every request of ``config.forget`` in its turn and return the result (result.json).

    What can be refused of any request is refused before anything is written. A finished request is not done
    again, one that was cut off goes on.
    """
    began = time.monotonic()
    flight, base = check_run(config, options)
    requests = flight.setting.texts.requests
    _check_together(config, requests)
    _check_each(flight, base, requests)
    make_trainable(config, base)
    del base
    with hold_run(flight) as run:
        run.write_json(REQUESTS, {"requests": _plain_requests(config, requests)})
        target, golds = prepare_target(flight), _prepare_golds(flight, requests)
        assessment = Assessment.begin(flight)
        steps = [assessment.take("target", flight.load(target))]
        before = target.at(str(target.path)) if config.finetunes_target else target
        for request in requests:
            asked = config_of(config, request, requests, golds)
            _unlearn_one(replace(asked, model=before), options, run, request, requests)
            before = target.at(asked.out)
            last = request is requests[-1]
            lm = flight.load(before)
            steps.append(assessment.take("unlearned" if last else _after(request.number), lm))
        beside = {}
        for step, model in golds.items():
            lm = flight.load(model)
            beside[step] = assessment.take("gold" if step == len(requests) else f"gold {_after(step)}", lm)
        for role in [role for role in assessment.models if role not in ("target", "unlearned", "gold")]:
            del assessment.models[role]
        with record_in(run, flight) as record:
            record.started = began
            record.set_beside(target=target, gold=golds.get(len(requests)))
            run.write_text(ITEMS, json_lines(list(_rows(steps, beside))))
            return assessment.finish(
                record,
                lm,
                name=config.loss.title,
                loss=display_name(config.loss),
                notes=[*flight.notes, *_notes(config, requests)],
                requests=_matrix(flight, requests, steps, beside),
            )


# -- before the first step -----------------------------------------------------------------------------------


def _check_together(config: UnlearnRun, requests: Sequence[Request]) -> None:
    ids = len(config.request.ids)
    if ids > 1 and ids != len(requests):
        raise UserError(
            f"`request.id` names {ids} requests, and `forget.requests` has {len(requests)}",
            "give an id for each, with commas between them, or one for all",
        )
    if config.gold == "each" and not config.finetunes_target:
        raise UserError(
            "`gold=each` trains gold models, and this run does not fine-tune its target",
            "add `target=finetune`, with the model from before its fine-tuning as `model.path`",
        )
    if _tunes_for_support(config) and config.model.path is None:
        raise UserError(
            "each request tunes the model from before the fine-tuning for its support, and that model lies "
            "nowhere",
            "give a saved one as `model.path`, or take a source that needs none (`loss=mari_twins`)",
        )
    if not config.model.lora.merge and len(requests) > 1:
        raise UserError(
            "`model.lora.merge=false` leaves adapters, and the next request would begin with adapters of "
            "adapters",
            "leave it out: each request then leaves a plain model",
        )


def _check_each(flight: Preflight[UnlearnRun], base: LanguageModel, requests: Sequence[Request]) -> None:
    """Refuse now what the run of a later request would refuse after hours."""
    losses.build(flight.config.loss)
    for request in requests:
        config = config_of(flight.config, request, requests, {})
        texts = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
        setting = replace(flight.setting, texts=texts)
        try:
            corpora = tokenize_corpora(config, setting, base)
            alternative_items(config, base, corpora["forget"])
            supporting.prepare_support(config, setting, corpora, base.style)
        except UserError as error:
            raise UserError(f"request `{request.name}`: {error}", error.hint) from error


def _prepare_golds(flight: Preflight[UnlearnRun], requests: Sequence[Request]) -> dict[int, ModelConfig]:
    """By step, the places of the gold models. That after request k has seen the retain data and every request
    after k, whatever the steps of unlearning see."""
    golds = {}
    if flight.config.gold == "each":
        kept = flight.corpora["retain"].items
        for request in requests[:-1]:
            corpus, keys = flight.corpora["forget"], [other.keys for other in requests[request.number :]]
            later = [item for of in keys for item in corpus.items if corpus.records[item.record].key in of]
            golds[request.number] = fine_tune_anew(flight, [*later, *kept], f"gold {_after(request.number)}")
    if final := prepare_gold(flight):
        golds[len(requests)] = final
    return golds


def _plain_requests(config: UnlearnRun, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """What `mari requests` reads of requests whose runs have not begun."""
    return [
        {
            "id": config.request.id if len(config.request.ids) == 1 else name,
            "run": request.name,
            "records": sorted(request.keys),
        }
        for request, name in zip(requests, _names(config, requests), strict=True)
    ]


# -- one request ---------------------------------------------------------------------------------------------


def config_of(
    config: UnlearnRun, request: Request, requests: Sequence[Request], golds: Mapping[int, ModelConfig]
) -> UnlearnRun:
    """The run of one request. Where it has a gold model, that is measured beside."""
    if _tunes_for_support(config):
        config = supporting.with_support(config, model=config.model.path)
    assert isinstance(config.forget, ForgetConfig)
    ids = config.request.ids
    shared = ids[0] if len(ids) == 1 else None
    gold = golds.get(request.number)
    return replace(
        config,
        forget=replace(config.forget, request_number=request.number),
        target=TargetChoice.as_is,
        gold=str(gold.path) if gold else "none",
        out=str(Path(config.out) / request.name),
        request=replace(config.request, id=shared or _names(config, requests)[request.number - 1]),
    )


def _tunes_for_support(config: UnlearnRun) -> bool:
    """Whether the support is tuned from the run's own model, as it is before the target is fine-tuned."""
    request = config.loss.support_request
    if request is None or not SETTINGS[request.source].tunes_own_model:
        return False
    return request.support.model is None and config.finetunes_target


def _names(config: UnlearnRun, requests: Sequence[Request]) -> list[str]:
    """What each request is called: by its id where each has one of its own."""
    ids = config.request.ids
    return ids if len(ids) == len(requests) else [request.name for request in requests]


def _unlearn_one(
    config: UnlearnRun, options: RunOptions, run: Run, request: Request, requests: Sequence[Request]
) -> None:
    """Do the run of one request, or go on with it; nothing where it is finished."""
    out = Path(config.out)
    begun, finished = distributed.broadcast(((out / RUN).is_file(), Run(out).finished))
    said = f"request `{request.name}` of {len(requests)}"
    if finished:
        say(f"{said}: done before")
        return
    say(f"{said}: {counted(len(request.records), 'record')}")
    command = run.about()["command"] if run.writes else options.command
    unlearn(config, replace(options, command=command, resume=begun))


def _after(number: int) -> str:
    return f"after {number}"


# -- the result ----------------------------------------------------------------------------------------------


def _rows(steps: Sequence[Examined], golds: Mapping[int, Examined]) -> Iterator[dict[str, Any]]:
    for step, found in enumerate(steps):
        yield from ({"model": _after(step) if step else "before"} | row for row in found.measured.items)
    for step, found in golds.items():
        yield from ({"model": f"gold {_after(step)}"} | row for row in found.measured.items)


def _matrix(
    flight: Preflight[UnlearnRun],
    requests: Sequence[Request],
    steps: Sequence[Examined],
    golds: Mapping[int, Examined],
) -> dict[str, Any]:
    """What result.json says of the requests."""
    config = flight.config
    how = How(config.metrics.bootstrap, config.metrics.confidence, config.seed)
    rows = rows_of(
        [request.keys for request in requests],
        [_values(found) for found in steps],
        {step: _values(found) for step, found in golds.items()},
        how,
    )
    return {
        "requests": [
            {
                "number": request.number,
                "label": name,
                "records": len(request.records),
                "run": request.name,
                "manifest": read_manifest(run)["sha256"] if (run / MANIFEST).is_file() else None,
            }
            for request, name in zip(requests, _names(config, requests), strict=True)
            for run in [Path(config.out) / request.name]
        ],
        "steps": ["before", *(_after(request.number) for request in requests)],
        "weights": [found.weights for found in steps],
        "rows": [asdict(row) for row in rows],
    }


def _values(found: Examined) -> list[ItemValues]:
    return [item_values({"model": ""} | row) for row in found.measured.items]


def _notes(config: UnlearnRun, requests: Sequence[Request]) -> list[str]:
    assert isinstance(config.forget, ForgetConfig)
    notes = []
    if len(requests) > 1:
        seen = "were retain data" if config.forget.keep_later else "were in no step"
        notes.append(f"while a request was unlearned, the records of later requests {seen}")
    for request, name in zip(requests, _names(config, requests), strict=True):
        training = Run(Path(config.out) / request.name).result()["training"]
        if training["kept_step"] == 0:
            notes.append(f"request `{name}` was not forgotten: no step of its run was kept")
    return notes
