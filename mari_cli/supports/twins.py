"""Twins: q is the prediction of the model before step 1 for inputs whose forget names are replaced by others.

A twin of an item has other names: each key token is replaced, wherever it is a key, by a random token of the
same class from names in the retain data. The model predicts the twin's next tokens, and the tokens are
swapped back. The mean over S twins is r. What the true names add is subtracted, with a factor a:

    log q = log r + a · min(0, log r − log p0) − const,      p0: the model before step 1, in the true context

(the positive pointwise marginal information of a token is log p0 − log r). A token that the item also holds
where it is no key keeps its own probability there.

After the first tokens of a true answer even a twin predicts the rest. So a twin is asked in two ways.
*plain*: after the true answer's tokens. *generated*: each answer token that only the true names explain,
p0(y | true context) > `EXPLAINED` · p(y | twin), is replaced by a draw from the twin, from left to right.
*plain* knows too much, *generated* too little; between them is

    log r = (1 − λ) log r_plain + λ log r_generated − const

A model that knows its data by heart is certain of what it does not know, too: more certain than r. Where
answers are long, a contrast that gives r such losses makes too many tokens wrong. A power β leaves the same
tokens right, and takes the contrast's place there:

    log q = β log r − const

Cost: S + 1 forward passes of the forget data; generated, for each twin two more, token by token. (Not from
the paper.) Shapes: m positions of a batch, c of a chunk, S twins, D hidden size, V vocabulary.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mari_cli.data.batches import length_sorted
from mari_cli.data.spans import Located, Word
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.lm_head import Head
from mari_cli.losses.engine import log_probabilities
from mari_cli.models.backbone import hidden_states
from mari_cli.models.continuation import continued
from mari_cli.models.load import LanguageModel
from mari_cli.models.reference import StoredReference
from mari_cli.progress import track
from mari_cli.supports.keys import Keys
from mari_cli.supports.sparse import DRAWN, Write

DEFINITION = 2
"""Part of every cache key: raise it when twins are computed in another way."""
COMBINED = 3
"""The same for `combined`."""
RARE = 0.1
"""A name of the retain data is a word with a capital in at most this share of the retain items."""
EXPLAINED = 2.0
"""An answer token is drawn anew if the true context makes it more than this many times as probable."""
TRIES = 50
"""Random draws from a pool before the pool is searched."""


class Way(StrEnum):
    """The tokens of a twin's answer."""

    plain = "plain"  # those of the true answer
    generated = "generated"  # drawn from the twin where only the true names explain the true token


class TokenClass(StrEnum):
    """The class of a token: it is swapped for a token of its class."""

    after_space = "after_space"  # begins a word after white space
    elsewhere = "elsewhere"  # begins a word after another character, or begins a text
    inside = "inside"  # continues a word


SwapTokens = Mapping[TokenClass, Sequence[int]]
"""Tokens that key tokens are swapped for, by class, sorted by token number."""


def kinds(located: Located, words: Sequence[Word]) -> dict[int, TokenClass]:
    """The class of each token that overlaps one of ``words``, by its place."""
    found: dict[int, TokenClass] = {}
    for token, (start, end) in enumerate(located.tokens):
        for word in words:
            if start < word.end and end > word.start:
                begins = start <= word.start
                space = located.text[word.start - 1 : word.start].isspace()
                kind = TokenClass.after_space if space else TokenClass.elsewhere
                found[token] = kind if begins else TokenClass.inside
                break
    return found


def name_pools(retain: Sequence[Located], items: Sequence[Item]) -> SwapTokens:
    """The tokens of names in the retain data by class: of rare words with a capital; if there are none, of
    all words with a capital; else of all words. Raises UserError where the retain data holds no word."""
    spread = Counter(name for located in retain for name in {w.name for ws in located.words() for w in ws})
    most = RARE * len(retain)
    tests: tuple[Callable[[Word], bool], ...] = (
        lambda word: word.capital and spread[word.name] <= most,
        lambda word: word.capital,
        lambda word: True,
    )
    for test in tests:
        pools: dict[TokenClass, set[int]] = {kind: set() for kind in TokenClass}
        for located, item in zip(retain, items, strict=True):
            chosen = [word for words in located.words() for word in words if test(word)]
            for token, kind in kinds(located, chosen).items():
                pools[kind].add(item.input_ids[token])
        if any(pools.values()):
            return {kind: sorted(pool) for kind, pool in pools.items()}
    raise UserError(
        "the retain corpus holds no word to swap a key string for",
        "take another source (`loss=mari_base`, `loss=mari_context`)",
    )


