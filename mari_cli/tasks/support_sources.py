"""What the retain data supports at each forget position: asked of one model after another, before step 1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.errors import counted
from mari_cli.losses.support import SupportSource
from mari_cli.models.context import Targets
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.models.reference import StoredReference, store_reference
from mari_cli.progress import say, track
from mari_cli.storage import hashing, json_cache
from mari_cli.suites.examiner import Examiner, items_hash
from mari_cli.suites.scores import ItemScore
from mari_cli.suites.standard import Corpus
from mari_cli.supports import assistant, base, quantiles, reinforced, siblings, twins
from mari_cli.supports.asked import Asked, combined_mistakes, write_combined
from mari_cli.supports.calibrate import Calibrated, CalibratedTwice, Second, calibrated, calibrated_twice
from mari_cli.supports.gold import golden
from mari_cli.supports.quantiles import Moved, match_quantiles, move
from mari_cli.supports.sparse import (
    Kept,
    Mistakes,
    Write,
    kept,
    label_and_best,
    mistakes,
    mistakes_of,
    targets,
)
from mari_cli.supports.twins import Way
from mari_cli.tasks.recitation import describe_recitation
from mari_cli.tasks.setting import Setting, cache_directory, seed_for
from mari_cli.tasks.supporting import Load, Prepared, asked_of, ways_of
from mari_cli.tasks.training import fine_tuned_model
from mari_cli.train.step import chunk_for, operand_head

MOST_CONTRAST = 64.0
SHARES = [step / 10 for step in range(11)]
BETWEEN = 9
LEAST_POWER, MOST_POWER = 0.05, 16.0
MOST_WEIGHT = 16.0
"""Where a calibration looks."""

C = TypeVar("C", bound=Calibrated)


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
        remembered = store_reference(
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

    def tuned(self, name: str, model: ModelConfig, items: Sequence[Item], epochs: int) -> ModelConfig:
        """``model`` tuned on ``items``, to be asked as ``name``."""
        return fine_tuned_model(
            model,
            self.setting,
            items,
            replace(self.config.finetune, epochs=epochs),
            seed=self.config.seed,
            cache=self.cache,
            track=track,
            role=name,
        )

    def keep(
        self,
        fill: Callable[[Write], None],
        names: Sequence[str],
        said_of: StoredReference,
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

    def combined(
        self,
        models: Sequence[Asked],
        combine: Callable[..., Tensor],
        *,
        said: Callable[[Asked, slice], Tensor] = Asked.log_p,
        **settings: float,
    ) -> Kept:
        """What ``combine`` with ``settings`` makes of what ``models`` ``said``."""
        vocabulary = min(len(model.head.weight_VD) for model in models)
        cut = [model.cut(vocabulary) for model in models]
        key = {"models": [model.remembered.key for model in models], **settings}
        return self.keep(
            lambda write: write_combined(
                write,
                cut,
                partial(combine, **settings),
                chunk=self.chunk(vocabulary),
                track=track,
                said=said,
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
        SupportSource.reinforced: _of_reinforced,
    }[prepared.config.source](asking)


def _of_gold(asking: _Asking) -> tuple[Targets, list[str]]:
    gold = asking.of(asking.load(asking.prepared.given["model"]), "forget")
    lm = asking.load(asking.target)
    return _make_targets(
        asking, asking.combined([gold], golden), asking.holdout(lm, weights_hash(lm.model)), []
    )


def _of_siblings(asking: _Asking) -> tuple[Targets, list[str]]:
    retain, both = (
        asking.of(asking.load(asking.prepared.given[name]), "forget")
        for name in ("retain_model", "both_model")
    )
    lm = asking.load(asking.target)
    return _weighed(asking, lm, [retain, both], siblings.corrected)


def _of_assistant(asking: _Asking) -> tuple[Targets, list[str]]:
    tuned = asking.tuned(
        "assistant", asking.prepared.given["assistant"], asking.forget, asking.config.finetune.epochs
    )
    other = asking.of(asking.load(tuned), "forget")
    lm = asking.load(asking.target)
    return _weighed(asking, lm, [other], assistant.subtracted)


def _of_reinforced(asking: _Asking) -> tuple[Targets, list[str]]:
    given = asking.prepared.given.get("model")
    if given is None:
        given = asking.tuned("reinforced", asking.target, asking.forget, epochs_of_share(asking.config))
    other = asking.of(asking.load(given), "forget")
    lm = asking.load(asking.target)
    return _weighed(asking, lm, [other], reinforced.weakened, said=Asked.logits)


def _weighed(
    asking: _Asking,
    lm: LanguageModel,
    others: Sequence[Asked],
    combine: Callable[..., Tensor],
    *,
    said: Callable[[Asked, slice], Tensor] = Asked.log_p,
) -> tuple[Targets, list[str]]:
    """The targets that ``combine`` makes of ``lm``, which is the model before, and of ``others``, with the
    weight of the configuration, or with that which the holdout chooses."""
    before = weights_hash(lm.model)
    holdout = asking.holdout(lm, before)
    models = [asking.of(lm, "forget", weights=before), *others]
    weight, notes = asking.prepared.config.weight, []
    if weight is None:
        vocabulary = min(len(model.head.weight_VD) for model in models)
        cut = [model.cut(vocabulary) for model in models]

        def loss(weight: float) -> float:
            q = partial(combine, weight=weight)
            return combined_mistakes(cut, q, chunk=asking.chunk(vocabulary), said=said).loss

        found = _calibrated(
            asking,
            Calibrated,
            lambda wanted: calibrated(loss, wanted.loss, least=0.0, most=MOST_WEIGHT),
            holdout,
            {
                "models": [model.remembered.key for model in models],
                "by": combine.__name__,
                "before": before,
                "most": MOST_WEIGHT,
            },
        )
        weight = found.value
        notes += _told(
            f"support: a correction of weight {weight:.4g}, so that forget answers that it gets wrong "
            f"have a loss of {found.reached:.4g}{_as_before(found)}"
        )
    return _make_targets(asking, asking.combined(models, combine, said=said, weight=weight), holdout, notes)


def _of_base(asking: _Asking) -> tuple[Targets, list[str]]:
    config = asking.prepared.config
    lm = asking.load(asking.target)
    before = weights_hash(lm.model)
    holdout = asking.holdout(lm, before)
    del lm
    tuned = asking.tuned(
        "base", asking.prepared.given["base"], asking.corpora["retain"].items, epochs_of_share(asking.config)
    )
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
                lambda power: (
                    combined_mistakes([on_holdout], partial(base.sharpened, power=power), chunk=chunk).loss
                ),
                wanted.loss,
                least=LEAST_POWER,
                most=MOST_POWER,
            ),
            holdout,
            {"of": on_holdout.remembered.key, "before": before, "between": [LEAST_POWER, MOST_POWER]},
        )
        power = found.value
        notes += _told(
            f"support: predictions to the power {power:.4g}, so that holdout answers that it gets wrong "
            f"have a loss of {found.reached:.4g}{_as_before(found)}"
        )
    del lm
    return _make_targets(asking, asking.combined([model], base.sharpened, power=power), holdout, notes)


def epochs_of_share(config: UnlearnRun) -> int:
    return max(1, round(asked_of(config).share * config.finetune.epochs))


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
        "named": hashing.content_hash([sorted(one.keys.items()) for one in prepared.named]),
        "pools": hashing.content_hash(prepared.pools),
        "twins": config.twins,
        "asked": twins.DEFINITION,
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
    notes = _told(_of_keys(prepared))
    generated = config.generated if len(ways) > 1 else float(ways == [Way.generated])
    contrast, power = config.contrast, config.sharpen
    if generated is None or contrast is None:
        shares = SHARES if generated is None else [generated]

        def mistaken(share: float, contrast: float, power: float) -> Mistakes:
            q = partial(twins.combined, generated=share, contrast=contrast, power=power)
            return mistakes_of(said, q, floor=config.floor)

        seconds = {
            "contrast": Second(
                lambda share, value: mistaken(share, (contrast or 0.0) + value, power or 1.0),
                least=0.0,
                most=MOST_CONTRAST if contrast is None else 0.0,
            )
        }
        if contrast is None and power is None:
            seconds["power"] = Second(
                lambda share, value: mistaken(share, 0.0, value),
                least=LEAST_POWER,
                most=MOST_POWER,
                between=BETWEEN,
            )
        between = {by: [one.least, one.most, one.between] for by, one in seconds.items()}
        found = _calibrated(
            asking,
            CalibratedTwice,
            lambda wanted: calibrated_twice(seconds, wanted, firsts=shares),
            holdout,
            {"of": said.key, "floor": config.floor, "shares": shares}
            | {"given": [contrast, power], **between},
        )
        generated = found.first
        if found.by == "power":
            contrast, power, setting = 0.0, found.value, f"to the power {found.value:.4g}"
        else:
            contrast = (contrast or 0.0) + found.value
            setting = f"contrast {contrast:.4g}"
        notes += _told(
            f"support: {generated:.2g} of the twins generated, {setting}, so that forget answers "
            f"that it gets wrong have a loss of {found.reached:.4g}{_as_before(found)}, and "
            f"{found.right:.3f} of their tokens right, where the holdout's have {found.wanted_right:.3f}"
        )
    power = 1.0 if power is None else power
    supported = partial(twins.combined, generated=generated, contrast=contrast, power=power)
    key = {"generated": generated, "contrast": contrast, "power": power}
    return _make_targets(asking, said, holdout, notes, supported, **key)


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


def _told(*notes: str) -> list[str]:
    """``notes``, which are printed now."""
    for note in notes:
        say(note)
    return list(notes)


def _calibrated(
    asking: _Asking,
    kind: type[C],
    calibrate: Callable[[Mistakes], C],
    holdout: Sequence[ItemScore],
    key: Mapping[str, object],
) -> C:
    """What ``calibrate`` makes of the mistakes of the model before on the holdout. Kept: computed again with
    other batches it would be another in its last digits, and all that is kept by it would be made anew.
    ``key`` is what determines it besides."""
    items = asking.corpora["holdout"].items
    whole = hashing.content_hash({**key, "holdout": items_hash(items), "by": "mistakes"})[:24]
    path = asking.cache / "support" / f"{whole}.json"
    found = json_cache.read(path)
    if found is None:
        own = None
        if distributed.is_rank_zero():
            columns = (
                [score.answer_nll for score in holdout],
                [score.tokens_right / score.tokens for score in holdout],
            )
            own = asdict(calibrate(mistakes(*(torch.tensor(c, dtype=torch.float64) for c in columns))))
        found = json_cache.write(path, own)
    return kind(**found)


def _as_before(found: Calibrated) -> str:
    wanted = f"the model before has on the holdout, {found.wanted:.4g}"
    return f" as {wanted}" if found.exact else f", as near as it comes to what {wanted}"


def _plain(log_p: Mapping[str, Tensor]) -> Tensor:
    return log_p["q"]


def _make_targets(
    asking: _Asking,
    said: Kept,
    holdout: Sequence[ItemScore],
    notes: list[str],
    supported: Callable[[Mapping[str, Tensor]], Tensor] = _plain,
    **settings: Any,
) -> tuple[Targets, list[str]]:
    config, change = asking.prepared.config, None
    if config.quantiles:
        wrong = [score.answer_nll for score in holdout if score.tokens_right < score.tokens]
        log_q = label_and_best(said, supported, floor=config.floor)
        moved = match_quantiles(*log_q, said.rows, wrong, floor=config.floor)

        def change(q_mK: Tensor, here: slice) -> Tensor:
            return move(q_mK, moved.shift_M[here], floor=config.floor)

        settings |= {"quantiles": quantiles.DEFINITION, "holdout": hashing.content_hash(wrong)}
        notes += _told(_of_quantiles(moved))
    found = targets(
        said,
        supported,
        floor=config.floor,
        key=settings,
        directory=asking.cache,
        device=asking.setting.compute.device,
        name="support, as a step takes it",
        change=change,
    )
    return found, [*notes, *_told(*describe_recitation(found, asking.corpora, holdout))]


def _of_quantiles(moved: Moved) -> str:
    if not len(moved.wanted_W):
        return "support: no answer is moved to the losses of the holdout, for q gets none wrong"
    off = (moved.reached_W - moved.wanted_W).abs().mean()
    return (
        f"support: {counted(len(moved.wanted_W), 'answer')} that q gets wrong moved to the losses that such "
        f"answers of the holdout have, from {moved.wanted_W.min():.4g} to {moved.wanted_W.max():.4g}; "
        f"{off:.2g} away in the mean"
    )
