"""The formulas of the sources against what they say, and the calibrations against what they should reach."""

import math
from functools import partial

import pytest
import torch

from mari_cli.lm_head import Head
from mari_cli.models.reference import ItemRows, StoredReference
from mari_cli.supports.asked import Asked, combined_mistakes, write_combined
from mari_cli.supports.calibrate import Second, calibrated, calibrated_twice
from mari_cli.supports.sparse import Mistakes
from mari_cli.tasks.sources.assistant import subtracted
from mari_cli.tasks.sources.base import sharpened
from mari_cli.tasks.sources.reinforced import weakened
from mari_cli.tasks.sources.siblings import corrected


def model(seed: int, *, vocabulary: int = 20, scale: float = 2.0) -> Asked:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    head = Head(scale * torch.randn(vocabulary, 6, generator=generator, dtype=torch.float64))
    labels = torch.randint(20, (9,), generator=torch.Generator().manual_seed(1))
    rows = ItemRows({0: 4, 1: 5})
    return Asked(head, StoredReference("", rows, torch.device("cpu"), labels, states, None, None))


def p(asked: Asked) -> torch.Tensor:
    return asked.head(asked.remembered.last_ND).softmax(-1)


def combined(models, combine, chunk=4, said=Asked.log_p, **settings):
    found = torch.zeros(9, 20, dtype=torch.float64)

    def write(at, log_p):
        found[at] = log_p["q"].exp()

    write_combined(write, models, lambda *x: combine(*x, **settings), chunk=chunk, said=said)
    return found


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_siblings_correct_the_target_by_their_ratio(chunk):
    target, retain, both = model(1), model(2), model(3)
    expected = p(target) * (p(retain) / p(both)) ** 1.5
    expected = expected / expected.sum(1, keepdim=True)
    found = combined([target, retain, both], corrected, chunk, weight=1.5)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_siblings_who_agree_change_nothing():
    torch.testing.assert_close(combined([model(1), model(2), model(2)], corrected, weight=3.0), p(model(1)))


def test_the_assistant_is_taken_off():
    target, assistant = model(1), model(2)
    expected = p(target) / p(assistant) ** 0.75
    expected = expected / expected.sum(1, keepdim=True)
    found = combined([target, assistant], subtracted, weight=0.75)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_mistakes_of_what_is_combined_are_those_of_what_is_written(chunk):
    models = [model(1), model(2), model(3)]
    q = combined(models, corrected, weight=1.5)
    labels_N = models[0].remembered.labels_N
    nll, right = -q.gather(1, labels_N.unsqueeze(1)).log().squeeze(1), q.argmax(1) == labels_N
    wrong = [at for at in (slice(0, 4), slice(4, None)) if not right[at].all()]
    found = combined_mistakes(models, partial(corrected, weight=1.5), chunk=chunk)
    assert found.loss == pytest.approx(torch.stack([nll[at].mean() for at in wrong]).mean().item(), rel=1e-12)
    expected = torch.stack([right[at].double().mean() for at in wrong]).mean()
    assert found.right == pytest.approx(expected.item(), rel=1e-12)


