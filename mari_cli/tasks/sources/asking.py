"""Models are asked, one after another, for what the retain data supports: the tools that sources share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.config import ModelConfig, UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.errors import counted
from mari_cli.models.context import Targets
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.models.reference import StoredReference, store_reference
from mari_cli.progress import say, track
from mari_cli.storage import hashing, json_cache
from mari_cli.suites.examiner import Examiner, items_hash
from mari_cli.suites.scores import ItemScore
from mari_cli.suites.standard import Corpus
from mari_cli.supports import difficulty, quantiles
from mari_cli.supports.asked import Asked, write_combined
from mari_cli.supports.calibrate import Calibrated
from mari_cli.supports.difficulty import Bigrams, Harder, harder
from mari_cli.supports.quantiles import Moved, match_quantiles, move
from mari_cli.supports.sparse import Kept, Mistakes, Write, kept, label_and_best, mistakes, targets
from mari_cli.tasks.recitation import describe_recitation
from mari_cli.tasks.setting import Setting, cache_directory
from mari_cli.tasks.sources.prepared import Prepared
from mari_cli.tasks.training import fine_tuned_model
from mari_cli.train.step import chunk_for, operand_head

FORGET = "forget answers"
C = TypeVar("C", bound=Calibrated)
Load = Callable[[ModelConfig], LanguageModel]


@dataclass(frozen=True)
class Unseen:
    """What the model before makes of answers that it never saw: the holdout's, none where there is none."""

    scores: Sequence[ItemScore] = ()
    harder: Harder | None = None
    """By how much the forget answers are harder, where `difficulty` asks for that."""
    key: Mapping[str, str] = field(default_factory=dict)
    """What `harder` adds to a cache's key: a content hash of what determines it, but for its last digits."""

    @property
    def answers(self) -> str:
        """The forget answers that are compared with the holdout's, in words."""
        return FORGET if self.harder is None else f"{FORGET}, less what is harder in them,"

    def mistakes(self) -> Mistakes:
        return mistakes(*_losses_and_right(self.scores))

    def wrong(self) -> list[float]:
        """The losses, in nats, of the answers that are wrong."""
        nll_S, right_S = _losses_and_right(self.scores)
        return nll_S[right_S < 1].tolist()


@dataclass(frozen=True)
class Asking:
    """What a source asks with: the run, its texts, the model before and how models are loaded."""

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
            name=role,
        )
        return Asked(operand_head(lm).frozen(), remembered)

    def unseen(self, lm: LanguageModel, weights: str) -> tuple[Unseen, list[str]]:
        """What the model before makes of the holdout, and notes for the reader."""
        if "holdout" not in self.corpora:
            return Unseen(), []
        config, items = self.config, {role: corpus.items for role, corpus in self.corpora.items()}
        examiner = Examiner(lm, config.metrics, config.seed, weights, self.cache, track, "target")
        scores = examiner.score(items["holdout"], "holdout")
        if not self.prepared.config.difficulty:
            return Unseen(scores), []
        bigrams = Bigrams(items["retain"], tokens_of(lm))
        forget_S, holdout_S = bigrams.difficulties(items["forget"]), bigrams.difficulties(items["holdout"])
        found = harder(forget_S, holdout_S, *_losses_and_right(scores))
        read = [items_hash(items[role]) for role in ("forget", "retain", "holdout")]
        key = hashing.content_hash([difficulty.DEFINITION, bigrams.vocabulary, weights, *read])
        return Unseen(scores, found, {"difficulty": key}), tell(_of_difficulty(found))

    def tuned(self, name: str, model: ModelConfig, items: Sequence[Item], epochs: int) -> ModelConfig:
        """``model`` tuned on ``items``, to be asked as ``name``."""
        return fine_tuned_model(
            model,
            self.setting,
            items,
            replace(self.config.finetune, epochs=epochs),
            seed=self.config.seed,
            cache=self.cache,
            role=name,
        )

    def keep(
        self,
        fill: Callable[[Write], None],
        names: Sequence[str],
        said_of: StoredReference,
        key: Mapping[str, object],
        vocabulary: int,
        *,
        drawn_tokens: int = 0,
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
            drawn_tokens=drawn_tokens,
        )

    def combined(
        self,
        models: Sequence[Asked],
        combine: Callable[..., Tensor],
        *,
        said: Callable[[Asked, slice], Tensor] = Asked.log_p,
        most: int | None = None,
        **settings: float,
    ) -> Kept:
        """What ``combine`` with ``settings`` makes of what ``models`` ``said``. ``most``: tokens of the model
        before, where that is none of ``models``; what the others have beyond it pads their heads."""
        vocabulary = min(len(model.head.weight_VD) for model in models)
        key: dict[str, object] = {"models": [model.remembered.key for model in models], **settings}
        if most is not None and most < vocabulary:
            vocabulary = key["most"] = most
        cut = [model.cut(vocabulary) for model in models]
        return self.keep(
            lambda write: write_combined(
                write, cut, partial(combine, **settings), chunk=self.chunk(vocabulary), said=said
            ),
            ["q"],
            models[0].remembered,
            key,
            vocabulary,
        )


