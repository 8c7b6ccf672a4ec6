"""Does the true token still stand out?"""

import pytest
import torch

from mari_cli.metrics.gap import ALTERNATIVES, true_token_gap


def naive(logits_V, label, k):
    others = sorted((x for token, x in enumerate(logits_V.tolist()) if token != label), reverse=True)[:k]
    return logits_V[label].item() - sum(others) / len(others)


@pytest.mark.parametrize("vocabulary", [2, 4, 6, 50])
@pytest.mark.parametrize("alternatives", [1, 5])
def test_it_is_the_true_logit_less_the_mean_of_the_likeliest_others(vocabulary, alternatives):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, vocabulary, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(vocabulary, (40,), generator=generator)
    found = true_token_gap(logits, labels, alternatives=alternatives)
    expected = [naive(row, label, alternatives) for row, label in zip(logits, labels.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_token_that_stands_out_is_not_among_its_own_alternatives():
    logits = torch.zeros(2, 20)
    logits[0, 3], logits[1, 3] = 10.0, -10.0
    assert true_token_gap(logits, torch.tensor([3, 3])).tolist() == [10.0, -10.0]


def test_a_tie_is_no_gap_and_what_is_added_to_all_logits_changes_nothing():
    logits = torch.ones(1, 20)
    assert true_token_gap(logits, torch.tensor([7])).item() == 0
    random = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5)
    assert true_token_gap(random + 8, labels) == pytest.approx(true_token_gap(random, labels), abs=1e-5)


def test_with_one_alternative_it_is_above_0_where_the_prediction_is_right():
    logits = torch.randn(200, 9, generator=torch.Generator().manual_seed(2))
    labels = torch.randint(9, (200,), generator=torch.Generator().manual_seed(3))
    right = logits.argmax(-1) == labels
    assert ((true_token_gap(logits, labels, alternatives=1) > 0) == right).all()
    assert ALTERNATIVES == 5


def test_one_token_has_no_alternatives():
    with pytest.raises(ValueError, match="no alternatives"):
        true_token_gap(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))