def test_what_rises_in_the_reinforced_model_is_taken_off_the_logits():
    before, reinforced = model(1), model(2)
    z, other = (asked.head(asked.remembered.last_ND) for asked in (before, reinforced))
    expected = (z - 5 * torch.relu(other - z)).softmax(-1)
    found = combined([before, reinforced], weakened, said=Asked.logits, weight=5.0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    shifted = combined([before, reinforced], weakened, weight=5.0)  # of log-probabilities it is another q
    assert (shifted - expected).abs().max() > 1e-3


def test_a_model_that_was_not_reinforced_changes_nothing():
    found = combined([model(1), model(1)], weakened, said=Asked.logits, weight=5.0)
    torch.testing.assert_close(found, p(model(1)))


def test_sharpened_is_the_power_normalised():
    expected = p(model(1)) ** 2.5
    torch.testing.assert_close(
        sharpened(p(model(1)).log(), 2.5).exp(), expected / expected.sum(1, keepdim=True)
    )


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_loss_of_sharpened_predictions_is_a_mean_over_items_that_are_not_recited(chunk):
    asked = model(1)
    q = p(asked) ** 1.7
    q = q / q.sum(1, keepdim=True)
    nll = -q.gather(1, asked.remembered.labels_N.unsqueeze(1)).log().squeeze(1)
    right = q.argmax(1) == asked.remembered.labels_N
    wrong = [nll[at].mean() for at in (slice(0, 4), slice(4, None)) if not right[at].all()]
    expected = torch.stack(wrong).mean()
    assert combined_mistakes([asked], partial(sharpened, power=1.7), chunk=chunk).loss == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_a_head_that_is_padded_further_is_cut():
    padded, plain = model(1, vocabulary=23).cut(20), model(1, vocabulary=23)
    expected = (plain.head(plain.remembered.last_ND)[:, :20]).softmax(-1)
    torch.testing.assert_close(padded.log_p(slice(0, 9)).exp(), expected)


def test_the_power_is_the_one_at_which_the_holdout_is_as_unlikely_as_wanted():
    asked = model(1)

    def nll(power):
        return combined_mistakes([asked], partial(sharpened, power=power), chunk=4).loss

    found = calibrated(nll, nll(3.0), least=0.05, most=16.0)
    assert found.exact
    assert found.value == pytest.approx(3.0, abs=1e-4)
    assert nll(found.value) == pytest.approx(found.wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("wanted", "value", "exact"),
    [(5.0, 4.0, True), (1.0, 2.0, True), (0.5, 2.0, False), (1000.0, 10.0, False), (2.0, 3.0, True)],
)
def test_of_two_values_the_rising_one_is_taken_and_what_is_out_of_reach_is_said(wanted, value, exact):
    """A parabola with its bottom, 1, at 2."""
    found = calibrated(lambda x: 1 + (x - 2) ** 2, wanted, least=0.0, most=10.0)
    assert found.value == pytest.approx(value, abs=2e-3)
    assert found.exact is exact
    assert found.wanted == wanted


def test_where_it_only_rises_and_begins_above_the_beginning_is_taken():
    found = calibrated(lambda x: 3 + x, 2.0, least=0.0, most=10.0)
    assert (found.value, found.reached, found.exact) == (0.0, 3.0, False)
    assert math.isclose(calibrated(lambda x: 3 + x, 3.5, least=0.0, most=10.0).value, 0.5, abs_tol=1e-5)


def test_two_numbers_are_set_by_the_loss_of_mistakes_and_by_their_right_tokens():
    """Mistakes whose loss is 1 + first + second, and whose right tokens are 0.9 - first."""

    def made(first: float, second: float) -> Mistakes:
        return Mistakes(1 + first + second, 0.9 - first)

    def chosen(wanted: Mistakes, firsts: list[float]):
        return calibrated_twice({"sum": Second(made, 0.0, 10.0)}, wanted, firsts=firsts)

    found = chosen(Mistakes(1.5, 0.7), [0.0, 0.2, 0.4, 1.0])
    assert (found.first, found.value) == pytest.approx((0.2, 0.3))
    assert found.exact
    # 0.9 - 1.0 is nearer 0.1 than the others are, but no second number takes its loss down to 1.5
    found = chosen(Mistakes(1.5, 0.1), [0.0, 0.2, 0.4, 1.0])
    assert found.first == 0.4
    # a loss that is met by none: the nearest to it
    found = chosen(Mistakes(0.5, 0.1), [0.0, 0.2, 0.4])
    assert (found.first, found.value, found.exact) == (0.0, 0.0, False)


@pytest.mark.parametrize(
    ("wanted", "by"), [(0.7, "lowers"), (0.66, "lowers"), (0.8, "keeps"), (0.9, "keeps")]
)
def test_another_second_number_is_tried_where_the_first_misses_the_right_tokens(wanted, by):
    """One makes mistakes of right tokens, the other leaves them right; both reach each loss."""
    seconds = {
        "lowers": Second(lambda first, second: Mistakes(1 + second, 0.9 - first - second / 10), 0.0, 10.0),
        "keeps": Second(lambda first, second: Mistakes(1 + second, 0.9 - first), 0.0, 10.0),
    }
    found = calibrated_twice(seconds, Mistakes(3.0, wanted), firsts=[0.0, 0.1])
    assert found.by == by
    assert found.reached == pytest.approx(3.0)
    assert abs(found.right - wanted) <= 0.05


def test_more_first_numbers_are_tried_beside_the_best():
    """Right tokens are 0.9 - first, and 0.57 are wanted; of 0, 0.2, 0.4, 0.6, 0.4 is the nearest."""
    second = Second(lambda first, second: Mistakes(1 + first + second, 0.9 - first), 0.0, 10.0, between=9)
    found = calibrated_twice({"sum": second}, Mistakes(2.0, 0.57), firsts=[0.0, 0.2, 0.4, 0.6])
    assert (found.first, found.right, found.value) == pytest.approx((0.32, 0.58, 0.68))
    found = calibrated_twice({"sum": second}, Mistakes(2.0, 0.25), firsts=[0.0, 0.2, 0.4, 0.6])
    assert found.first == 0.6
