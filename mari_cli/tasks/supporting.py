"""The support of a run: what the retain data supports at each forget position, as `loss.support` asks for it.

Everything that can be refused is refused by `prepare`, from the texts alone; `support` then asks one model
after another, before the first step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mari_cli import distributed, runs, sealed
from mari_cli.config import (
    PLAIN_CONTRAST,
    PLAIN_GENERATED,
    Estimator,
    LossConfig,
    MariConfig,
    ModelConfig,
    SupportConfig,
    SupportSource,
    UnlearnRun,
)
from mari_cli.data.records import Fact
from mari_cli.data.spans import locate
from mari_cli.data.tokenize import Item, PromptStyle
from mari_cli.errors import UserError
from mari_cli.models.context import Targets
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel, load_tokenizer
from mari_cli.models.reference import Reference, remember
from mari_cli.places import is_there
from mari_cli.progress import say, track
from mari_cli.suites.examiner import Examiner, items_hash
from mari_cli.suites.scores import ItemScore
from mari_cli.suites.standard import Corpus
from mari_cli.supports import assistant, base, siblings, twins
from mari_cli.supports.asked import Asked, write_combined
from mari_cli.supports.calibrate import Calibrated, CalibratedTwice, calibrated, calibrated_twice
from mari_cli.supports.gold import golden
from mari_cli.supports.keys import Keys, find_keys, given_keys, read_keys
from mari_cli.supports.sparse import Kept, Mistakes, Write, choices, kept, mistakes, mistakes_of, targets
from mari_cli.supports.twins import Way
from mari_cli.tasks import inputs
from mari_cli.tasks.setting import Setting, cache_directory, finetunes_target, seed_for
from mari_cli.tasks.training import finetuned
from mari_cli.train.step import chunk_for, operand_head

MOST_CONTRAST = 64.0
SHARES = [step / 10 for step in range(11)]
LEAST_POWER, MOST_POWER = 0.05, 16.0
"""Where a calibration looks."""
ERRORS = 2.0
"""Standard errors by which q recites more than the model before recites of the holdout, for a warning."""

Load = Callable[[ModelConfig], LanguageModel]
Found = TypeVar("Found", bound=Calibrated)


def source_of(loss: LossConfig) -> SupportSource | None:
    """Who supports; None where the loss asks nobody."""
    if not isinstance(loss, MariConfig) or loss.estimator is not Estimator.context:
        return None
    return loss.support.source


@dataclass(frozen=True)
class Prepared:
    """What is known before any model is asked."""

    config: SupportConfig
    stored_tokens: int
    keys: Keys | None = None
    named: Sequence[twins.Named] = ()
    pools: twins.Pools | None = None
    given: Mapping[str, ModelConfig] = field(default_factory=dict)
    """Models by what they are asked as."""


def choose(
    config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus], style: PromptStyle
) -> tuple[UnlearnRun, list[str]]:
    """``config`` with the source that `auto` stands for, and what the run is to say of the choice."""
    if source_of(config.loss) is not SupportSource.auto:
        return config, []
    assert isinstance(config.loss, MariConfig)
    asked = config.loss.support
    twins_asked = replace(asked, source=SupportSource.twins)
    try:
        _named(Prepared(twins_asked, config.loss.context.stored_tokens), setting, corpora, style)
    except UserError as error:
        if asked.keys is not None:
            raise
        chosen = replace(asked, source=SupportSource.neighbours)
        note = f"support: neighbours, for twins cannot be made: {error}"
        return with_support(config, chosen), [note]
    if None in (asked.generated, asked.contrast) and "holdout" not in corpora:
        ways = ways_of(asked, corpora["forget"].items)
        share = PLAIN_GENERATED if Way.generated in ways else 0.0
        generated = share if asked.generated is None else asked.generated
        contrast = PLAIN_CONTRAST if asked.contrast is None else asked.contrast
        note = (
            f"support: twins, {generated:g} of them generated, with contrast {contrast:g}: there is no "
            "holdout to set that by (`holdout`: data like the forget data that no model has seen)"
        )
        return with_support(config, replace(twins_asked, generated=generated, contrast=contrast)), [note]
    return with_support(config, twins_asked), []


def with_support(config: UnlearnRun, support: SupportConfig) -> UnlearnRun:
    assert isinstance(config.loss, MariConfig)
    return replace(config, loss=replace(config.loss, support=support))


def prepare(
    config: UnlearnRun, setting: Setting, corpora: Mapping[str, Corpus], style: PromptStyle
) -> Prepared | None:
    """None where the loss asks none of these sources. Raises UserError where a support cannot be made."""
    source = source_of(config.loss)
    if source is None or source is SupportSource.neighbours:
        return None
    assert isinstance(config.loss, MariConfig)
    asked = config.loss.support
    prepared = Prepared(asked, config.loss.context.stored_tokens)
    match source:
        case SupportSource.twins:
            named = _named(prepared, setting, corpora, style)
            unset = {"generated": PLAIN_GENERATED, "contrast": PLAIN_CONTRAST}
            if missing := {name: value for name, value in unset.items() if getattr(asked, name) is None}:
                _require_holdout(corpora, missing)
            return named
        case SupportSource.base:
            if asked.sharpen is None:
                _require_holdout(corpora, {"sharpen": 1})
            return replace(prepared, given={"base": _before_fine_tuning(config, setting)})
        case SupportSource.assistant:
            return replace(prepared, given={"assistant": _before_fine_tuning(config, setting)})
    names = ("model",) if source is SupportSource.gold else ("retain_model", "both_model")
    return replace(prepared, given={name: _at_path(name, config, setting) for name in names})


def _require_holdout(corpora: Mapping[str, Corpus], missing: Mapping[str, float]) -> None:
    """``missing``: settings that only a holdout can choose, each with a value that would do."""
    if "holdout" not in corpora:
        names = " and ".join(f"`loss.support.{name}`" for name in missing)
        values = " ".join(f"loss.support.{name}={value:g}" for name, value in missing.items())
        chosen = "is chosen" if len(missing) == 1 else "are chosen"
        raise UserError(
            f"{names} {chosen} by the holdout, and there is none",
            "set `holdout` to data like the forget data that no model has seen, say it yourself, as "
            f"`{values}`, or take a loss that needs none (`loss=mari`)",
        )


def _before_fine_tuning(config: UnlearnRun, setting: Setting) -> ModelConfig:
    """The model that `base` and `assistant` are tuned from."""
    assert isinstance(config.loss, MariConfig)
    asked = config.loss.support
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
    assert isinstance(config.loss, MariConfig)
    key, path = f"loss.support.{name}", getattr(config.loss.support, name)
    if path is None:
        raise UserError(
            f"`loss.support.source={config.loss.support.source}` needs `{key}`", f"give {NEEDED[name]}"
        )
    if path.startswith(("/", ".", "~")) and not is_there(path):
        raise UserError(f"no model at `{key}={path}`", "give a model or run directory")
    model = replace(config.model, path=path, architecture=None, revision=None, tokenizer=None)
    if load_tokenizer(model, []).get_vocab() != setting.tokenizer.get_vocab():
        raise UserError(
            f"the model at `{key}={path}` has another tokenizer, so it predicts other tokens",
            "give one with the tokenizer of the run's model, or take a source that needs no other model "
            "(`loss=mari_twins`)",
        )
    return model


def _named(
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
        twins.named(item, of_item, tokens)
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
        known["the key strings"] = runs.content_hash(prepared.keys.tokens)
    return known


# -- asking the models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asking:
    """What all sources have in common."""

    config: UnlearnRun
    setting: Setting
    corpora: Mapping[str, Corpus]
    prepared: Prepared
    target: ModelConfig
    load: Load

    @property
    def cache(self) -> Path:
        return cache_directory(self.config)

    @property
    def forget(self) -> Sequence[Item]:
        return self.corpora["forget"].items

    def chunk(self, vocabulary: int) -> int:
        return self.config.train.chunk or chunk_for(vocabulary)

    def of(self, lm: LanguageModel, role: str, *, weights: str | None = None) -> Asked:
        """``lm`` at the positions of the corpus ``role``."""
        remembered = remember(
            lm,
            self.corpora[role].items,
            None,
            states=True,
            layer=None,
            log_probability=None,
            directory=self.cache,
            weights=weights or weights_hash(lm.model),
            batch_size=self.config.metrics.batch_size,
            track=track,
            name=role,
        )
        return Asked(operand_head(lm).frozen(), remembered)

    def holdout(self, lm: LanguageModel, weights: str) -> list[ItemScore]:
        """What the model before makes of the holdout; nothing where there is none."""
        if "holdout" not in self.corpora:
            return []
        config = self.config
        examiner = Examiner(lm, config.metrics, config.seed, weights, self.cache, track, "target")
        return examiner.score(self.corpora["holdout"].items, "holdout")

    def tuned(self, name: str, items: Sequence[Item], epochs: int) -> ModelConfig:
        """The model given as ``name``, tuned on ``items``."""
        model, tuning = self.prepared.given[name], replace(self.config.finetune, epochs=epochs)
        compute = choose_compute(tuning.device, tuning.precision, tuning.weights, section="finetune.")
        directory = finetuned(
            model,
            replace(self.setting, compute=compute),
            items,
            tuning,
            seed=self.config.seed,
            cache=self.cache,
            track=track,
            role=name,
        )
        return replace(model, path=str(directory), architecture=None, revision=None)

    def keep(
        self,
        fill: Callable[[Write], None],
        names: Sequence[str],
        said_of: Reference,
        key: Mapping[str, object],
        vocabulary: int,
    ) -> Kept:
        return kept(
            fill,
            names,
            rows=said_of.rows,
            labels_M=said_of.labels_N,
            vocabulary=vocabulary,
            stored_tokens=self.prepared.stored_tokens,
            directory=self.cache,
            key={"source": self.prepared.config.source.value, **key},
            name="support",
        )

    def combined(self, models: Sequence[Asked], combine: Callable[..., Tensor], **settings: float) -> Kept:
        """What ``combine`` with ``settings`` makes of what ``models`` predict."""
        vocabulary = min(len(model.head.weight_VD) for model in models)
        cut = [model.cut(vocabulary) for model in models]
        key = {"models": [model.remembered.key for model in models], **settings}
        return self.keep(
            lambda write: write_combined(
                write, cut, partial(combine, **settings), chunk=self.chunk(vocabulary), track=track
            ),
            ["q"],
            models[0].remembered,
            key,
            vocabulary,
        )


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
    asking = _Asking(config, setting, corpora, prepared, target, load)
    say(f"support: {prepared.config.source}")
    return {
        SupportSource.twins: _of_twins,
        SupportSource.base: _of_base,
        SupportSource.gold: _of_gold,
        SupportSource.siblings: _of_siblings,
        SupportSource.assistant: _of_assistant,
    }[prepared.config.source](asking)


def _of_gold(asking: _Asking) -> tuple[Targets, list[str]]:
    gold = asking.of(asking.load(asking.prepared.given["model"]), "forget")
    lm = asking.load(asking.target)
    return _finished(asking, asking.combined([gold], golden), asking.holdout(lm, weights_hash(lm.model)), [])


def _of_siblings(asking: _Asking) -> tuple[Targets, list[str]]:
    retain, both = (
        asking.of(asking.load(asking.prepared.given[name]), "forget")
        for name in ("retain_model", "both_model")
    )
    lm = asking.load(asking.target)
    models = [asking.of(lm, "forget"), retain, both]
    said = asking.combined(models, siblings.corrected, weight=asking.prepared.config.weight)
    return _finished(asking, said, asking.holdout(lm, weights_hash(lm.model)), [])


def _of_assistant(asking: _Asking) -> tuple[Targets, list[str]]:
    tuned = asking.tuned("assistant", asking.forget, asking.config.finetune.epochs)
    other = asking.of(asking.load(tuned), "forget")
    lm = asking.load(asking.target)
    models = [asking.of(lm, "forget"), other]
    said = asking.combined(models, assistant.subtracted, weight=asking.prepared.config.weight)
    return _finished(asking, said, asking.holdout(lm, weights_hash(lm.model)), [])


def _of_base(asking: _Asking) -> tuple[Targets, list[str]]:
    config = asking.prepared.config
    lm = asking.load(asking.target)
    before = weights_hash(lm.model)
    holdout = asking.holdout(lm, before)
    del lm
    tuned = asking.tuned("base", asking.corpora["retain"].items, epochs_of_base(asking.config))
    lm = asking.load(tuned)
    weights = weights_hash(lm.model)
    model = asking.of(lm, "forget", weights=weights)
    power, notes = config.sharpen, []
    if power is None:
        on_holdout = asking.of(lm, "holdout", weights=weights)
        chunk = asking.chunk(len(model.head.weight_VD))
        found = _calibrated(
            asking,
            Calibrated,
            lambda wanted: calibrated(
                lambda power: base.sharpened_mistakes(on_holdout, power, chunk=chunk).loss,
                wanted.loss,
                least=LEAST_POWER,
                most=MOST_POWER,
            ),
            holdout,
            {"of": on_holdout.remembered.key, "before": before, "between": [LEAST_POWER, MOST_POWER]},
        )
        power = found.value
        notes += _told(
            [
                f"support: predictions to the power {power:.4g}, so that holdout answers that it gets wrong "
                f"have a loss of {found.reached:.4g}{_as_before(found)}"
            ]
        )
    del lm
    return _finished(asking, asking.combined([model], base.sharpened, power=power), holdout, notes)


def epochs_of_base(config: UnlearnRun) -> int:
    assert isinstance(config.loss, MariConfig)
    return max(1, round(config.loss.support.share * config.finetune.epochs))


def _of_twins(asking: _Asking) -> tuple[Targets, list[str]]:
    config, prepared = asking.prepared.config, asking.prepared
    assert prepared.keys is not None
    assert prepared.pools is not None
    lm = asking.load(asking.target)
    weights = weights_hash(lm.model)
    before = asking.of(lm, "forget", weights=weights)
    vocabulary = len(before.head.weight_VD)
    seed, chunk = seed_for(asking.config.seed, "twins"), asking.chunk(vocabulary)
    ways = ways_of(config, asking.forget)
    key = {
        "model": before.remembered.key,
        "named": runs.content_hash([sorted(one.keys.items()) for one in prepared.named]),
        "pools": runs.content_hash(prepared.pools),
        "twins": config.twins,
        "seed": seed,
    }

    fill = partial(
        twins.ask_twins,
        lm,
        before.head,
        before.remembered,
        prepared.named,
        prepared.pools,
        twins=config.twins,
        ways=ways,
        seed=seed,
        chunk=chunk,
        batch_size=asking.config.metrics.batch_size,
        track=track,
    )
    said = asking.keep(fill, [*ways, "before"], before.remembered, key, vocabulary)
    holdout = asking.holdout(lm, weights)
    del lm, fill
    notes = _told([_of_keys(prepared)])
    generated = config.generated if len(ways) > 1 else float(ways == [Way.generated])
    contrast = config.contrast
    if generated is None or contrast is None:
        shares = SHARES if generated is None else [generated]
        most = MOST_CONTRAST if contrast is None else 0.0

        def mistaken(share: float, more: float) -> Mistakes:
            q = partial(_said, generated=share, contrast=(contrast or 0.0) + more)
            return mistakes_of(said, q, floor=config.floor)

        found = _calibrated(
            asking,
            CalibratedTwice,
            lambda wanted: calibrated_twice(mistaken, wanted, firsts=shares, most=most),
            holdout,
            {"of": said.key, "floor": config.floor, "shares": shares, "contrast": [contrast, most]},
        )
        generated, contrast = found.first, (contrast or 0.0) + found.value
        notes += _told(
            [
                f"support: {generated:.2g} of the twins generated, contrast {contrast:.4g}, so that forget "
                f"answers that it gets wrong have a loss of {found.reached:.4g}{_as_before(found)}, and "
                f"{found.right:.3f} of their tokens right, where the holdout's have {found.wanted_right:.3f}"
            ]
        )
    supported = partial(_said, generated=generated, contrast=contrast)
    return _finished(asking, said, holdout, notes, supported, generated=generated, contrast=contrast)


def ways_of(config: SupportConfig, forget: Sequence[Item]) -> list[Way]:
    """How twins of ``forget`` are asked. Running text has no answers: unless `generated` says otherwise its
    twins are plain, for to generate them costs a forward pass of the whole text for each of its tokens."""
    if config.generated is None and all(item.supervised_from == 1 for item in forget):
        return [Way.plain]
    return [way for way, absent in ((Way.plain, 1), (Way.generated, 0)) if config.generated != absent]


def _said(log_p: Mapping[str, Tensor], *, generated: float, contrast: float) -> Tensor:
    """log q [m, K+1] of twins, not normalised."""
    if generated == 0:
        log_r = log_p[Way.plain]
    elif generated == 1:
        log_r = log_p[Way.generated]
    else:
        log_r = twins.blended(log_p[Way.plain], log_p[Way.generated], generated)
    return twins.contrasted(log_r, log_p["before"], contrast)


def _of_keys(prepared: Prepared) -> str:
    assert prepared.keys is not None
    items, keys = len(prepared.named), prepared.keys
    without = sum(not one.keys for one in prepared.named)
    note = f"support: {len(keys.strings)} key strings in {items - without} of {items} forget items"
    if keys.by_rarity:
        note += f", for {keys.by_rarity} of them their rare words"
    if without:
        note += f"; in the other {without} nothing is swapped, and they keep what the model says now"
    return note


def _told(notes: list[str]) -> list[str]:
    for note in notes:
        say(note)
    return notes


def _calibrated(
    asking: _Asking,
    kind: type[Found],
    calibrate: Callable[[Mistakes], Found],
    holdout: Sequence[ItemScore],
    key: Mapping[str, object],
) -> Found:
    """What ``calibrate`` makes of the mistakes of the model before on the holdout. Kept: computed again with
    other batches it would be another in its last digits, and all that is kept by it would be made anew.
    ``key`` is what determines it besides."""
    items = asking.corpora["holdout"].items
    whole = runs.content_hash({**key, "holdout": items_hash(items), "by": "mistakes"})[:24]
    path = asking.cache / "support" / f"{whole}.json"
    found = sealed.read(path)
    if found is None:
        own = None
        if distributed.first():
            columns = (
                [score.answer_nll for score in holdout],
                [score.tokens_right / score.tokens for score in holdout],
            )
            own = asdict(calibrate(mistakes(*(torch.tensor(c, dtype=torch.float64) for c in columns))))
        found = sealed.write(path, own)
    return kind(**found)


def _as_before(found: Calibrated) -> str:
    wanted = f"the model before has on the holdout, {found.wanted:.4g}"
    return f" as {wanted}" if found.exact else f", as near as it comes to what {wanted}"


def _plain(log_p: Mapping[str, Tensor]) -> Tensor:
    return log_p["q"]


def _finished(
    asking: _Asking,
    said: Kept,
    holdout: Sequence[ItemScore],
    notes: list[str],
    supported: Callable[[Mapping[str, Tensor]], Tensor] = _plain,
    **settings: float,
) -> tuple[Targets, list[str]]:
    found = targets(
        said,
        supported,
        floor=asking.prepared.config.floor,
        key=settings,
        directory=asking.cache,
        device=asking.setting.compute.device,
        name="support, as a step takes it",
    )
    return found, [*notes, *_told(recitation(found, asking.corpora, holdout))]


def recitation(found: Targets, corpora: Mapping[str, Corpus], holdout: Sequence[ItemScore]) -> list[str]:
    """How much of the forget data q itself recites, and a warning where that is more than the model before
    recites of the holdout: of unique facts, where a corpus knows them; else of all answers, and how often its
    first choice is the true token, for a long answer or a block of text is seldom recited whole."""
    right, exact = choices(found)
    forget = _unique(corpora, "forget")
    unseen = _unique(corpora, "holdout") if holdout else []
    if forget and (unseen or not holdout):
        theirs = [holdout[i].exact_match for i in unseen]
        return [_compared("recites {} of the unique facts", exact[forget].tolist(), theirs)]
    return [
        _compared("recites {} of the answers", exact.tolist(), [score.exact_match for score in holdout]),
        _compared(
            "finds {} of the tokens",
            right.tolist(),
            [score.tokens_right / score.tokens for score in holdout],
        ),
    ]


def _compared(does: str, own: Sequence[float], theirs: Sequence[float]) -> str:
    """The means of both, and a warning where q's is above the other by more than chance has it."""
    mean = sum(own) / len(own)
    note = f"support: q {does.format(f'{mean:.3f}')} to be forgotten"
    if not theirs:
        return f"{note}; there is no holdout to compare that with"
    unseen = sum(theirs) / len(theirs)
    note += f"; the model before {does.format(f'{unseen:.3f}')} of the holdout"
    together = [*own, *theirs]
    middle = sum(together) / len(together)
    variance = sum((value - middle) ** 2 for value in together) / len(together)
    if mean > unseen + ERRORS * math.sqrt(variance * (1 / len(own) + 1 / len(theirs))):
        return f"warning: {note}: what is aimed at still holds what is to be forgotten"
    return note


def _unique(corpora: Mapping[str, Corpus], role: str) -> list[int]:
    if role not in corpora:
        return []
    corpus = corpora[role]
    return [i for i in range(len(corpus.items)) if corpus.record_of(i).fact is Fact.unique]
