"""Text that the model generates: greedy or sampled answers to prompts, and continuations of running text."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from mari_cli import distributed
from mari_cli.data.batches import length_sorted
from mari_cli.data.tokenize import Item
from mari_cli.models.continuation import Choose, continued
from mari_cli.models.load import LanguageModel
from mari_cli.progress import Track


def question_and_truth(item: Item) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of a prompt, and those that should follow: prompt and completion, or halves of a block."""
    start = item.supervised_from if item.supervised_from > 1 else max(1, len(item.input_ids) // 2)
    return item.input_ids[:start], item.input_ids[start:]


@dataclass(frozen=True)
class Sampling:
    """Samples from softmax(logits / temperature): the largest logit after Gumbel noise is added (E. J. Gumbel
    1954). The noise depends only on the seed, the question's number and the token's place, so batches and
    processes change no answer."""

    temperature: float
    seed: int

    def of(self, questions: Sequence[int]) -> Choose:
        """A function that chooses the next token of ``questions``."""

        def choose(place: int, logits_BV: Tensor) -> Tensor:
            size = logits_BV.shape[1]
            noise_BV = torch.stack([self._noise(number, place, size) for number in questions])
            return (logits_BV / self.temperature + noise_BV.to(logits_BV)).argmax(-1)

        return choose

    def _noise(self, question: int, place: int, size: int) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {question} {place}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        return -torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log()


@torch.no_grad()
def generate(
    lm: LanguageModel,
    questions: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    track: Track,
    description: str,
    sampling: "Sampling | None" = None,
) -> list[list[int]]:
    """The token ids that follow each of ``questions``: greedy, or sampled by ``sampling``, up to a stop
    token, at most ``max_new_tokens`` and as many as the context holds. Other generation settings of a
    checkpoint are not used."""
    lm.model.eval()
    ends = lm.stop_token_ids
    answers: list[list[int]] = [[] for _ in questions]

    def of_batch(indices: list[int]) -> list[list[int]]:
        width = max(len(questions[i]) for i in indices)  # shortens no answer (`_batches`)
        room = min(max_new_tokens, lm.max_length - width)
        if room <= 0:
            return [[] for _ in indices]
        choose = None if sampling is None else sampling.of(indices)
        starts = [questions[i] for i in indices]
        new_BT = continued(lm, starts, new_tokens=room, ends=ends, choose=choose)
        return [_until(ends, new_T.tolist()) for new_T in new_BT]

    batches = _batches([len(question) for question in questions], batch_size, lm.max_length - max_new_tokens)
    results = track(distributed.map_over_processes(batches, of_batch), description, len(batches))
    for indices, result in zip(batches, results, strict=True):
        for i, generated in zip(indices, result, strict=True):
            answers[i] = generated
    return answers


def _batches(lengths: Sequence[int], batch_size: int, roomy: int) -> list[list[int]]:
    """Batches in which no question shortens the answer to another: questions of at most ``roomy`` tokens
    share batches, longer ones only with others of their length."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(max(length, roomy), []).append(i)
    return [
        [group[place] for place in batch]
        for _, group in sorted(groups.items())
        for batch in length_sorted([lengths[i] for i in group], batch_size)
    ]


def _until(ends: Collection[int], ids: list[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, ids))


def decode(lm: LanguageModel, ids: Sequence[int], *, strip: bool = True) -> str:
    text = str(lm.tokenizer.decode(list(ids), skip_special_tokens=True))
    return text.strip() if strip else text
