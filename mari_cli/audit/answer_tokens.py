"""Which tokens of an answer say what is to be forgotten.

Shapes: L layers, N supervised positions, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mari_cli.audit.attack import Evidence
from mari_cli.data.tokenize import Item
from mari_cli.models.load import LanguageModel
from mari_cli.suites.generate import decode


def value_places(lm: LanguageModel, evidence: Evidence) -> list[list[int]]:
    """Of each measured item the numbers of the targets that hold the value of its fact; where the corpus
    knows no value, or the answer does not hold it, those of all targets."""
    return [
        places_in(lm, item, record.value)
        for item, record in zip(evidence.items, evidence.records, strict=True)
    ]


def places_in(lm: LanguageModel, item: Item, value: str | None) -> list[int]:
    targets = item.input_ids[item.supervised_from :]
    everything = list(range(len(targets)))
    if value is None:
        return everything
    ends = [len(decode(lm, targets[: count + 1], strip=False)) for count in everything]
    begin = decode(lm, targets, strip=False).casefold().find(value.casefold())
    if begin < 0:
        return everything
    starts = [0, *ends[:-1]]
    return [i for i in everything if starts[i] < begin + len(value) and ends[i] > begin]


def labels_of(items: Sequence[Item]) -> Tensor:
    """[N]: the targets of all items, one after another."""
    return torch.tensor([token for item in items for token in item.input_ids[item.supervised_from :]])


def of_items(values_LN: Tensor, items: Sequence[Item], places: Sequence[Sequence[int]]) -> list[Tensor]:
    """Of each item [L, P]: its columns of ``values_LN`` at the ``places`` among its targets."""
    parts = values_LN.split([item.num_targets for item in items], dim=1)
    return [part[:, list(at)] for part, at in zip(parts, places, strict=True)]
