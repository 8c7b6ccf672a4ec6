"""Twins: names swapped, predictions swapped back, and what is drawn depends on nothing but seed and item."""

import math
import random
from functools import lru_cache

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mari_cli.config import Device, ModelConfig, Precision
from mari_cli.data.records import Record
from mari_cli.data.spans import locate
from mari_cli.data.tokenize import Item, PromptStyle, tokenize
from mari_cli.lm_head import head_of
from mari_cli.models.backbone import hidden_states
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.reference import store_reference
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.supports import twins
from mari_cli.supports.sparse import in_part, most_probable, with_tail
from mari_cli.supports.twins import (
    Named,
    TokenClass,
    Way,
    ask_twins,
    blended,
    combined,
    contrasted,
    name_pools,
    name_tokens,
    swap_back,
    twin,
)

STYLE = PromptStyle("Question: {prompt}\nAnswer: ", chat=False)
RETAIN = [Record(prompt=f"Who is {name}?", text=f"{name} is a dyer.") for name in ("Lena Holt", "Igor Venn")]
POOLS = {
    TokenClass.after_space: [70, 71, 72],
    TokenClass.elsewhere: [73],
    TokenClass.inside: [80, 81, 82, 83],
}
KEYED = Item((1, 40, 41, 50, 40, 41, 51, 40, 2), 4, 0)
"""Tokens 40 and 41 are a name: 40 begins a word, 41 goes on. In the end 40 stands for something else."""
NAMED = Named(KEYED, dict(zip([1, 2, 4, 5], [TokenClass.after_space, TokenClass.inside] * 2, strict=True)))


@lru_cache
def lm():
    architecture = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64}
    tokenizer = train_tokenizer([f"{r.prompt} {r.text}" for r in RETAIN] * 3, 300)
    made = load_model(
        ModelConfig(name="tiny", architecture=architecture, tokenizer="train"),
        tokenizer,
        choose_compute(Device.cpu, Precision.float32),
        seed=0,
    )
    with torch.no_grad():  # an untrained model says the same to everybody
        for parameter in made.model.parameters():
            parameter.mul_(4)
    return made


def asked(whose, tmp_path, **changed):
    """log r and log p0 [M, V] of items, through `ask_twins`."""
    items = [one.item for one in whose]
    remembered = store_reference(
        lm(), items, None, states=True, layer=None, log_probability=None, directory=tmp_path,
        weights="", batch_size=4, name="forget",
    )  # fmt: skip
    shape = len(remembered.labels_N), len(lm().tokenizer)
    ways = changed.get("ways", (Way.plain,))
    said = {name: torch.full(shape, math.nan) for name in (*ways, "before")}

    def write(at, log_p):
        for name, log_p_cV in log_p.items():
            said[name][at] = log_p_cV.float()

    options = {"twins": 3, "ways": ways, "seed": 5, "chunk": 7, "batch_size": 4} | changed
    ask_twins(lm(), head_of(lm().model), remembered, whose, POOLS, write, **options)
    return said


def test_a_twin_has_other_names_of_the_same_kind_where_they_are_names():
    found = twin(NAMED, POOLS, random.Random(1))
    assert set(found.swapped) == {40, 41}
    one, two = found.swapped[40], found.swapped[41]
    assert one in POOLS[TokenClass.after_space]
    assert two in POOLS[TokenClass.inside]
    assert found.ids == (1, one, two, 50, one, two, 51, 40, 2)


def test_a_token_that_is_no_name_somewhere_keeps_its_own_probability_there():
    back = twin(NAMED, POOLS, random.Random(1)).back
    assert len(back) == KEYED.num_targets
    pairs = [dict(of_target) for of_target in back]
    assert [40 in of_target for of_target in pairs] == [True, True, True, False, True]
    assert all(41 in of_target for of_target in pairs)


def test_names_are_never_swapped_for_a_token_of_the_item_nor_two_for_one():
    crowded = Named(
        Item((1, 40, 41, 70, 71, 80), 2, 0),
        {1: TokenClass.after_space, 2: TokenClass.inside, 5: TokenClass.inside},
    )
    for seed in range(20):
        swapped = twin(crowded, POOLS, random.Random(seed)).swapped
        assert len(set(swapped.values())) == 3
        assert not set(swapped.values()) & set(crowded.item.input_ids)
        assert swapped[40] == 72


