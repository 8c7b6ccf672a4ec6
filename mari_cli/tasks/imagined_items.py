"""Items of which only the lengths are known: `--lengths` stands for the corpora of a planned run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, counted
from mari_cli.tasks.forgetting import STREAM_OF, Draws
from mari_cli.train.step import Group


@dataclass(frozen=True)
class Alike(Sequence[Item]):
    """``size`` items of which only the lengths are imagined: they are one, and take the room of one."""

    item: Item
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self.item] * len(range(self.size)[at])
        if not 0 <= at < self.size:
            raise IndexError(at)
        return self.item


class Imagined(Draws):
    """Draws from such items: nobody needs to shuffle them, or to look at each."""

    def items_at(self, step: int) -> Group:
        return {role: self.items[role][: self.sizes[STREAM_OF[role]]] for role in self.needs.roles}

    def count(self, role: str) -> int:
        return len(self.items[role])

    def targets(self, role: str, *, whole: bool) -> int:
        return len(self.items[role]) * self.items[role][0].num_targets


def imagined_items(lengths: str, config: UnlearnRun, max_length: int) -> dict[str, Sequence[Item]]:
    """Items of the lengths that ``lengths`` asks for, as many as the run draws, none of which comes twice."""
    parts = lengths.split(",")
    shapes = [_shape(part, lengths, max_length) for part in parts]
    if len(shapes) > 2:
        raise UserError(f"`--lengths {lengths}` has {len(parts)} parts", "forget and retain, or one for both")
    train = config.train

    def some(shape: tuple[int, int], batch: int) -> Alike:
        tokens, start = shape
        return Alike(Item((0,) * tokens, start, 0), batch * train.steps)

    forget = some(shapes[0], train.forget_batch)
    return {"forget": forget, "retain": some(shapes[-1], train.retain_batch), "alternative": forget}


def _shape(part: str, whole: str, max_length: int) -> tuple[int, int]:
    """(tokens, index of the first that is a target)."""
    try:
        counts = [int(word) for word in part.split("+")]
    except ValueError:
        counts = []
    if not (1 <= len(counts) <= 2 and min(counts) >= 1 and sum(counts) >= 2):
        raise UserError(
            f"`--lengths {whole}` is no number of tokens",
            "`512` for running text, `64+48` for a prompt and its answer, `512,1024` for forget and retain",
        )
    if sum(counts) > max_length:
        raise UserError(
            f"`--lengths {whole}` is longer than the model takes, {counted(max_length, 'token')}",
            "shorten it, or set `model.max_length`",
        )
    return sum(counts), counts[0] if len(counts) == 2 else 1


def total_over(items: Sequence[Item], of: Callable[[Item], int]) -> int:
    """The sum over ``items``; imagined ones are one item, so many times."""
    return len(items) * of(items[0]) if isinstance(items, Alike) else sum(map(of, items))