@dataclass(frozen=True)
class Named:
    """One forget item and its key tokens."""

    item: Item
    keys: Mapping[int, TokenClass]
    """Places of the key tokens in the item."""

    def of_prompt(self) -> "Named":
        """The item with only those key tokens that are not predicted; running text keeps all."""
        if self.item.supervised_from == 1:
            return self
        keys = {place: kind for place, kind in self.keys.items() if place < self.item.supervised_from}
        return replace(self, keys=keys)


@dataclass(frozen=True)
class Names:
    """What is swapped for what."""

    keys: Keys
    named: Sequence[Named]
    pools: SwapTokens


def name_tokens(item: Item, located: Located, tokens: Sequence[int]) -> Named:
    """``tokens``: places of the key tokens. Tokens without a letter or digit are dropped."""
    words = [word for words in located.words() for word in words]
    of_words = kinds(located, words)
    return Named(
        item,
        {
            token: of_words[token]
            for token in tokens
            if token in of_words and any(map(str.isalnum, located.text[slice(*located.tokens[token])]))
        },
    )


def of_swappable(whose: Named, pools: SwapTokens) -> Named:
    """The item; without its keys if it holds every token of ``pools``, so that nothing can be swapped."""
    own = set(whose.item.input_ids)
    return whose if any(not own.issuperset(pool) for pool in pools.values()) else replace(whose, keys={})


def swaps(whose: Named, pools: SwapTokens, chance: random.Random) -> dict[int, int]:
    """A different replacement for each key token; no replacement stands in the item."""
    used = set(whose.item.input_ids)
    found: dict[int, int] = {}
    for place, kind in sorted(whose.keys.items()):
        token = whose.item.input_ids[place]
        if token in found:
            continue
        other = _other(kind, pools, used, chance)
        if other is not None:
            found[token] = other
            used.add(other)
    return found


def _other(kind: TokenClass, pools: SwapTokens, used: set[int], chance: random.Random) -> int | None:
    """A token of ``kind``, else of another class; None where all are used."""
    for pool in (pools[kind], *(pools[other] for other in TokenClass if other is not kind)):
        for _ in range(min(TRIES, len(pool))):
            if (token := chance.choice(pool)) not in used:
                return token
        if left := [token for token in pool if token not in used]:
            return chance.choice(left)
    return None


@dataclass(frozen=True)
class Twin:
    ids: tuple[int, ...]
    swapped: Mapping[int, int]
    """The item's token to the twin's token."""
    back: tuple[tuple[tuple[int, int], ...], ...]
    """For each target, the pairs of tokens whose probabilities are swapped back."""


def twin(whose: Named, pools: SwapTokens, chance: random.Random, *, of_prompt: bool = False) -> Twin:
    """``of_prompt``: only tokens that are keys in the prompt are swapped, in prompt and answer."""
    swapped = swaps(whose.of_prompt() if of_prompt else whose, pools, chance)
    return Twin(
        tuple(
            swapped[token] if place in whose.keys and token in swapped else token
            for place, token in enumerate(whose.item.input_ids)
        ),
        swapped,
        tuple(
            tuple(pair for pair in swapped.items() if place in whose.keys or pair[0] != token)
            for place, token in enumerate(whose.item.input_ids)
            if place >= whose.item.supervised_from
        ),
    )


