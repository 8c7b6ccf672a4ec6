"""The sparse form: exact at its resolution, a distribution, found again in the cache."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mari_cli.models.reference import ItemRows
from mari_cli.supports.sparse import (
    DRAWN,
    choices,
    draw_of_tail,
    floored,
    kept,
    mistakes,
    mistakes_of,
    most_probable,
    targets,
    with_tail,
)

CPU = torch.device("cpu")
V = 12


def log_p(rows: int, seed: int, scale: float = 3.0):
    z = torch.randn(rows, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (scale * z).log_softmax(-1)


LABELS = torch.tensor([3, 0, 11, 5, 5, 7])
ROWS = ItemRows({0: 2, 1: 3, 4: 1})


def said(directory, *, stored_tokens=4, key=None, chunk=6, calls=None, parts=("q",), seed=1, drawn=0):
    dense = {part: log_p(6, seed + n) for n, part in enumerate(parts)}

    def fill(write):
        if calls is not None:
            calls.append(1)
        for at in torch.arange(6).split(chunk):
            write(at, {part: dense[part][at] for part in parts})

    return dense, kept(
        fill, list(parts), rows=ROWS, labels_M=LABELS, vocabulary=V, stored_tokens=stored_tokens,
        directory=directory, key=key or {"of": 1}, name="support", drawn_tokens=drawn,
    )  # fmt: skip


def taken(found, directory, floor=1e-6, key=None, supported=lambda log_p: log_p["q"]):
    return targets(
        found, supported, floor=floor, key=key or {}, directory=directory, device=CPU, name="targets"
    )


def test_the_label_comes_first_and_then_the_most_probable_of_any_distribution():
    one, two = (torch.tensor([p]).log() for p in ([0.5, 0.1, 0.3, 0.1], [0.1, 0.1, 0.1, 0.7]))
    assert most_probable([one, two], torch.tensor([1]), tokens=3).tolist() == [[1, 3, 0]]


def test_the_tail_is_all_that_has_no_name():
    dense = log_p(6, 1)
    ids = most_probable([dense], LABELS, tokens=5)
    sparse = with_tail(dense, ids)
    torch.testing.assert_close(sparse.exp().sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(sparse[:, :-1], dense.gather(1, ids))


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_where_every_token_has_a_name_the_sparse_form_is_the_dense_one(chunk, tmp_path):
    dense, found = said(tmp_path, stored_tokens=99, chunk=chunk)
    assert found.ids_MK.shape == (6, V)
    q = taken(found, tmp_path)
    rebuilt = torch.zeros(6, V).scatter(1, q.ids_MK.long(), q.q_MK)
    floor = dense["q"].exp() * (1 - V * 1e-6) + 1e-6
    torch.testing.assert_close(rebuilt, floor.float(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(q.q_MK.sum(1), torch.ones(6))


@given(st.integers(0, 1000), st.floats(1e-9, 1e-3), st.floats(0.1, 60))
def test_it_stays_a_distribution_without_anything_below_the_floor(seed, floor, scale):
    sparse = with_tail(log_p(6, seed, scale), most_probable([log_p(6, seed, scale)], LABELS, tokens=5))
    q = floored(sparse, floor)
    torch.testing.assert_close(q.sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (q >= floor * (1 - 1e-12)).all()


def test_a_tail_of_no_token_stays_nothing():
    q = floored(torch.tensor([[-0.1, -50.0, -math.inf]]).double(), 1e-3)
    assert q[0, 2] == 0
    assert q[0, 1] >= 1e-3


# -- tokens drawn of the tail --------------------------------------------------------------------------------


def sums(log_p_cV, ids, drawn, of):
    """Σ of(p) over the tail: the sum itself, and its estimate from the drawn tokens."""
    at, weight = draw_of_tail([log_p_cV], ids, tokens=drawn)
    exact = of(log_p_cV.scatter(1, ids, -math.inf)).sum(1)
    exact -= of(torch.tensor(-math.inf, dtype=log_p_cV.dtype)) * ids.shape[1]
    return exact, (weight.exp() * of(log_p_cV.gather(1, at))).sum(1)


@pytest.mark.parametrize("drawn", [8, 50])
def test_all_of_a_short_tail_is_drawn_each_token_once(drawn):
    dense = log_p(6, 1)
    ids = most_probable([dense], LABELS, tokens=4)
    at, weight = draw_of_tail([dense], ids, tokens=drawn)
    assert all(sorted(row) == list(range(V)) for row in torch.cat([ids, at], 1).tolist())
    assert not weight.any()


@pytest.mark.parametrize("power", [0.3, 1.0, 2.4])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_drawn_tokens_stand_for_the_sum_over_the_tail(power, scale):
    z = torch.randn(40, 5000, generator=torch.manual_seed(0), dtype=torch.float64)
    dense = (scale * z).log_softmax(-1)
    ids = most_probable([dense], torch.arange(40), tokens=17)
    exact, near = sums(dense, ids, 64, lambda log_p_m: (power * log_p_m).exp())
    torch.testing.assert_close(near, exact, rtol=0.25, atol=0)
    exact, near = sums(dense, ids, 64, lambda log_p_m: (log_p_m > -math.inf).double())
    torch.testing.assert_close(near, exact, rtol=0.15, atol=0)


def test_no_stored_token_and_none_of_no_probability_alone_is_drawn():
    dense = torch.full((1, 500), -math.inf, dtype=torch.float64)
    dense[0, :40] = math.log(1 / 40)
    ids = torch.arange(10).unsqueeze(0)
    at, weight = draw_of_tail([dense], ids, tokens=20)
    assert at.min() >= 10
    assert ((at >= 10) & (at < 40)).sum() >= 10  # half of the shares are theirs
    torch.testing.assert_close(weight.exp().sum(), torch.tensor(490.0, dtype=torch.float64), rtol=0.1, atol=0)
    nothing = torch.full((1, 500), -math.inf, dtype=torch.float64)
    assert draw_of_tail([nothing], ids, tokens=20)[1].isfinite().all()


@pytest.mark.parametrize("drawn", [3, 99])
def test_the_draws_are_stored_with_their_weights_whatever_the_chunk(drawn, tmp_path):
    parts = ("plain", "before")
    dense, whole = said(tmp_path / "whole", parts=parts, drawn=drawn)
    _, by_one = said(tmp_path / "by_one", parts=parts, drawn=drawn, chunk=1)
    some = min(drawn, V - 5)
    assert {name: tuple(kept.shape) for name, kept in whole.log_p.items()} == {
        "plain": (6, 5 + 1 + some), "before": (6, 5 + 1 + some), DRAWN: (6, some)
    }  # fmt: skip
    for name in whole.log_p:
        assert torch.equal(whole.log_p[name], by_one.log_p[name])
    torch.testing.assert_close(
        whole.log_p["plain"][:, :6], with_tail(dense["plain"], whole.ids_MK.long()).float()
    )


def test_drawn_tokens_are_part_of_the_key(tmp_path):
    calls: list[int] = []
    keys = {said(tmp_path, calls=calls, drawn=drawn)[1].key for drawn in (0, 3, 4)}
    assert len(keys) == len(calls) == 3


# -- what a step takes ---------------------------------------------------------------------------------------


def test_a_step_takes_tokens_and_probabilities_item_by_item(tmp_path):
    _, found = said(tmp_path)
    q = taken(found, tmp_path)
    assert q.ids_MK.dtype == torch.int32
    assert q.q_MK.dtype == torch.float32
    assert torch.equal(q.ids_MK[:, 0].long(), LABELS)
    ids, probabilities = q.of([4, 0])
    assert torch.equal(ids, q.ids_MK[[5, 0, 1]])
    assert torch.equal(probabilities, q.q_MK[[5, 0, 1]])


def test_what_was_kept_is_not_asked_for_again_and_each_setting_has_its_own(tmp_path):
    calls: list[int] = []
    for _ in range(2):
        _, found = said(tmp_path, calls=calls)
    assert len(calls) == 1
    said(tmp_path, calls=calls, stored_tokens=5)
    said(tmp_path, calls=calls, key={"of": 2})
    said(tmp_path, calls=calls, parts=("q", "p"))
    assert len(calls) == 4
    q = taken(found, tmp_path)
    assert torch.equal(taken(found, tmp_path).q_MK, q.q_MK)
    assert not torch.equal(taken(found, tmp_path, floor=1e-3).q_MK, q.q_MK)
    flat = taken(found, tmp_path, key={"power": 0.5}, supported=lambda log_p: log_p["q"] * 0.5)
    assert not torch.equal(flat.q_MK, q.q_MK)


def test_the_loss_of_q_is_a_mean_over_items_that_it_does_not_recite_of_means_over_tokens(tmp_path):
    dense, found = said(tmp_path)
    nll = -dense["q"].gather(1, LABELS.unsqueeze(1)).squeeze(1)
    right = dense["q"].argmax(1) == LABELS
    items = [slice(0, 2), slice(2, 5), slice(5, 6)]
    wrong = [at for at in items if not right[at].all()]
    assert wrong
    expected = torch.stack([nll[at].mean() for at in wrong]).mean()
    assert mistakes_of(found, lambda log_p: log_p["q"], floor=1e-12).loss == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_where_every_answer_is_right_the_loss_is_that_of_all():
    nll, right = torch.tensor([0.1, 2.0, 4.0]), torch.tensor([1.0, 0.5, 0.0])
    assert mistakes(nll, right).loss == pytest.approx(3.0)
    assert mistakes(nll, torch.ones(3)).loss == pytest.approx(6.1 / 3)


def test_q_recites_an_item_where_every_true_token_is_its_first_choice(tmp_path):
    def fill(write):
        z = torch.zeros(6, V)
        z[torch.arange(6), LABELS] = torch.tensor([5.0, 5, 5, -5, 5, 5])
        write(torch.arange(6), {"q": z.log_softmax(-1)})

    found = kept(
        fill, ["q"], rows=ROWS, labels_M=LABELS, vocabulary=V, stored_tokens=3, directory=tmp_path, key={},
        name="support",
    )  # fmt: skip
    right, exact = choices(taken(found, tmp_path))
    assert right.tolist() == pytest.approx([1, 2 / 3, 1])
    assert exact.tolist() == [1, 0, 1]
