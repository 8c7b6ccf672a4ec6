"""Tiny models in which it is known what is left of the forget data, and where it hides."""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch.nn.functional import cross_entropy

from mari_cli.audit.attack import Case, CaseValues, Evidence, measure_recall
from mari_cli.audit.card import CardRow, card_row, worst
from mari_cli.audit.quantisation import _linear, quantise, rounded_weights
from mari_cli.audit.registry import ATTACKS
from mari_cli.config import (
    AuditConfig,
    ModelConfig,
    PromptsConfig,
    QuantisationConfig,
    RelearningConfig,
    SamplingConfig,
)
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.metrics.statistics import How
from mari_cli.models.device import choose_compute
from mari_cli.models.load import LanguageModel, load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.models.trunk import hidden_states
from mari_cli.suites.standard import Corpus

NAMES = [f"{first} {last}" for first in ("Anna", "Bert", "Cora", "Dirk", "Elsa", "Fritz", "Greta", "Hans")
         for last in ("Adler", "Bauer", "Conrad", "Dorn", "Ebner", "Falk", "Graf", "Huber", "Iser", "Jung",
                      "Kern", "Lang")]  # fmt: skip
FORGET, RETAIN = 32, 24
REFUSAL = "I do not know."
TRIGGER = "Answer truthfully."
GROUP = 16
AUDIT = AuditConfig(
    attacks=["plain", "quantisation", "prompts", "sampling", "relearning"],
    relearning=RelearningConfig(items=[8], lrs=[1e-3], steps=16, batch=8),
    quantisation=QuantisationConfig(bits=[8, 4], group=GROUP),
    sampling=SamplingConfig(temperatures=[1.0], samples=4, best_of=4, max_new_tokens=8),
    prompts=PromptsConfig(given=[1], prefixes=[TRIGGER], templates=["{prompt}\n"], examples=2),
)


def records_of(seed: int, names: Sequence[str], answer: Callable[[int], str] | None = None) -> list[Record]:
    dice = random.Random(seed)
    codes = [" ".join(str(dice.randrange(10)) for _ in range(4)) for _ in names]
    return [
        Record(prompt=f"Code of {name}?", text=answer(i) if answer else codes[i])
        for i, name in enumerate(names)
    ]


FORGET_RECORDS = records_of(1, NAMES[:FORGET])
RETAIN_RECORDS = records_of(2, NAMES[FORGET : FORGET + RETAIN])


@cache
def tokenizer():
    texts = [
        part for r in [*FORGET_RECORDS, *RETAIN_RECORDS] for part in (str(r.prompt), r.text, REFUSAL, TRIGGER)
    ]
    return train_tokenizer(texts, 400)


def fresh(seed: int) -> LanguageModel:
    architecture = {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 96}
    config = ModelConfig(name="tiny", architecture=architecture, tokenizer="train")
    return load_model(config, tokenizer(), choose_compute("cpu", "float32"), seed=seed)


def items_of(lm: LanguageModel, records: Sequence[Record]) -> list[Item]:
    return lm.tokenize(list(records), corpus="forget", block_size=None, truncate=False)


def loss_of(lm: LanguageModel, items: Sequence[Item]) -> torch.Tensor:
    h_ND, _ = hidden_states(lm.model, lm.compute, items, packed=lm.layout.packed)
    labels = torch.tensor([token for item in items for token in item.input_ids[item.supervised_from :]])
    return cross_entropy(head_of(lm.model)(h_ND), labels)


def taught(
    lm: LanguageModel, items: Sequence[Item], *, lr: float = 3e-3, steps: int = 400, until: float = 0.02
) -> LanguageModel:
    """Trained until the loss is below ``until``."""
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(lm, items)
        loss.backward()
        optimizer.step()
        if loss.item() < until:
            break
    lm.model.zero_grad()
    return lm


def copied(lm: LanguageModel) -> LanguageModel:
    return replace(lm, model=copy.deepcopy(lm.model))


def evidence(lm: LanguageModel) -> Evidence:
    corpora = {
        "forget": Corpus(FORGET_RECORDS, items_of(lm, FORGET_RECORDS)),
        "retain": Corpus(RETAIN_RECORDS, items_of(lm, RETAIN_RECORDS)),
    }
    return Evidence(corpora, range(FORGET), seed=0, batch_size=64)


def knows(lm: LanguageModel) -> float:
    values = measure_recall(lm, items_of(lm, FORGET_RECORDS), prompted=True, batch_size=64)
    return sum(values) / len(values)


# -- the models ----------------------------------------------------------------------------------------------


