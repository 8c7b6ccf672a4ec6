"""The support of a run: what the retain data supports at each forget position, as `loss.support` asks for it.

Everything that can be refused is refused by `prepare`, from the texts alone; `support` then asks one model
after another, before the first step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.spans import locate
from mari_cli.data.tokenize import Item, PromptStyle
from mari_cli.errors import UserError
from mari_cli.losses.base import LossConfig
from mari_cli.losses.mari import MariConfig
from mari_cli.losses.support import PLAIN_CONTRAST, PLAIN_GENERATED, SupportConfig, SupportSource
from mari_cli.models.load import LanguageModel, load_tokenizer
from mari_cli.report.format import listed
from mari_cli.storage import hashing
from mari_cli.suites.standard import Corpus
from mari_cli.supports import twins
from mari_cli.supports.keys import Keys, find_keys, given_keys, read_keys
from mari_cli.supports.twins import Way
from mari_cli.tasks import inputs
from mari_cli.tasks.setting import Setting
from mari_cli.tasks.shares import finetunes_target

Load = Callable[[ModelConfig], LanguageModel]


def source_of(loss: LossConfig) -> SupportSource | None:
    """Who supports; None where the loss asks nobody."""
    request = loss.support_request
    return None if request is None else request.source


def asked_of(config: UnlearnRun) -> SupportConfig:
    """How the loss wants its support made."""
    request = config.loss.support_request
    assert request is not None
    return request.support


@dataclass(frozen=True)
class Prepared:
    """What is known before any model is asked."""

    config: SupportConfig
    stored_tokens: int
    keys: Keys | None = None
    named: Sequence[twins.Named] = ()
    pools: twins.SwapTokens | None = None
    given: Mapping[str, ModelConfig] = field(default_factory=dict)
    """Models by what they are asked as."""


def with_support(config: UnlearnRun, **changes: Any) -> UnlearnRun:
    """``config`` with ``changes`` to the keys of `loss.support`."""
    assert isinstance(config.loss, MariConfig)
    return replace(config, loss=replace(config.loss, support=replace(config.loss.support, **changes)))


WEIGHED = (SupportSource.siblings, SupportSource.assistant, SupportSource.reinforced)
"""Sources that correct the model before by the factor `loss.support.weight`."""


def ways_of(config: SupportConfig, forget: Sequence[Item]) -> list[Way]:
    """How twins of ``forget`` are asked. Running text has no answers: its twins are plain, unless `generated`
    says otherwise."""
    if config.generated is None and all(item.supervised_from == 1 for item in forget):
        return [Way.plain]
    return [way for way, absent in ((Way.plain, 1), (Way.generated, 0)) if config.generated != absent]


def prepare_support(
    config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus], style: PromptStyle
) -> tuple[UnlearnRun, Prepared | None, list[str]]:
    """``config`` with the source that `auto` stands for, what is known of it (None where the loss asks none
    of these sources), and what the run is to say of the choice. Raises UserError where a support cannot be
    made."""
    request = config.loss.support_request
    if request is None or request.source is SupportSource.neighbours:
        return config, None, []
    source, asked = request.source, request.support
    prepared = Prepared(asked, request.context.stored_tokens)
    if source is SupportSource.auto:
        return _choose(config, prepared, setting, corpora, style)
    by_holdout: dict[str, float] = {}
    if source is SupportSource.twins:
        prepared = _find_keys(prepared, setting, corpora, style)
        unset = {"generated": PLAIN_GENERATED, "contrast": PLAIN_CONTRAST}
        by_holdout = {name: value for name, value in unset.items() if getattr(asked, name) is None}
    elif source is SupportSource.base:
        by_holdout = {"sharpen": 1} if asked.sharpen is None else {}
    elif source in WEIGHED and asked.weight is None:
        by_holdout = {"weight": 1}
    if asked.quantiles:
        by_holdout["quantiles"] = False
    _require_holdout(corpora, by_holdout)
    if source in (SupportSource.base, SupportSource.assistant):
        prepared = replace(prepared, given={source.value: _before_fine_tuning(config, setting)})
    elif source is SupportSource.reinforced:
        given = {} if asked.model is None else {"model": _at_path("model", config, setting)}
        prepared = replace(prepared, given=given)
    elif source is not SupportSource.twins:
        names = ("model",) if source is SupportSource.gold else ("retain_model", "both_model")
        prepared = replace(prepared, given={name: _at_path(name, config, setting) for name in names})
    return config, prepared, []


def _choose(
    config: UnlearnRun,
    prepared: Prepared,
    setting: Setting,
    corpora: Mapping[str, Corpus],
    style: PromptStyle,
) -> tuple[UnlearnRun, Prepared | None, list[str]]:
    """Of `auto`: twins where the forget data has key strings, else neighbours."""
    asked = prepared.config
    try:
        prepared = _find_keys(prepared, setting, corpora, style)
    except UserError as error:
        if asked.keys is not None:
            raise
        note = f"support: neighbours, for twins cannot be made: {error}"
        return with_support(config, source=SupportSource.neighbours), None, [note]
    changes: dict[str, Any] = {"source": SupportSource.twins}
    notes = []
    _require_holdout(corpora, {"quantiles": False} if asked.quantiles else {})
    if None in (asked.generated, asked.contrast) and "holdout" not in corpora:
        ways = ways_of(asked, corpora["forget"].items)
        share = PLAIN_GENERATED if Way.generated in ways else 0.0
        generated = share if asked.generated is None else asked.generated
        contrast = PLAIN_CONTRAST if asked.contrast is None else asked.contrast
        changes |= {"generated": generated, "contrast": contrast}
        notes.append(
            f"support: twins, {generated:g} of them generated, with contrast {contrast:g}: fixed numbers, "
            "for there is no holdout to choose them by (`holdout`: data like the forget data that no model "
            "has seen)"
        )
    return with_support(config, **changes), replace(prepared, config=replace(asked, **changes)), notes


def _require_holdout(corpora: Mapping[str, Corpus], missing: Mapping[str, float]) -> None:
    """``missing``: settings that only a holdout can choose, each with a value that would do."""
    if missing and "holdout" not in corpora:
        names = listed([f"`loss.support.{name}`" for name in missing])
        values = " ".join(f"loss.support.{name}={_written(value)}" for name, value in missing.items())
        chosen = "is chosen" if len(missing) == 1 else "are chosen"
        raise UserError(
            f"{names} {chosen} by the holdout, and there is none",
            "set `holdout` to data like the forget data that no model has seen, say it yourself, as "
            f"`{values}`, or take a loss that needs none (`loss=mari`)",
        )


def _written(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _before_fine_tuning(config: UnlearnRun, setting: Setting) -> ModelConfig:
    """The model that `base` and `assistant` are tuned from."""
    asked = asked_of(config)
    if asked.model is not None:
        return _at_path("model", config, setting)
    if not finetunes_target(config):
        raise UserError(
            f"`loss.support.source={asked.source}` needs the model before its fine-tuning, and this run does "
            "not fine-tune its target",
            "give it (`loss.support.model=PATH`), or take a source that needs none (`loss=mari_twins`)",
        )
    return config.model


NEEDED = {
    "model": "the path of a model that never saw the forget data",
    "retain_model": "the path of a small model trained on the retain data",
    "both_model": "the path of a small model trained on retain and forget data",
}


def _at_path(name: str, config: UnlearnRun, setting: Setting) -> ModelConfig:
    """The model that `loss.support` gives as ``name``."""
    asked = asked_of(config)
    key, path = f"loss.support.{name}", getattr(asked, name)
    if path is None:
        raise UserError(f"`loss.support.source={asked.source}` needs `{key}`", f"give {NEEDED[name]}")
    model = config.model.at(path)
    if load_tokenizer(model, []).get_vocab() != setting.tokenizer.get_vocab():
        raise UserError(
            f"the model at `{key}={path}` has another tokenizer, so it predicts other tokens",
            "give one with the tokenizer of the run's model, or take a source that needs no other model "
            "(`loss=mari_twins`)",
        )
    return model


def _find_keys(
    prepared: Prepared, setting: Setting, corpora: Mapping[str, Corpus], style: PromptStyle
) -> Prepared:
    located = {
        role: locate(corpora[role].records, corpora[role].items, setting.tokenizer, style)
        for role in ("forget", "retain")
    }
    items, config = corpora["forget"].items, prepared.config
    if config.keys is not None:
        keys = given_keys(read_keys(config.keys), located["forget"], path=config.keys)
    else:
        starts = [item.supervised_from for item in items]
        keys = find_keys(located["forget"], located["retain"], starts, least=config.key_records)
    named = [
        twins.name_tokens(item, of_item, tokens)
        for item, of_item, tokens in zip(items, located["forget"], keys.tokens, strict=True)
    ]
    pools = twins.name_pools(located["retain"], corpora["retain"].items)
    return replace(prepared, keys=keys, named=named, pools=pools)


def load_given(prepared: Prepared, load: Load) -> dict[str, str]:
    """Refuse now what would fail after target and gold are trained. Returns what the models are, as
    `inputs.of_model`."""
    known: dict[str, str] = {}
    for name, model in prepared.given.items():
        known |= inputs.of_model(load(model), f"the model of `loss.support` ({name})")
    if prepared.keys is not None:
        known["the key strings"] = hashing.content_hash(prepared.keys.tokens)
    return known
