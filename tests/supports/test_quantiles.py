"""The losses of what q gets wrong become those of answers that nobody has seen."""

import pytest
import torch

from mari_cli.models.reference import ItemRows
from mari_cli.supports.quantiles import highest, match_quantiles, move

FLOOR = 1e-12


def rows_of(*counts):
    return ItemRows(dict(enumerate(counts)))


def distributions(positions, tokens, seed=0, sharp=3.0):
    """[M, K] of K tokens and a tail; the label first."""
    made = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(positions, tokens + 1, generator=made, dtype=torch.float64)
    return logits.softmax(1)[:, :-1]


def log_q(q_MK):
    return q_MK[:, 0].log(), q_MK[:, 1:].amax(1).log()


def item_losses(q_MK, counts):
    return torch.stack([-of.log().mean() for of in q_MK[:, 0].split(counts)])


def test_the_losses_of_wrong_answers_are_the_quantiles_in_their_order():
    counts = [5, 3, 8, 4, 6]
    q = distributions(sum(counts), 6)
    holdout = [4.0, 4.5, 5.0, 6.0, 7.0, 9.0]
    before = item_losses(q, counts)
    moved = match_quantiles(*log_q(q), rows_of(*counts), holdout, floor=FLOOR)
    after = item_losses(move(q, moved.shift_M, floor=FLOOR), counts)
    known = torch.tensor(holdout, dtype=torch.float64)
    places = (torch.arange(5).double() + 0.5) / 5
    assert torch.allclose(after[before.argsort()], torch.quantile(known, places), atol=1e-9)
    assert torch.allclose(moved.reached_W, moved.wanted_W, atol=1e-9)


def test_tokens_that_were_right_stay_right_and_no_other_becomes_right():
    counts = [7, 7, 7]
    q = distributions(21, 5, seed=1)
    right = q[:, 0] > q[:, 1:].amax(1)
    assert 0 < right.sum() < 21
    for holdout in ([0.01, 0.02, 0.03], [8.0, 9.0, 10.0]):
        moved = match_quantiles(*log_q(q), rows_of(*counts), holdout, floor=FLOOR)
        now = move(q, moved.shift_M, floor=FLOOR)
        assert torch.equal(now[:, 0] > now[:, 1:].amax(1), right)
        assert torch.equal(now[right], q[right])


def test_the_others_share_the_rest_as_before():
    q = distributions(4, 6, seed=2)
    now = move(q, torch.full((4,), -2.0, dtype=torch.float64), floor=FLOOR)
    wrong = q[:, 0] < q[:, 1:].amax(1)
    assert wrong.any()
    assert torch.allclose(now[wrong, 0], q[wrong, 0] * torch.tensor(-2.0).double().exp())
    tail, tail_before = 1 - now.sum(1), 1 - q.sum(1)
    ratio = (now[:, 1:] / q[:, 1:])[wrong]
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
    assert torch.allclose(tail[wrong] / tail_before[wrong], ratio[:, 0])


def test_a_label_that_is_moved_up_stops_just_below_the_token_that_q_chooses():
    q = torch.tensor([[0.01, 0.5, 0.2]], dtype=torch.float64)
    now = move(q, torch.tensor([10.0], dtype=torch.float64), floor=FLOOR)
    assert now[0, 0] < now[0, 1]
    assert now[0, 0] == pytest.approx(now[0, 1].item(), rel=1e-5)
    assert highest(*log_q(q)).exp().item() == pytest.approx(now[0, 0].item())


def test_an_answer_that_q_recites_is_left_alone_and_so_is_everything_without_mistakes():
    q = torch.tensor([[0.9, 0.05], [0.8, 0.1]], dtype=torch.float64)
    moved = match_quantiles(*log_q(q), rows_of(1, 1), [5.0], floor=FLOOR)
    assert not moved.shift_M.any()
    assert len(moved.wanted_W) == 0
    assert torch.equal(move(q, moved.shift_M, floor=FLOOR), q)


def test_what_cannot_be_reached_is_told():
    """One position, moved up: it stops below the best token, and the loss stays above what was wanted."""
    q = torch.tensor([[0.05, 0.5]], dtype=torch.float64)
    moved = match_quantiles(*log_q(q), rows_of(1), [0.1], floor=FLOOR)
    assert moved.reached_W.item() > moved.wanted_W.item() == pytest.approx(0.1)
