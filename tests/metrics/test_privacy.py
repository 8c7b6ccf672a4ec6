import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mari_cli.errors import UserError
from mari_cli.metrics.privacy import auc, min_k


def test_min_k_is_the_mean_of_the_least_likely_tokens():
    log_probabilities = torch.tensor([-0.1, -5.0, -0.2, -3.0, -0.3])
    assert min_k(log_probabilities, 0.4) == pytest.approx(-4.0)


@pytest.mark.parametrize(
    ("tokens", "k", "looked_at"), [(1, 0.4, 1), (2, 0.4, 1), (7, 0.4, 2), (100, 0.29, 29)]
)
def test_min_k_rounds_down_to_whole_tokens_but_not_to_none(tokens, k, looked_at):
    values = -torch.arange(1, tokens + 1).double()
    assert min_k(values, k) == pytest.approx(values[-looked_at:].mean().item())


def test_items_that_look_trained_on_score_one_and_over_forgotten_ones_zero():
    assert auc([-0.1, -0.2], [-3.0, -4.0]) == 1.0
    assert auc([-9.0, -9.5], [-3.0, -4.0]) == 0.0


def test_ties_count_half():
    assert auc([1.0, 1.0], [1.0, 1.0, 1.0]) == 0.5
    assert auc([2.0, 1.0], [1.0]) == 0.75


@pytest.mark.parametrize(("forget", "holdout"), [([], [1.0]), ([1.0], [])])
def test_an_empty_side_is_refused_and_never_one_half(forget, holdout):
    with pytest.raises(UserError, match="needs forget and holdout items"):
        auc(forget, holdout)


SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_which_forget_scores_higher(forget, holdout):
    difference = np.subtract.outer(forget, holdout)
    assert auc(forget, holdout) == pytest.approx((difference > 0).mean() + (difference == 0).mean() / 2)
    assert auc(forget, holdout) + auc(holdout, forget) == pytest.approx(1)