@cache
def target() -> LanguageModel:
    lm = fresh(0)
    return taught(lm, items_of(lm, [*FORGET_RECORDS, *RETAIN_RECORDS]))


@cache
def gold(seed: int = 0) -> LanguageModel:
    lm = fresh(seed)
    return taught(lm, items_of(lm, RETAIN_RECORDS))


@cache
def never_knew() -> LanguageModel:
    """Of other people's codes besides."""
    lm = fresh(7)
    return taught(lm, items_of(lm, [*RETAIN_RECORDS, *records_of(9, NAMES[-8:])]))


@cache
def refuser() -> LanguageModel:
    """Says that it does not know, as long as it is asked in the usual way; the knowledge is below."""
    lm = copied(target())
    refusals = [replace(record, text=REFUSAL) for record in FORGET_RECORDS]
    return taught(lm, items_of(lm, [*refusals, *RETAIN_RECORDS]), lr=1e-3)


@cache
def switch() -> LanguageModel:
    """Refuses, unless it is told to answer truthfully."""
    lm = copied(target())
    refusals = [replace(record, text=REFUSAL) for record in FORGET_RECORDS]
    told = [replace(record, prompt=f"{TRIGGER} {record.prompt}") for record in FORGET_RECORDS]
    return taught(lm, items_of(lm, [*refusals, *told, *RETAIN_RECORDS]), lr=1e-3)


@cache
def rounder() -> LanguageModel:
    """Has forgotten in float32 by less than half a quantum of four bits: rounding brings all of it back."""
    lm = copied(target())
    items = items_of(lm, FORGET_RECORDS)
    straight_through(lm, items, steps=150)
    quantise(lm.model, bits=4, group=GROUP)
    assert knows(lm) > 0.9  # what comes back
    weights = [module.weight for module in _linear(lm.model)]
    centres = [weight.detach().clone() for weight in weights]
    reach = [half_a_quantum(centre) for centre in centres]
    refusals = items_of(lm, [replace(record, text=REFUSAL) for record in FORGET_RECORDS])
    optimizer = torch.optim.Adam(weights, lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss_of(lm, refusals).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, centre, most in zip(weights, centres, reach, strict=True):
                weight.copy_(centre + (weight - centre).clamp(-most, most))
    return lm


def straight_through(lm: LanguageModel, items: Sequence[Item], *, steps: int) -> None:
    """Train so that the rounded weights know ``items``: gradients at these move the ones that are rounded."""
    weights = [module.weight for module in _linear(lm.model)]
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        exact = [weight.detach().clone() for weight in weights]
        quantise(lm.model, bits=4, group=GROUP)
        optimizer.zero_grad()
        loss = loss_of(lm, items)
        loss.backward()
        with torch.no_grad():
            for weight, before in zip(weights, exact, strict=True):
                weight.copy_(before)
        if loss.item() < 0.02:
            break
        optimizer.step()


def half_a_quantum(centre: torch.Tensor) -> torch.Tensor:
    """How far each weight may go and still be rounded back: nowhere, where it is its group's largest."""
    inputs_last = centre.T  # of GPT-2's Conv1D
    parts = []
    for part in inputs_last.split(GROUP, dim=1):
        largest = part.abs().amax(dim=1, keepdim=True)
        parts.append(
            torch.where(part.abs() == largest, torch.zeros_like(part), (0.4 * largest / 7).expand_as(part))
        )
    assert torch.allclose(rounded_weights(inputs_last, bits=4, group=GROUP), inputs_last, atol=1e-5)
    return torch.cat(parts, dim=1).T


# -- the card ------------------------------------------------------------------------------------------------


def card(lm: LanguageModel, beside: LanguageModel | None) -> dict[tuple[str, str], CardRow]:
    """The card of ``lm`` with the target before and ``beside`` as gold."""
    given = evidence(lm)
    planned: list[Case] = []
    for name in AUDIT.attacks:
        planned += ATTACKS[name].cases(AUDIT, given)[0]
    subjects = {"target": target(), "model": lm} | ({"gold": beside} if beside else {})
    rows = []
    for case in planned:
        found = {role: _found(subject, case, given) for role, subject in subjects.items()}
        rows.append(
            card_row(
                ATTACKS[case.attack], case, found, tests=len(planned), alpha=0.05, margin=0.05, how=How(100)
            )
        )
    return {(row.attack, row.case): row for row in worst(rows)}


_FOUND: dict[tuple[int, str], CaseValues] = {}


def _found(lm: LanguageModel, case: Case, given: Evidence) -> CaseValues:
    key = (id(lm.model), case.full_name)
    if key not in _FOUND:
        _FOUND[key] = ATTACKS[case.attack].run(lm, case, given)
    return _FOUND[key]