def test_where_a_kind_is_used_up_another_serves_and_where_all_are_nothing_is_swapped():
    pools = {TokenClass.after_space: [40], TokenClass.elsewhere: [], TokenClass.inside: [80]}
    whose = Named(Item((1, 40, 41, 50), 3, 0), {1: TokenClass.after_space, 2: TokenClass.inside})
    assert twin(whose, pools, random.Random(0)).swapped == {40: 80}


def test_swapped_back_twice_is_where_it_was():
    log_p = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = [[(1, 4), (0, 8)], [], [(2, 3)]]
    once = swap_back(log_p.clone(), pairs)
    assert torch.equal(once[0, [1, 4, 0, 8]], log_p[0, [4, 1, 8, 0]])
    assert torch.equal(once[1], log_p[1])
    assert torch.equal(swap_back(once, pairs), log_p)


def test_an_item_without_keys_is_its_own_twin(tmp_path):
    items = [Item((1, 5, 9, 33, 12), 2, 0), Item((1, 7, 30), 1, 1)]
    said = asked([Named(item, {}) for item in items], tmp_path)
    torch.testing.assert_close(said["plain"], said["before"], rtol=1e-5, atol=1e-5)


def test_the_mean_over_twins_is_the_dense_formula(tmp_path):
    """r = (1/S) Σ_s p(· | twin s), with the two columns of each pair in each other's place."""
    whose = [NAMED, Named(Item((1, 40, 9, 33, 12), 2, 0), {1: TokenClass.after_space})]
    said = asked(whose, tmp_path)
    row = 0
    for number, one in enumerate(whose):
        r = 0
        for s in range(3):
            made = twin(one, POOLS, random.Random(f"5 {number} {s}"))
            h, _ = hidden_states(lm().model, lm().compute, [Item(made.ids, one.item.supervised_from, 0)])
            p = head_of(lm().model)(h).double().softmax(-1)
            for at, pairs in enumerate(made.back):
                for a, b in pairs:
                    p[at, [a, b]] = p[at, [b, a]]
            r = r + p / 3
        torch.testing.assert_close(said["plain"][row : row + len(r)], r.log().float(), rtol=1e-4, atol=1e-4)
        row += len(r)


@pytest.mark.parametrize("way", Way)
def test_batches_and_chunks_do_not_matter(way, tmp_path):
    generator = torch.Generator().manual_seed(3)
    whose = []
    for number in range(5):
        ids = torch.randint(2, 60, (8 + number,), generator=generator).tolist()
        whose.append(Named(Item((1, 40, 41, *ids), 4, number), NAMED.of_prompt().keys))
    whole = asked(whose, tmp_path, ways=(way,))
    for changed in ({"batch_size": 1}, {"batch_size": 5, "chunk": 1}, {"chunk": 100}):
        cut = asked(whose, tmp_path, ways=(way,), **changed)
        torch.testing.assert_close(cut[way], whole[way], rtol=1e-4, atol=1e-4)
    other = asked(whose, tmp_path, ways=(way,), seed=6)
    assert not torch.allclose(other[way], whole[way], atol=1e-3)


def test_a_long_prompt_and_a_long_answer_are_not_continued_in_one_batch(tmp_path):
    """Together they are longer than the context, at whose end a model with learnt positions ends."""
    name, kind = [40, 41], [TokenClass.after_space, TokenClass.inside]
    long = {
        "prompt": Item((1, *name, *[30] * 55, 50, 51, 2), 58, 0),
        "answer": Item((1, *name, *[50, 51] * 28, 2), 3, 1),
    }
    whose = [Named(item, dict(zip([1, 2], kind, strict=True))) for item in long.values()]
    found = asked(whose, tmp_path, ways=(Way.generated,))
    alone = asked(whose, tmp_path, ways=(Way.generated,), batch_size=1)
    torch.testing.assert_close(found["generated"], alone["generated"])