def tokens_of(lm: LanguageModel) -> int:
    """The tokens that ``lm`` predicts: the rows of its head."""
    return len(operand_head(lm).weight_VD)


def tell(*notes: str) -> list[str]:
    """``notes``, which are printed now."""
    for note in notes:
        say(note)
    return list(notes)


def _losses_and_right(scores: Sequence[ItemScore]) -> tuple[Tensor, Tensor]:
    """Losses, in nats, and shares of right tokens [S], float64."""
    columns = [[score.answer_nll, score.tokens_right / score.tokens] for score in scores]
    nll_S, right_S = torch.tensor(columns, dtype=torch.float64).reshape(-1, 2).T
    return nll_S, right_S


def calibrate_by_holdout(
    asking: Asking,
    kind: type[C],
    calibrate: Callable[[Mistakes], C],
    unseen: Unseen,
    key: Mapping[str, object],
) -> C:
    """What ``calibrate`` makes of the mistakes of the model before on the holdout. Kept: computed again with
    other batches it would be another in its last digits, and all that is kept by it would be made anew.
    ``key`` is what determines it besides."""
    items = asking.corpora["holdout"].items
    whole_key = {**key, **unseen.key, "holdout": items_hash(items), "by": "mistakes"}
    whole = hashing.content_hash(whole_key)[:24]
    path = asking.cache / "support" / f"{whole}.json"
    found = json_cache.read(path)
    if found is None:
        own = asdict(calibrate(unseen.mistakes())) if distributed.is_rank_zero() else None
        found = json_cache.write(path, own)
    return kind(**found)


def of_calibration(
    found: Calibrated, setting: str, remedy: str | None, *, whose: str = FORGET, right: str = ""
) -> str:
    """A note on ``setting``, which the holdout chose, and on the loss that q has with it. Where no setting
    gives the wanted loss, the note is a warning that ends with ``remedy``; no warning where that is None.

    ``whose``: the answers that were compared, in words; ``right``: what is said of their tokens.
    """
    note = f"support: {setting}, so that {whose} that it gets wrong have {right}a loss of {found.reached:.4g}"
    wanted = f"the model before has on the holdout, {found.wanted:.4g}"
    if found.exact:
        return f"{note} as {wanted}"
    missed = f"{note}, as near as it comes to what {wanted}"
    sure = "less" if found.reached > found.wanted else "more"
    return f"warning: {missed}: q is {sure} sure than wanted; {remedy}" if remedy else missed


def _plain(log_p: Mapping[str, Tensor]) -> Tensor:
    return log_p["q"]


def make_targets(
    asking: Asking,
    said: Kept,
    unseen: Unseen,
    notes: list[str],
    supported: Callable[[Mapping[str, Tensor]], Tensor] = _plain,
    **settings: Any,
) -> tuple[Targets, list[str]]:
    """q as a step takes it, of what was ``said``, and ``notes`` with what the reader must know of q.

    ``supported``: q [m, K] in logarithms, of the kept distributions by name; ``settings``: what else
    determines it.
    """
    config, change = asking.prepared.config, None
    if config.quantiles:
        wrong = unseen.wrong()
        log_q = label_and_best(said, supported, floor=config.floor)
        harder_S = None if unseen.harder is None else unseen.harder.loss_S
        moved = match_quantiles(*log_q, said.rows, wrong, floor=config.floor, harder_S=harder_S)

        def change(q_mK: Tensor, here: slice) -> Tensor:
            return move(q_mK, moved.shift_M[here], floor=config.floor)

        settings |= {"quantiles": quantiles.DEFINITION, "holdout": hashing.content_hash(wrong), **unseen.key}
        notes += tell(_of_quantiles(moved, unseen))
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
    return found, [*notes, *tell(*describe_recitation(found, asking.corpora, unseen.scores))]


def _of_difficulty(found: Harder | None) -> str:
    if found is None:
        few = f"fewer than {difficulty.FEWEST} holdout answers are wrong, or all of them are equally hard"
        return f"support: difficulty changes nothing: {few}"
    return (
        f"support: an unseen answer costs {found.slope:.3g} nats a token more for each nat that the bigrams "
        f"of the retain data give it (correlation {found.correlation:.2f} on {found.answers} holdout "
        f"answers); they give {found.forget:.4g} nats a token to the forget answers, {found.holdout:.4g} to "
        "those"
    )


def _of_quantiles(moved: Moved, unseen: Unseen) -> str:
    if not len(moved.wanted_W):
        return "support: no answer is moved to the losses of the holdout, for q gets none wrong"
    off = (moved.reached_W - moved.wanted_W).abs().mean()
    such = "such" if unseen.harder is None else "equally hard"
    return (
        f"support: {counted(len(moved.wanted_W), 'answer')} that q gets wrong moved to the losses that "
        f"{such} answers of the holdout have, from {moved.wanted_W.min():.4g} to {moved.wanted_W.max():.4g}; "
        f"{off:.2g} away in the mean"
    )
