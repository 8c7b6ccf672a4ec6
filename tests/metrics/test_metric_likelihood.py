from math import exp, inf, log

import pytest
import torch

from mari_cli.metrics.likelihood import answer_nll, answer_probability
from mari_cli.metrics.statistics import perplexity_estimate


def perplexity(loss_sums, tokens):
    return perplexity_estimate(loss_sums, tokens).value


def test_a_model_that_guesses_among_eight_tokens_has_log_8_and_an_eighth():
    loss = torch.full((5,), log(8))
    assert answer_nll(loss) == pytest.approx(log(8))
    assert answer_probability(loss) == pytest.approx(1 / 8)


def test_answer_probability_is_the_geometric_mean_of_its_tokens():
    assert answer_probability(-torch.tensor([0.5, 0.125]).log()) == pytest.approx(0.25)


def test_perplexity_weighs_tokens_not_answers():
    sums, tokens = torch.tensor([9 * 1.0, 1 * 3.0]), torch.tensor([9, 1])
    assert perplexity(sums, tokens) == pytest.approx(exp(1.2))


def test_perplexity_of_a_model_without_doubt_is_one_and_of_a_ruined_one_infinite():
    assert perplexity(torch.zeros(3), torch.tensor([1, 2, 3])) == 1.0
    assert perplexity(torch.tensor([5000.0]), torch.tensor([5])) == inf


@pytest.mark.parametrize("score", [answer_nll, answer_probability])
def test_no_tokens_no_likelihood(score):
    with pytest.raises(ValueError, match="at least one token"):
        score(torch.zeros(0))
    with pytest.raises(ValueError, match="at least one value"):
        perplexity(torch.zeros(0), torch.zeros(0, dtype=torch.long))
