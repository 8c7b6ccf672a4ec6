"""Unlearning as a job for the loop: the items a step sees, what the reference said of them, when to stop."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mari_cli import runs
from mari_cli.config import DPOConfig, MariConfig, UnlearnRun
from mari_cli.data.batches import draw
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.losses import objective as losses
from mari_cli.losses.objective import Needs, Positions, Reference, Step, Terms
from mari_cli.models.head import Head, head_of
from mari_cli.models.load import LanguageModel
from mari_cli.models.reference import ReferenceStates, reference_states
from mari_cli.models.trunk import States
from mari_cli.progress import say, silent, track
from mari_cli.suites.standard import Corpus, quick
from mari_cli.tasks.recording import Recording
from mari_cli.tasks.setting import seed_for
from mari_cli.tasks.training import positions
from mari_cli.train import state
from mari_cli.train.loop import Job, Outcome, fit
from mari_cli.train.step import Group
from mari_cli.train.stop import Evaluation, Verdict, judge


@dataclass(frozen=True)
class References:
    """What the reference, the target before the first step, said where the loss will ask."""

    head: Head
    states: dict[str, ReferenceStates]

    def gather(self, role: str, indices: Sequence[int], device: torch.device) -> torch.Tensor:
        return ReferenceStates.gather(self.states[role].last, indices, device)

    def gather_layer(self, role: str, indices: Sequence[int], device: torch.device) -> torch.Tensor:
        return ReferenceStates.gather(self.states[role].layer, indices, device)


def context_layer(config: UnlearnRun, lm: LanguageModel) -> int:
    """The hidden layer that defines contexts: 0 is the embeddings, the default the middle."""
    assert isinstance(config.loss, MariConfig)
    layers = int(lm.model.config.get_text_config().num_hidden_layers)
    chosen = config.loss.context.layer
    if chosen is not None and chosen > layers:
        raise UserError(
            f"loss.context.layer={chosen}, but `{lm.name}` has {layers} layers", f"choose 0 to {layers}"
        )
    return layers // 2 if chosen is None else chosen


def alternative_items(config: UnlearnRun, lm: LanguageModel, forget: Corpus) -> list[Item]:
    """For every forget item its prompt with an "I don't know" answer, these taken in turn."""
    assert isinstance(config.loss, DPOConfig)
    if any(record.prompt is None for record in forget.records):
        raise UserError(
            "dpo needs prompts, but the forget corpus holds running text", "choose another `loss`"
        )
    answers = config.loss.answers
    records = [
        Record(prompt=forget.record_of(i).prompt, text=answers[i % len(answers)])
        for i in range(len(forget.items))
    ]
    return lm.tokenize(records, corpus="forget", block_size=None, truncate=config.forget.truncate)


def hold_out(corpus: Corpus, fraction: float, seed: int) -> tuple[Corpus, Corpus]:
    """(to train on, to watch): a seeded share of the items is watched and never trained on; 0: watch all."""
    count = round(fraction * len(corpus.items))
    if count == 0 or count == len(corpus.items):
        return corpus, corpus
    watched = set(random.Random(seed).sample(range(len(corpus.items)), count))
    sides = ([i for i in range(len(corpus.items)) if (i in watched) is side] for side in (False, True))
    train, watch = (Corpus(corpus.records, [corpus.items[i] for i in side]) for side in sides)
    return train, watch


def forget(
    config: UnlearnRun,
    lm: LanguageModel,
    corpora: Mapping[str, Corpus],
    alternatives: Sequence[Item],
    objective: losses.Objective,
    needs: Needs,
    layer: int | None,
    record: Recording,
) -> tuple[Outcome, list[str]]:
    """Unlearn ``lm`` in place; it ends with the kept step's weights. Returns notes for the reader, too."""
    train, seed = config.train, config.seed
    retain, validation = hold_out(
        corpora["retain"], config.retain.validation_fraction, seed_for(seed, "retain validation")
    )
    forget_items = corpora["forget"].items
    sizes = {
        "forget": min(train.forget_batch, len(forget_items)),
        "retain": min(train.retain_batch, len(retain.items)),
    }
    items = {"forget": forget_items, "retain": retain.items, "alternative": alternatives}
    seeds = {role: seed_for(seed, f"{role} order") for role in sizes}
    references = remember(lm, items, needs, layer, config)

    def indices_at(step: int) -> dict[str, list[int]]:
        drawn = {role: draw(len(items[role]), sizes[role], step, seed=seeds[role]) for role in sizes}
        if not needs.retain:
            del drawn["retain"]
        if needs.alternative:
            drawn["alternative"] = drawn["forget"]
        return drawn

    def items_at(step: int) -> Group:
        return {role: [items[role][i] for i in indices] for role, indices in indices_at(step).items()}

    def step_objective(step: int, states: Mapping[str, States]) -> Terms:
        indices = indices_at(step)
        reference = refer(references, needs, indices, states)
        by_role = {role: positions(lm, of_role) for role, of_role in states.items()}
        return objective(
            Step(by_role.get("forget"), by_role.get("retain"), by_role.get("alternative"), reference)
        )

    watched = {"forget": corpora["forget"], "retain": validation}
    watched |= {"holdout": corpora["holdout"]} if "holdout" in corpora else {}
    watched = {
        role: corpus.subset(train.evaluate_items, seed_for(seed, "watched"))
        for role, corpus in watched.items()
    }

    def evaluate(step: int) -> dict[str, float]:
        values = quick(
            lm, watched, batch_size=config.metrics.batch_size, min_k=config.metrics.min_k, track=silent
        )
        say(
            f"step {step}: "
            + ", ".join(
                f"{name} {value:.3f}"
                for name, value in values.items()
                if name in ("forget/answer_nll", "retain/token_accuracy", "holdout/answer_nll")
            )
        )
        return values

    def verdict(history: list[dict[str, Any]]) -> Verdict:
        looks = [
            Evaluation(
                step=look["step"],
                forget_nll=look["forget/answer_nll"],
                retain_accuracy=look["retain/token_accuracy"],
                holdout_nll=look.get("holdout/answer_nll"),
            )
            for look in history
        ]
        return judge(looks, train.stop, train.keep)

    job = Job(
        steps=train.steps,
        items_at=items_at,
        objective=step_objective,
        evaluate=evaluate,
        judge=verdict,
        evaluate_every=train.evaluate_every,
    )
    torch.manual_seed(seed_for(seed, "dropout"))
    state_dir = record.run.path / runs.STATE
    record.run.truncate_metrics(state.resumed_step(state_dir))
    outcome = fit(
        lm, job, train, state_dir=state_dir, log=record.log, track=track, description=config.loss.name
    )
    say(outcome.stopped_by or f"all {outcome.steps} steps done")
    say(f"kept: step {outcome.kept_step}")
    return outcome, notes_on(outcome, sizes, train.forget_batch, train.retain_batch)