def swap_back(log_p_cV: Tensor, pairs: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """Swap the two columns of each pair, row by row, in place."""
    flat = [(row, *pair) for row, of_row in enumerate(pairs) for pair in of_row]
    if flat:
        row, one, two = torch.tensor(flat, device=log_p_cV.device).T
        first, second = log_p_cV[row, one], log_p_cV[row, two]
        log_p_cV[row, one], log_p_cV[row, two] = second, first
    return log_p_cV


def blended(log_plain: Tensor, log_generated: Tensor, share: float) -> Tensor:
    """(1 − λ) log r_plain + λ log r_generated, λ = ``share`` in [0, 1], not normalised. A probability that is
    0 in both stays 0."""
    return torch.where(log_plain > -math.inf, torch.lerp(log_plain, log_generated, share), log_plain)


def contrasted(log_r: Tensor, log_p0: Tensor, contrast: float) -> Tensor:
    """log r + a · min(0, log r − log p0), not normalised. A probability of 0 stays 0."""
    taken_off = contrast * (log_r - log_p0).clamp_max(0)
    return torch.where(log_r > -math.inf, log_r + taken_off, log_r)


def combined(log_p: Mapping[str, Tensor], *, generated: float, contrast: float, power: float) -> Tensor:
    """log q [m, K+1], not normalised, of log-probabilities [m, L], of each `Way` and of the model `before`.
    ``generated`` is λ, ``contrast`` is a, ``power`` is β.

    The tail of q is Σ q(i) over its tokens i. Of the drawn tokens the sum of q and that of r are known: their
    ratio times the tail of r is the tail of q. It is exact where nothing but one way's r is asked for, or
    where all tokens are stored or drawn.
    """

    def both(of: Mapping[str, Tensor]) -> Tensor:
        if generated in (0, 1):
            return of[Way.generated if generated else Way.plain]
        return blended(of[Way.plain], of[Way.generated], generated)

    log_r = both(log_p)
    log_q = power * contrasted(log_r, log_p["before"], contrast)
    weight_mR = log_p.get(DRAWN, log_q[:, :0])
    tail = log_q.shape[1] - weight_mR.shape[1] - 1
    sums = {way.value: (weight_mR + log_p[way][:, tail + 1 :]).logsumexp(1) for way in Way if way in log_p}
    of_q_m = (weight_mR + log_q[:, tail + 1 :]).logsumexp(1)
    tail_m = torch.where(of_q_m > -math.inf, log_r[:, tail] + of_q_m - both(sums), -math.inf)
    return torch.cat([log_q[:, :tail], tail_m.unsqueeze(1)], 1)


@torch.no_grad()
def ask_twins(
    lm: LanguageModel,
    head: Head,
    forget: StoredReference,
    whose: Sequence[Named],
    pools: SwapTokens,
    write: Write,
    *,
    twins: int,
    ways: Sequence[Way],
    seed: int,
    chunk: int,
    batch_size: int,
) -> None:
    """Give ``write`` log r of each of ``ways`` and log p0 (`before`) at all forget positions.

    ``forget`` holds the states of all items under ``lm``, whose head is ``head``. The random draws for an
    item depend on ``seed`` and the item's number alone.
    """
    lm.model.eval()
    batches = list(length_sorted([len(one.item.input_ids) for one in whose], batch_size))
    for batch in track(batches, "twins", len(batches)):
        slices = [forget.rows.slices[i] for i in batch]
        at_m = torch.cat([torch.arange(rows.start, rows.stop) for rows in slices])
        before_mD = forget.states(batch)
        label_m = forget.labels_N[at_m].to(lm.device)
        drawn = {
            way: [
                [_PendingTwin(whose[i], pools, f"{seed} {i} {number}", way) for i in batch]
                for number in range(twins)
            ]
            for way in ways
        }
        if Way.generated in drawn:
            p0_m = log_probabilities(head, before_mD, label_m, chunk=chunk).exp().cpu()
            for of_number in drawn[Way.generated]:
                _generate(lm, of_number, p0_m, chunk=chunk)
        states = {
            way: [_states(lm, of_number, before_mD.dtype) for of_number in asked]
            for way, asked in drawn.items()
        }
        pairs = {
            way: [[pairs for one in of_number for pairs in one.twin.back] for of_number in asked]
            for way, asked in drawn.items()
        }
        for start in range(0, len(at_m), chunk):
            here = slice(start, start + chunk)
            log_p_cV = {
                way.value: _mean_of_twins(
                    head, [h_mD[here] for h_mD in states[way]], [of[here] for of in pairs[way]]
                )
                for way in ways
            }
            log_p0_cV = head(before_mD[here]).log_softmax(-1)
            write(at_m[here], {**log_p_cV, "before": log_p0_cV})


def _mean_of_twins(head: Head, states: Sequence[Tensor], pairs: Sequence[Sequence[Any]]) -> Tensor:
    """log r [c, V]: the mean of the twins' predictions at these positions, in the item's own tokens."""
    log_r_cV = None
    for h_cD, of_twin in zip(states, pairs, strict=True):
        log_p_cV = swap_back(head(h_cD).log_softmax(-1), of_twin)
        log_r_cV = log_p_cV if log_r_cV is None else torch.logaddexp(log_r_cV, log_p_cV)
    assert log_r_cV is not None
    return log_r_cV - math.log(len(states))


class _PendingTwin:
    """A twin whose tokens may still be drawn anew."""

    def __init__(self, whose: Named, pools: SwapTokens, seed: str, way: Way) -> None:
        chance = random.Random(seed)  # a string seed is hashed, so neighbouring numbers give unrelated draws
        self.whose = whose
        self.twin = twin(whose, pools, chance, of_prompt=way is Way.generated)
        self.ids = list(self.twin.ids)
        self.chance = chance


def _states(lm: LanguageModel, asked: Sequence[_PendingTwin], dtype: torch.dtype) -> Tensor:
    """Hidden states at the targets of each twin [m, D], rounded to ``dtype`` as the reference's are."""
    items = [replace(one.whose.item, input_ids=tuple(one.ids)) for one in asked]
    h_mD, _ = hidden_states(lm.model, lm.compute, items, packed=lm.layout.packed)
    return h_mD.to(dtype)


def _generate(lm: LanguageModel, asked: Sequence[_PendingTwin], p0_m: Tensor, *, chunk: int) -> None:
    """Draw anew, in place, the answer tokens that only the true names explain, for at most ``chunk`` items at
    a time, whose longest prompt and longest answer fit the context together.

    ``p0_m``: the probability of each target, item by item, in the true context.
    """
    p0 = [of_item.tolist() for of_item in p0_m.split([one.whose.item.num_targets for one in asked])]
    parts: list[list[tuple[_PendingTwin, list[float]]]] = []
    for row in [(one, of_item) for one, of_item in zip(asked, p0, strict=True) if len(of_item) > 1]:
        rows = [*(parts.pop() if parts else []), row]
        fits = len(rows) <= chunk and sum(_widest(rows)) <= lm.max_length
        parts += [rows] if fits else [rows[:-1], [row]]
    for rows in parts:
        starts = [one.ids[: one.whose.item.supervised_from] for one, _ in rows]
        continued(lm, starts, new_tokens=_widest(rows)[1], choose=partial(_choose, rows))


def _widest(rows: Sequence[tuple[_PendingTwin, Sequence[float]]]) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest answer. No target depends on the last one."""
    prompts = (one.whose.item.supervised_from for one, _ in rows)
    return max(prompts), max(len(of_item) for _, of_item in rows) - 1


def _choose(rows: Sequence[tuple[_PendingTwin, Sequence[float]]], target: int, logits_BV: Tensor) -> Tensor:
    """The token of each twin at this ``target`` [B]: drawn where only the true names explain the true one."""
    here = [row for row, (_, p0) in enumerate(rows) if target < len(p0) - 1]
    p_cV = logits_BV[here].float().softmax(-1)
    back_cV = swap_back(p_cV.clone(), [rows[row][0].twin.back[target] for row in here])
    chosen = [0] * len(rows)  # tokens after the end of an item are ignored
    for row, p_V, back_V in zip(here, p_cV.cpu(), back_cV.cpu(), strict=True):
        one, p0 = rows[row]
        place = one.whose.item.supervised_from + target
        label = one.whose.item.input_ids[place]
        untouched = one.ids[place] == label
        if untouched and p0[target] > EXPLAINED * back_V[label].item():
            sums_V = p_V.double().cumsum(0)
            mark = one.chance.random() * sums_V[-1].item()
            one.ids[place] = min(int(torch.searchsorted(sums_V, mark, right=True)), len(p_V) - 1)
        chosen[row] = one.ids[place]
    return torch.tensor(chosen, device=logits_BV.device)