def test_a_generated_twin_keeps_what_the_names_do_not_explain(tmp_path, monkeypatch):
    """Where nothing is more probable in the true context nothing is drawn, and it is the plain twin."""
    whose = [Named(KEYED, NAMED.of_prompt().keys)]
    plain = asked(whose, tmp_path)
    monkeypatch.setattr(twins, "EXPLAINED", math.inf)
    both = asked(whose, tmp_path, ways=tuple(Way))  # asked together or alone, each is the same
    torch.testing.assert_close(both["plain"], plain["plain"])
    torch.testing.assert_close(both["generated"], plain["plain"])
    monkeypatch.setattr(twins, "EXPLAINED", 0.0)
    drawn = asked(whose, tmp_path, ways=(Way.generated,))
    assert not torch.allclose(drawn["generated"], plain["plain"], atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_between_plain_and_generated_lies_their_weighted_geometric_mean(share):
    plain, generated = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.1, 0.3, 0.6]).log()
    expected = plain.exp() ** (1 - share) * generated.exp() ** share
    torch.testing.assert_close(blended(plain, generated, share).exp(), expected)
    nothing = torch.tensor([-math.inf])
    assert blended(nothing, nothing, share).tolist() == [-math.inf]


def test_the_contrast_takes_off_only_what_the_names_add():
    log_r, log_p0 = torch.tensor([-1.0, -3.0, -math.inf]), torch.tensor([-2.0, -1.0, -math.inf])
    assert contrasted(log_r, log_p0, 2.0).tolist() == [-1.0, -7.0, -math.inf]
    assert torch.equal(contrasted(log_r, log_p0, 0.0), log_r)


def test_the_kinds_are_read_off_the_text_whatever_the_tokenizer_marks():
    tokenizer = lm().tokenizer
    records = [Record(prompt='Who is "Xavi Yq"?', text="Xavi Yq.")]
    (item,) = tokenize(
        records, tokenizer, style=STYLE, max_length=60, block_size=None, truncate=False, corpus="forget"
    )
    (located,) = locate(records, [item], tokenizer, STYLE)
    places = [place for place, (start, end) in enumerate(located.tokens) if start < end]
    whose = name_tokens(item, located, places)
    begins = [
        kind
        for place, kind in whose.keys.items()
        if located.text[located.tokens[place][0] :].strip().startswith("Xavi")
    ]
    assert begins == [
        TokenClass.elsewhere,
        TokenClass.after_space,
    ]  # after a quotation mark; after the template
    assert {
        kind for place, kind in whose.keys.items() if "q" in located.text[slice(*located.tokens[place])]
    } == {TokenClass.inside}
    marks = [
        place for place in places if not any(map(str.isalnum, located.text[slice(*located.tokens[place])]))
    ]
    assert marks
    assert not set(marks) & set(whose.keys)


def test_the_pools_are_names_of_the_retain_data():
    tokenizer = lm().tokenizer
    items = tokenize(
        RETAIN, tokenizer, style=STYLE, max_length=60, block_size=None, truncate=False, corpus="retain"
    )
    pools = name_pools(locate(RETAIN, items, tokenizer, STYLE), items)
    said = {tokenizer.decode([token]).strip() for pool in pools.values() for token in pool}
    assert "".join(sorted(said))
    assert not said & {"dyer", "is", "a", "Question", "Answer"}
    assert all(part in "Lena Holt Igor Venn Who" for part in said)