def remember(
    lm: LanguageModel,
    items: Mapping[str, Sequence[Item]],
    needs: Needs,
    layer: int | None,
    config: UnlearnRun,
) -> References:
    """Ask the reference once, before it changes, for everything that the loss will want of it."""
    wanted = {
        "retain": needs.retain_reference,
        "forget": needs.forget_reference or needs.context_layer,
        "alternative": needs.alternative,
    }
    states = {
        role: reference_states(
            lm, items[role], layer=layer, batch_size=config.metrics.batch_size, track=track, name=role
        )
        for role, asked in wanted.items()
        if asked
    }
    return References(head_of(lm.model).frozen(), states)


def refer(
    references: References, needs: Needs, indices: Mapping[str, Sequence[int]], states: Mapping[str, States]
) -> Reference:
    """The reference's view of one step."""

    def of(role: str) -> Positions:
        of_role = states[role]
        logits_NV = references.head(references.gather(role, indices[role], of_role.h_ND.device))
        return Positions(logits_NV, of_role.labels_N, of_role.sequence_N, of_role.index_N, of_role.sequences)

    def layer_of(role: str) -> torch.Tensor:
        return references.gather_layer(role, indices[role], states[role].h_ND.device)

    return Reference(
        retain_NV=of("retain").logits_NV if needs.retain_reference else None,
        forget=of("forget") if needs.forget_reference else None,
        alternative=of("alternative") if needs.alternative else None,
        retain_states_ND=layer_of("retain") if needs.context_layer else None,
        forget_states_MD=layer_of("forget") if needs.context_layer else None,
    )


def notes_on(outcome: Outcome, sizes: Mapping[str, int], forget_batch: int, retain_batch: int) -> list[str]:
    notes = []
    if outcome.kept_step == 0:
        notes.append(
            "no checkpoint passed the retain rule: the target itself was kept, and nothing was forgotten"
        )
    for role, wanted in (("forget", forget_batch), ("retain", retain_batch)):
        if sizes[role] < wanted:
            notes.append(
                f"the {role} corpus has {sizes[role]} items, "
                f"fewer than a batch of {wanted}: all are in every step"
            )
    return notes
