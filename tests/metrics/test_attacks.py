import zlib
from math import inf, sqrt

import pytest
import torch

from mari_cli.metrics import membership as attacks


def test_min_k_is_the_mean_of_the_least_likely_tokens():
    log_probabilities = torch.tensor([-0.1, -5.0, -0.2, -3.0, -0.3])
    assert attacks.min_k(log_probabilities, 0.4) == pytest.approx(-4.0)


@pytest.mark.parametrize(
    ("tokens", "k", "looked_at"), [(1, 0.4, 1), (2, 0.4, 1), (7, 0.4, 2), (100, 0.29, 29)]
)
@pytest.mark.parametrize("attack", [attacks.min_k, attacks.min_k_plus_plus])
def test_the_share_of_tokens_is_rounded_down_to_whole_ones_but_not_to_none(attack, tokens, k, looked_at):
    values = -torch.arange(1, tokens + 1).double()
    assert attack(values, k) == pytest.approx(values[-looked_at:].mean().item())


@pytest.mark.parametrize("attack", [attacks.min_k, attacks.min_k_plus_plus])
def test_an_answer_without_tokens_is_refused(attack):
    with pytest.raises(ValueError, match="at least one token"):
        attack(torch.empty(0), 0.4)


def test_a_token_is_standardised_by_what_the_model_expects_of_its_own_draws():
    """p = (1/2, 1/4, 1/4): μ = -1.5 ln 2 and σ = 0.5 ln 2, so the likely token has 1 and the others -1."""
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(3, 3)
    assert attacks.standardised(logits, torch.arange(3)).tolist() == pytest.approx([1, -1, -1])


def test_standardising_is_that_of_the_formula_in_float64_on_any_number_of_positions():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3 * attacks.STRIP + 5, 50, generator=generator)
    labels = torch.randint(50, (len(logits),), generator=generator)
    log_p = logits.double().log_softmax(-1)
    mean = (log_p.exp() * log_p).sum(-1)
    deviation = ((log_p.exp() * log_p.square()).sum(-1) - mean.square()).sqrt()
    expected = (log_p.gather(-1, labels[:, None]).squeeze(-1) - mean) / deviation
    torch.testing.assert_close(attacks.standardised(logits, labels).double(), expected, atol=1e-4, rtol=1e-4)


def test_without_spread_what_was_expected_scores_zero_and_what_was_not_stays_finite():
    certain = torch.tensor([[0.0, -200.0], [0.0, -200.0], [0.0, 0.0]])  # the last is uniform
    values = attacks.standardised(certain, torch.tensor([0, 1, 1]))
    assert values.tolist() == pytest.approx([0, -200 / attacks.SMALLEST_DEVIATION, 0])


def test_a_token_that_a_model_never_draws_counts_for_nothing():
    masked = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    assert masked[0, 3] == -inf
    assert attacks.standardised(masked, torch.tensor([0])).item() == pytest.approx(1)


def test_the_loss_score_is_higher_for_a_lower_loss():
    assert attacks.loss(0.5) == -0.5 > attacks.loss(2.0)


def test_zlib_divides_the_loss_by_the_bytes_that_the_answer_packs_into():
    text = "Émile, Émile, Émile."
    assert attacks.zlib_ratio(2.0, text) == -2.0 / len(zlib.compress(text.encode("utf-8"), 6))
    assert attacks.zlib_ratio(2.0, "") == -2.0 / 8  # header, an empty block, checksum


def test_at_one_loss_the_text_that_packs_well_looks_less_trained_on():
    simple, rich = "la " * 26, "The quick brown fox jumps over a lazy dog; pack my box with five dozen jugs."
    assert attacks.zlib_ratio(1.0, simple) < attacks.zlib_ratio(1.0, rich)


def test_reference_is_how_far_the_loss_is_below_another_models():
    assert attacks.reference(0.5, 2.0) == 1.5
    assert attacks.reference(2.0, 2.0) == 0.0


def test_gradnorm_is_one_norm_over_all_parameters_negated():
    gradients = [torch.tensor([[3.0, 0.0]]), torch.tensor(4.0), torch.zeros(5)]
    assert attacks.gradnorm(gradients) == -5.0
    assert attacks.gradnorm(iter(gradients)) == -5.0


def test_gradnorm_of_16_bit_gradients_is_not_rounded_to_16_bits():
    gradient = torch.full((1000,), 0.01, dtype=torch.bfloat16)
    assert attacks.gradnorm([gradient]) == pytest.approx(-sqrt(1000) * gradient[0].item(), rel=1e-12)


def test_the_standardised_value_of_a_memorised_token_is_near_zero_not_noise():
    logits = torch.tensor([[16.118, 0.0], [17.0, 0.0], [30.0, 0.0]])  # p = 1 - 1e-7 and above
    assert attacks.standardised(logits, torch.zeros(3, dtype=torch.long)).abs().max() < 0.01
