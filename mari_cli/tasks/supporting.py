"""The support of a run: what the retain data supports at each forget position, as `loss.support` asks for it.

Everything that can be refused is refused by `prepare_support`, from the texts alone; `support` then asks one
model after another, before the first step. What a source is stands in its file of `tasks/sources/`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.tokenize import PromptStyle
from mari_cli.errors import UserError
from mari_cli.losses.base import LossConfig
from mari_cli.losses.mari import MariConfig
from mari_cli.losses.support import PLAIN_CONTRAST, PLAIN_GENERATED, SupportSource
from mari_cli.models.context import Targets
from mari_cli.progress import say
from mari_cli.storage import hashing
from mari_cli.suites.standard import Corpus
from mari_cli.supports.twins import Way
from mari_cli.tasks import inputs
from mari_cli.tasks.setting import Setting, note_on_template
from mari_cli.tasks.sources import twins
from mari_cli.tasks.sources.asking import Asking, Load
from mari_cli.tasks.sources.prepared import Prepared, Preparing
from mari_cli.tasks.sources.registry import SOURCES
from mari_cli.tasks.support_checks import check_support


def source_of(loss: LossConfig) -> SupportSource | None:
    """Who supports; None where the loss asks nobody."""
    request = loss.support_request
    return None if request is None else request.source


def with_support(config: UnlearnRun, **changes: Any) -> UnlearnRun:
    """``config`` with ``changes`` to the keys of `loss.support`."""
    assert isinstance(config.loss, MariConfig)
    return replace(config, loss=replace(config.loss, support=replace(config.loss.support, **changes)))


def prepare_support(
    config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus], style: PromptStyle
) -> tuple[UnlearnRun, Prepared | None, list[str]]:
    """``config`` with the source that `auto` stands for, what is known of it (None where the loss asks none
    of these sources), and what the run is to say of the choice. Raises UserError where a support cannot be
    made."""
    check_support(config)
    request = config.loss.support_request
    if request is None or request.source is SupportSource.neighbours:
        return config, None, []
    here = Preparing(config, setting, corpora, style)
    known = Prepared(request.support, request.context.stored_tokens)
    if request.source is SupportSource.auto:
        return _choose(here, known)
    known = SOURCES[request.source].prepare(here, known)
    notes = [*known.notes]
    for name, model in known.given.items():
        notes += note_on_template(model, f"the {name} of the support", setting)
    return config, known, notes


def support(
    config: UnlearnRun,
    setting: Setting,
    corpora: Mapping[str, Corpus],
    prepared: Prepared,
    target: ModelConfig,
    load: Load,
) -> tuple[Targets, list[str]]:
    """What is supported at the forget positions, and notes for the reader. ``target`` is the model before;
    one model at a time is loaded."""
    source = prepared.config.source
    say(f"support: {source}")
    return SOURCES[source].make(Asking(config, setting, corpora, prepared, target, load))


def load_given(prepared: Prepared, corpora: Mapping[str, Corpus], load: Load) -> dict[str, str]:
    """Refuse now what would fail after target and gold are trained. Returns what the models are, as
    `inputs.of_model`."""
    known: dict[str, str] = {}
    for name, model in prepared.given.items():
        known |= inputs.of_model_beside(load(model), f"the model of `loss.support` ({name})", corpora)
    if prepared.names is not None:
        known["the key strings"] = hashing.content_hash(prepared.names.keys.tokens)
    return known


def _choose(here: Preparing, known: Prepared) -> tuple[UnlearnRun, Prepared | None, list[str]]:
    """Of `auto`: twins where the forget data has key strings, else neighbours."""
    config, corpora, asked = here.config, here.corpora, known.config
    try:
        known = twins.prepare(here, known)
    except UserError as error:
        if asked.keys is not None:
            raise
        note = f"support: neighbours, for twins cannot be made: {error}"
        unread = [name for name in ("quantiles", "difficulty") if getattr(asked, name)]
        note += "".join(f"; `loss.support.{name}` changes nothing then" for name in unread)
        return with_support(config, source=SupportSource.neighbours), None, [note]
    changes: dict[str, Any] = {"source": SupportSource.twins}
    notes = [*known.notes]
    if None in (asked.generated, asked.contrast) and "holdout" not in corpora:
        ways = twins.ways_of(asked, corpora["forget"].items)
        share = PLAIN_GENERATED if Way.generated in ways else 0.0
        generated = share if asked.generated is None else asked.generated
        contrast = PLAIN_CONTRAST if asked.contrast is None else asked.contrast
        changes |= {"generated": generated, "contrast": contrast}
        notes.append(
            f"support: twins, {generated:g} of them generated, with contrast {contrast:g}: fixed numbers, "
            "for there is no holdout to choose them by (`holdout`: data like the forget data that no model "
            "has seen)"
        )
    return with_support(config, **changes), replace(known, config=replace(asked, **changes)), notes
