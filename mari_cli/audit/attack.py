"""What an attack is: cases, each of which gives every forget item a number, larger the more comes back.

All models are asked the same cases of the same items, so that they are compared in pairs.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import torch

from mari_cli.config import AuditConfig
from mari_cli.data.records import Fact, Record
from mari_cli.data.tokenize import Item
from mari_cli.models.load import LanguageModel
from mari_cli.progress import silent
from mari_cli.suites.generate import decode, question_and_truth
from mari_cli.suites.scores import score
from mari_cli.suites.standard import Corpus


class ChatUse(StrEnum):
    """Whether questions are written in the tokenizer's chat template."""

    none = "none"  # the tokenizer has no chat template
    on = "on"
    off = "off"
    refused = "refused"  # off, and the template cannot write a question


def _nobody(role: str) -> LanguageModel:
    raise KeyError(role)


@dataclass(frozen=True)
class Evidence:
    """What every model is asked about."""

    corpora: Mapping[str, Corpus]
    chosen: Sequence[int]
    """Places in the forget corpus of the items that are measured."""
    seed: int
    batch_size: int
    layers: int = 0
    """Layers of the models that can be read; 0: none."""
    roles: Collection[str] = ()
    """The models of the audit: `target`, `model`, `gold`, `second_gold`."""
    chat: ChatUse = ChatUse.none
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    """Where the models compute."""
    beside: Callable[[str], LanguageModel] = _nobody
    """Loads the model of a role, for the cases that compare the attacked model with it."""

    @property
    def items(self) -> list[Item]:
        return [self.corpora["forget"].items[i] for i in self.chosen]

    @property
    def records(self) -> list[Record]:
        return [self.corpora["forget"].record_of(i) for i in self.chosen]

    def places(self, corpus: str) -> Sequence[int]:
        """Places of the items that are measured: of other corpora as many as of the forget corpus."""
        if corpus == "forget":
            return self.chosen
        return evenly(range(len(self.corpora[corpus].items)), len(self.chosen))

    @property
    def has_prompts(self) -> bool:
        return all(record.prompt is not None for record in self.records)


@dataclass(frozen=True)
class Case:
    """One setting of one attack."""

    attack: str
    name: str
    """Unique within the attack: `16_items_lr_0.001`."""
    says: str
    """What is done, in words."""
    settings: Mapping[str, Any]
    """All that determines it beside model, items and seed."""
    passes: float
    """Its cost: forward passes for each measured item."""
    group: str = ""
    """Cases of one group are one row of the card: the worst of them is shown."""
    beside: tuple[str, ...] = ()
    """Roles of the models, `target` or `gold`, that it sets the attacked one beside."""
    corpus: str = "forget"
    """The role of the corpus that its values are about."""
    taught: int = 0
    """How many of the measured items it teaches, and does not ask."""
    chance: float = 0.0
    """Of a case against gold, the value of a model that is gold itself."""
    verdict: str = ""
    """What a model is called that is above chance, where that alone says so; empty: the attack's verdict, and
    only a second gold says how much is more than two golds differ."""

    @property
    def full_name(self) -> str:
        return f"{self.attack}/{self.name}"

    @property
    def against_gold(self) -> bool:
        """Whether its values are of the attacked model beside gold, so that gold itself has none."""
        return "gold" in self.beside

    @property
    def row(self) -> str:
        return self.group or self.name

    def most_asked(self, evidence: Evidence) -> int:
        """The most items that it gives a value: those that it teaches, it does not ask."""
        return len(evidence.places(self.corpus)) - self.taught


@dataclass(frozen=True)
class CaseValues:
    """What a case has found in one model."""

    values: list[float | None]
    """For each measured item, larger the more is there; None where the case does not ask about it."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What else was seen, as a curve over steps; no text."""


@dataclass(frozen=True)
class AuditAttack:
    name: str
    verdict: str
    """What a model is called of which it brings back more than of gold."""
    cases: Callable[[AuditConfig, Evidence], tuple[list[Case], list[str]]]
    """Its cases, and what is left out and why."""
    run: Callable[[LanguageModel, Case, Evidence], CaseValues]
    """Leaves the model as it was."""


def chosen_items(corpus: Corpus, most: int | None) -> list[int]:
    """Places of the items that are measured: those of unique facts where the corpus marks facts, else all; of
    more than ``most`` every second, third, … one."""
    facts = [corpus.record_of(i).fact for i in range(len(corpus.items))]
    places = [i for i, fact in enumerate(facts) if fact in (Fact.unique, None)]
    return evenly(places, most)


def evenly(places: Sequence[int], most: int | None) -> list[int]:
    """At most so many of ``places``, with equal gaps between them."""
    if most is None or len(places) <= most:
        return list(places)
    return [places[i * len(places) // most] for i in range(most)]


def measure_recall(
    lm: LanguageModel, items: Sequence[Item], *, prompted: bool, batch_size: int
) -> list[float]:
    """Of pairs 1 where greedy decoding recites the whole answer, else 0; of running text the share that is
    recited after what stands before it (extraction strength, Carlini et al. 2021)."""
    scored = score(lm, items, batch_size=batch_size, min_k=0.4, track=silent, description="")
    return scored.column("exact_match" if prompted else "extraction_strength")


def wanted_of(lm: LanguageModel, evidence: Evidence, i: int) -> str:
    """What a generated answer to measured item ``i`` must hold: the value of the fact where the corpus knows
    it, else the whole answer."""
    return evidence.records[i].value or decode(lm, question_and_truth(evidence.items[i])[1])


def mean(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return sum(there) / len(there)


@contextmanager
def restored(model: torch.nn.Module) -> Iterator[None]:
    """Whatever becomes of the weights of ``model`` inside, they are as before after it."""
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    needed = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        model.load_state_dict(before)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(needed[name])
            parameter.grad = None