class WidePositions(TorchDispatchMode):
    """The most rows of any tensor that is made as wide as the vocabulary."""

    rows = 0

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor) and not func.is_view and made.shape[-1:] == (self.vocabulary,):
                self.rows = max(self.rows, made.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("ways", [(Way.plain,), tuple(Way)])
def test_no_more_logits_exist_at_one_time_than_those_of_a_chunk(ways, tmp_path):
    whose = [Named(Item((1, 40, 41, *range(number, number + 9)), 4, number), NAMED.of_prompt().keys)
             for number in range(8)]  # fmt: skip
    remembered = store_reference(
        lm(), [one.item for one in whose], None, states=True, layer=None, log_probability=None,
        directory=tmp_path, weights="", batch_size=8, name="forget",
    )  # fmt: skip
    recorder = WidePositions(len(lm().tokenizer))
    with recorder:
        ask_twins(
            lm(), head_of(lm().model), remembered, whose, POOLS, lambda at, log_p: None, twins=2,
            ways=ways, seed=0, chunk=5, batch_size=8,
        )  # fmt: skip
    assert 0 < recorder.rows <= 5


# -- a function of distributions that are stored in part ----------------------------------------------------

PARTS = (Way.plain.value, Way.generated.value, "before")


def distributions(tokens=3000, positions=40, scale=3.0):
    """log p [m, V] of each of `PARTS`: alike, but certain of different tokens, as after different answers."""
    generator = torch.manual_seed(0)
    shared = torch.randn(positions, tokens, generator=generator, dtype=torch.float64)
    own = {part: torch.randn(positions, tokens, generator=generator, dtype=torch.float64) for part in PARTS}
    return {part: (scale * (shared + own[part])).log_softmax(-1) for part in PARTS}


def combined_whole(log_p, *, generated, contrast, power):
    """log q [m, V] by the formula, token by token."""
    log_r = (1 - generated) * log_p["plain"] + generated * log_p["generated"]
    return power * (log_r + contrast * (log_r - log_p["before"]).clamp_max(0))


def both_ways(log_p, *, stored, drawn, **settings):
    """q [m, K+1] of what is stored, and of the whole vocabulary."""
    ids = most_probable(list(log_p.values()), torch.arange(len(log_p["plain"])), tokens=stored)
    found = combined(in_part(log_p, ids, drawn=drawn), **settings)
    return found.softmax(1), with_tail(combined_whole(log_p, **settings), ids).softmax(1)


SETTINGS = [
    {"generated": generated, "contrast": contrast, "power": power}
    for generated in (0, 0.5, 1)
    for contrast, power in ((0.0, 1.0), (0.0, 2.5), (0.0, 0.5), (0.9, 1.0), (3.0, 1.5))
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_where_all_tokens_are_stored_or_drawn_q_is_that_of_the_whole_vocabulary(settings):
    found, whole = both_ways(distributions(tokens=70), stored=9, drawn=64, **settings)
    torch.testing.assert_close(found, whole, rtol=1e-11, atol=0)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_tail_of_drawn_tokens_is_near_that_of_the_whole_vocabulary(settings):
    found, whole = both_ways(distributions(), stored=65, drawn=64, **settings)
    assert (found[:, -1] - whole[:, -1]).abs().mean() < 0.04
    assert (found[:, 0] - whole[:, 0]).abs().mean() < 0.005
    if settings["contrast"] == 0 and settings["power"] == 1 and settings["generated"] != 0.5:
        torch.testing.assert_close(found, whole, rtol=1e-11, atol=0)


@pytest.mark.parametrize("drawn", [0, 64])
def test_q_has_no_tail_where_every_token_is_stored(drawn):
    log_p = distributions(tokens=40)
    found, whole = both_ways(log_p, stored=40, drawn=0, generated=0.5, contrast=0.5, power=2.0)
    assert not found[:, -1].any()
    torch.testing.assert_close(found, whole)


def test_a_long_tail_does_not_take_what_the_most_probable_token_has():
    """Of 400 tokens with 0.6 together and a label with 0.3 the power leaves the label alone."""
    log_p_mV = torch.tensor([[0.3, *[0.1 / 5] * 5, *[0.6 / 400] * 400]], dtype=torch.float64).log()
    log_p = dict.fromkeys(PARTS, log_p_mV)
    found, whole = both_ways(log_p, stored=6, drawn=64, generated=0.5, contrast=0.0, power=2.4)
    assert whole[0, 0] > 0.99
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=0)


def test_tokens_of_which_one_way_is_certain_do_not_outweigh_their_product():
    """Each way is certain of tokens that the other excludes: together they leave almost no tail."""
    one = torch.tensor([0.2, *[0.79 / 100] * 100, *[0.01 / 100] * 100], dtype=torch.float64)
    two = torch.cat([one[:1], one[101:], one[1:101]])
    log_p = dict(zip(PARTS, (of.log().unsqueeze(0) for of in (one, two, one)), strict=True))
    found, whole = both_ways(log_p, stored=3, drawn=64, generated=0.5, contrast=0.0, power=2.0)
    assert whole[0, -1] < 0.05
    assert found[0, -1] < 0.05  # of the product of both sums 0.4 and more
