"""Unlearning as a job for the loop: the items a step sees, what the reference said of them, when to stop."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import torch

from mari_cli import distributed
from mari_cli.config import UnlearnConfig, UnlearnRun
from mari_cli.data.batches import draw, drawn_indices
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, counted
from mari_cli.losses.engine import log_probabilities
from mari_cli.losses.objective import Needs, Objective
from mari_cli.losses.support import SupportSource
from mari_cli.models.backbone import choose_layer
from mari_cli.models.context import Targets, context_targets
from mari_cli.models.load import LanguageModel
from mari_cli.models.lora import adapters_off
from mari_cli.models.reference import StoredReference, store_reference
from mari_cli.progress import say, silent
from mari_cli.suites.benchmarks import benchmarks
from mari_cli.suites.draws import drawn as drawn_items
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.registry import headlines
from mari_cli.suites.standard import Corpus, followed_information, quick
from mari_cli.suites.states import StoredStates
from mari_cli.tasks.setting import cache_directory, in_shards, seed_for
from mari_cli.tasks.training import describe_skipped
from mari_cli.train.loop import Job, Outcome
from mari_cli.train.step import Group, Recalled, Reference, chunk_for, operand_head
from mari_cli.train.stop import Evaluation, far_past, judge, on_its_way


def context_layer(config: UnlearnRun, lm: LanguageModel) -> int | None:
    """The hidden layer that defines contexts: 0 is the embeddings, the default the middle. None where the
    loss looks for no contexts."""
    request = config.loss.support_request
    if request is None or request.source is not SupportSource.neighbours:
        return None
    layers = int(lm.model.config.get_text_config().num_hidden_layers)
    chosen = request.context.layer
    if chosen is not None and chosen > layers:
        raise UserError(
            f"loss.context.layer={chosen}, but `{lm.name}` has {counted(layers, 'layer')}",
            f"choose 0 to {layers}",
        )
    return layers // 2 if chosen is None else chosen


def hold_out(corpus: Corpus, fraction: float, seed: int) -> tuple[Corpus, Corpus]:
    """(to train on, to watch): a seeded share of the items is watched and never trained on; 0: watch all.
    Raises UserError where one of the two would be empty."""
    if fraction == 0:
        return corpus, corpus
    count = round(fraction * len(corpus.items))
    if not 0 < count < len(corpus.items):
        raise UserError(
            f"`retain.validation_fraction={fraction}` of {counted(len(corpus.items), 'retain item')} leaves "
            f"none to {'train on' if count else 'watch'}",
            "change it; with 0 the stop rule watches what is trained on",
        )
    watched = set(random.Random(seed).sample(range(len(corpus.items)), count))
    sides = ([i for i in range(len(corpus.items)) if (i in watched) is side] for side in (False, True))
    train, watch = (Corpus(corpus.records, [corpus.items[i] for i in side]) for side in sides)
    return train, watch


STREAM_OF = {"forget": "forget", "retain": "retain", "alternative": "forget"}
"""Whose draw decides on the items of a role: an alternative goes with its forget item. Where an item has
several they follow each other: first one of each item, then a second one of each."""


@dataclass(frozen=True)
class Draws:
    """Which items are in which step: a function of the configuration and the step alone."""

    config: UnlearnRun
    items: Mapping[str, Sequence[Item]]
    needs: Needs

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Items of a corpus in each step."""
        train = self.config.train
        return {
            "forget": min(train.forget_batch, len(self.items["forget"])),
            "retain": min(train.retain_batch, len(self.items["retain"])),
        }

    def indices_at(self, step: int) -> dict[str, list[int]]:
        """By role of the loss."""
        streams = {role: STREAM_OF[role] for role in self.needs.roles}
        drawn = {
            role: draw(len(self.items[stream]), self.sizes[stream], step, seed=self._seed(stream))
            for role, stream in streams.items()
        }
        if "alternative" in drawn:
            first = step % self._rounds * len(self.items["forget"])
            drawn["alternative"] = [first + i for i in drawn["alternative"]]
        return drawn

    def items_at(self, step: int) -> Group:
        return {role: [self.items[role][i] for i in at] for role, at in self.indices_at(step).items()}

    def drawn(self) -> dict[str, list[int]]:
        """By role, the indices of all items that will be in a step."""
        steps = self.config.train.steps
        drawn = {
            role: drawn_indices(len(self.items[stream]), self.sizes[stream], steps, seed=self._seed(stream))
            for role, stream in STREAM_OF.items()
        }
        if "alternative" in self.needs.roles and self._rounds > 1:
            each = (self.indices_at(step)["alternative"] for step in range(steps))
            drawn["alternative"] = sorted({i for of_step in each for i in of_step})
        return drawn

    def count(self, role: str) -> int:
        """How many items of a role will be in a step."""
        return len(set(self.drawn()[role]))

    def targets(self, role: str, *, whole: bool) -> int:
        """Target tokens of those items, or of the ``whole`` corpus."""
        items = self.items[role]
        return sum(items[i].num_targets for i in (range(len(items)) if whole else set(self.drawn()[role])))

    @property
    def _rounds(self) -> int:
        """How many alternatives a forget item has; its next one is taken in the next step."""
        return max(1, len(self.items["alternative"]) // len(self.items["forget"]))

    def _seed(self, stream: str) -> int:
        return seed_for(self.config.seed, f"{stream} order")


def draws_of(
    config: UnlearnRun, corpora: Mapping[str, Corpus], alternatives: Sequence[Item], needs: Needs
) -> tuple[Draws, Corpus]:
    """What a run trains on, and what it watches of the retain corpus."""
    retain, validation = hold_out(
        corpora["retain"], config.retain.validation_fraction, seed_for(config.seed, "retain validation")
    )
    items = {"forget": corpora["forget"].items, "retain": retain.items, "alternative": alternatives}
    return Draws(config, items, needs), validation


def forgetting_job(
    config: UnlearnRun,
    lm: LanguageModel,
    corpora: Mapping[str, Corpus],
    drawn: tuple[Draws, Corpus],
    objective: Objective,
    *,
    target_hash: str,
    targets: Targets | None = None,
) -> Job:
    """What the loop is given to unlearn ``lm``, which is asked here for all that the loss wants of the model
    before.

    ``drawn``: of `draws_of`. ``target_hash``: of the weights of ``lm`` as it came, adapters apart.
    ``targets``: what is supported, where another source than neighbours says it.
    """
    train, seed = config.train, config.seed
    draws, validation = replace(drawn[0], config=config), drawn[1]
    with adapters_off(lm.model):
        reference_of = open_reference(lm, draws, target_hash=target_hash, targets=targets)

    watched = {"forget": corpora["forget"], "retain": validation}
    watched |= {"holdout": corpora["holdout"]} if "holdout" in corpora else {}
    watched = {
        role: corpus.subset(train.evaluate_items, seed_for(seed, "watched"))
        for role, corpus in watched.items()
    }

    followed = headlines("followed")
    chosen = drawn_items(len(corpora["forget"].items), train.evaluate_items, [seed_for(seed, "watched")])
    asks_support = config.loss.support_request is not None

    @lru_cache(maxsize=1)
    def q_of_watched() -> tuple[torch.Tensor, torch.Tensor] | None:
        return reference_of({"forget": chosen}).recall("forget", range(len(chosen))).supported_MK

    def evaluate(lm: LanguageModel, step: int) -> dict[str, float]:
        states = {}
        if config.metrics.marginal and not in_shards(train):  # the head must be whole in one process
            cache = cache_directory(config)
            states = {role: StoredStates(watched[role].items, cache) for role in ("retain", "forget")}
        values = quick(
            lm,
            watched,
            batch_size=config.metrics.batch_size,
            min_k=config.metrics.min_k,
            track=silent,
            states=states,
        )
        if states and distributed.is_rank_zero():
            values |= followed_information(
                lm,
                watched,
                states,
                config.metrics,
                seed=seed,
                support=q_of_watched() if asks_support else None,
            )
        told = [f"{name} {value:.3f}" for name, value in values.items() if name in followed]
        say(f"step {step}: {', '.join(told)}")
        if train.evaluate_benchmarks:
            examiner = Examiner(lm, config.metrics, config.seed, "", None, silent, f"step {step}")
            figures, _ = benchmarks(examiner)
            values |= {name: figure.value for name, figure in figures.items()}
        return values

    return Job(
        steps=train.steps,
        items_at=draws.items_at,
        objective=objective,
        reference_at=lambda step: reference_of(draws.indices_at(step)),
        evaluate=evaluate,
        judge=lambda history: judge(evaluations(history), train.stop, train.keep),
        evaluate_every=train.evaluate_every,
    )


def evaluations(history: Sequence[Mapping[str, Any]]) -> list[Evaluation]:
    """What the stop rules read of the looks at a model."""
    return [
        Evaluation(
            step=look["step"],
            forget_nll=look["forget/answer_nll"],
            retain_accuracy=look["retain/token_accuracy"],
            holdout_nll=look.get("holdout/answer_nll"),
            true_token_gap=look.get("forget/true_token_gap"),
        )
        for look in history
    ]


def open_reference(
    lm: LanguageModel,
    draws: Draws,
    *,
    target_hash: str,
    targets: Targets | None = None,
) -> Callable[[Mapping[str, Sequence[int]]], Reference]:
    """Ask the model once, before it changes, for everything that the loss will want of it.

    ``targets``: what is supported, where another source than neighbours says it. Returns what gives, for the
    indices of a step by role, the reference as the step takes it.
    """
    config, needs, drawn = draws.config, draws.needs, draws.drawn()
    head = operand_head(lm).frozen()
    chunk = config.train.chunk or chunk_for(len(head.weight_VD))
    cache = cache_directory(config)
    log_p = partial(log_probabilities, head, chunk=chunk)
    read = None if needs.states is None else choose_layer(lm.model, needs.states.layer)

    def ask(role: str, layer: int | None, *, context: bool = False) -> StoredReference:
        return store_reference(
            lm,
            draws.items[role],
            None if context else drawn[role],  # contexts are looked for in all of a corpus
            states=role in needs.beside_reference or (context and role == "retain"),
            layer=layer,
            log_probability=log_p if role in needs.reference_log_p else None,
            directory=cache,
            weights=target_hash,
            batch_size=config.metrics.batch_size,
            name=role,
        )

    asked: dict[str, StoredReference] = {}
    request = config.loss.support_request
    if request is not None and targets is None:
        context, layer = request.context, context_layer(config, lm)
        asked = {role: ask(role, layer, context=True) for role in ("retain", "forget")}
        targets = context_targets(
            asked["retain"],
            asked["forget"],
            head,
            temperature=context.temperature,
            neighbours=context.neighbours,
            stored_tokens=context.stored_tokens,
            chunk=chunk,
            directory=cache,
        )
    for role in (*needs.beside_reference, *needs.reference_log_p):
        if role not in asked and role not in needs.reference_layer:
            asked[role] = ask(role, None)
    asked |= {role: ask(role, read) for role in needs.reference_layer}

    # a copy of the head's weights, which few losses need in a step
    kept_head = head if needs.beside_reference else None

    def of_step(indices: Mapping[str, Sequence[int]]) -> Reference:
        def read(role: str, at: range) -> Recalled:
            chosen = [indices[role][i] for i in at]
            return Recalled(
                asked[role].states(chosen) if role in needs.beside_reference else None,
                asked[role].log_p(chosen) if role in needs.reference_log_p else None,
                targets.of(chosen) if targets and role == "forget" else None,
                asked[role].layer(chosen) if role in needs.reference_layer else None,
            )

        return Reference(read, kept_head)

    return of_step


def describe_outcome(outcome: Outcome, sizes: Mapping[str, int], train: UnlearnConfig) -> list[str]:
    """Say how the training ended; returns notes for the reader. ``sizes``: items of a corpus in each step."""
    say(outcome.stopped_by or f"all {counted(outcome.steps, 'step')} done")
    say(f"kept: step {outcome.kept_step}")
    notes = describe_skipped(outcome)
    looks = evaluations(outcome.history)
    if outcome.stopped_by is None and on_its_way(looks):
        notes.append(
            f"the forget loss, {looks[-1].forget_nll:.3f}, was still rising to the holdout's, "
            f"{looks[-1].holdout_nll:.3f}, when all steps were done: more steps "
            f"(`train.steps={2 * train.steps}`) may bring it nearer"
        )
    kept = next(look for look in looks if look.step == outcome.kept_step)
    if far_past(looks[0], kept):
        notes.append(
            f"the forget loss of the kept step, {kept.forget_nll:.3f}, is further above the holdout's, "
            f"{kept.holdout_nll:.3f}, than the one before, {looks[0].forget_nll:.3f}, was below: a lower "
            "`train.lr` or `train.evaluate_every` may keep a step that is nearer"
        )
    if outcome.steps == 0:
        notes.append(f"no step was taken, since a stop rule held before: {outcome.stopped_by}")
    elif outcome.kept_step == 0:
        notes.append(
            "no checkpoint passed the retain rule: the target itself was kept, and nothing was forgotten"
        )
    for role, wanted in (("forget", train.forget_batch), ("retain", train.retain_batch)):
        if sizes[role] < wanted:
            notes.append(
                f"the {role} corpus has {counted(sizes[role], 'item')}, "
                f"fewer than a batch of {wanted}: all are in every step"
            )
    return notes
