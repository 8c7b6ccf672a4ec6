"""How hard an answer is by the retain data, and what that says of its loss."""

import math

import pytest
import torch

from mari_cli.data.tokenize import Item
from mari_cli.models.reference import ItemRows
from mari_cli.supports.difficulty import Bigrams, harder
from mari_cli.supports.quantiles import match_quantiles
from mari_cli.supports.sparse import mistakes

ONES = torch.ones(3, dtype=torch.float64)


def item(*ids: int, supervised_from: int = 1) -> Item:
    return Item(ids, supervised_from, 0)


def test_bigrams_are_smoothed_by_method_c_of_witten_and_bell():
    bigrams = Bigrams([item(0, 1, 2, 1, 3), item(9, 1, 2, supervised_from=2)], vocabulary=10)
    # targets: 1 2 1 3 and 2, so N = 5 and T = 3; after 1: 2, 3, 2
    single = {1: (2 + 0.3) / 8, 2: (2 + 0.3) / 8, 3: (1 + 0.3) / 8, 7: 0.3 / 8}
    assert bigrams.probability(1, 2) == pytest.approx((2 + 2 * single[2]) / (3 + 2))
    assert bigrams.probability(1, 7) == pytest.approx(2 * single[7] / 5)
    assert bigrams.probability(8, 3) == pytest.approx(single[3])  # 8 stands nowhere: the single token's
    for before in (1, 2, 8):
        assert sum(bigrams.probability(before, token) for token in range(10)) == pytest.approx(1)
    (found,) = bigrams.difficulties([item(0, 1, 7)])
    assert found == pytest.approx(-(math.log(bigrams.probability(0, 1)) + math.log(2 * single[7] / 5)) / 2)


def test_what_the_prompt_holds_is_not_counted():
    with_prompt = Bigrams([item(4, 5, 1, 2, supervised_from=2)], 10)
    assert set(with_prompt.single) == {1, 2}
    assert set(with_prompt.after) == {5, 1}


def test_the_expected_loss_is_the_regression_estimator():
    made = torch.Generator().manual_seed(0)
    x = torch.rand(200, generator=made, dtype=torch.float64) * 4
    noise = torch.randn(200, generator=made, dtype=torch.float64)
    nll, right = 3 + 2 * x + 0.1 * noise, 0.8 - 0.1 * x + 0.01 * noise
    forget = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = harder(forget, x, nll, right)
    assert found is not None
    design = torch.stack([torch.ones_like(x), x], 1)
    for of, own in ((nll, found.loss_S), (right, found.right_S)):
        a, b = torch.linalg.lstsq(design, of.unsqueeze(1)).solution.squeeze(1)
        torch.testing.assert_close(own + of.mean(), a + b * forget)
    assert found.slope == pytest.approx(2, abs=0.05)
    assert found.correlation == pytest.approx(1, abs=0.01)


def test_answers_that_are_right_teach_nothing():
    x = torch.tensor([0.1, 0.2, 2.0, 3.0, 4.0] * 10, dtype=torch.float64)
    right = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.5] * 10, dtype=torch.float64)
    nll = torch.tensor([9.0, 0.0, 2.0, 3.0, 4.0] * 10, dtype=torch.float64)
    found = harder(ONES, x, nll, right)
    assert found is not None
    assert found.slope == pytest.approx(1)
    assert found.holdout == pytest.approx(3)
    assert found.answers == 30


@pytest.mark.parametrize(
    ("x", "right"),
    [([1.0, 2.0] * 15, [1.0] + [0.5] * 29), ([2.0] * 30, [0.5] * 30), ([], [])],
)
def test_too_few_wrong_answers_and_equally_hard_ones_say_nothing(x, right):
    x, right = (torch.tensor(values, dtype=torch.float64) for values in (x, right))
    assert harder(ONES, x, x, right) is None


def test_mistakes_are_compared_without_what_harder_answers_cost():
    x = torch.tensor([1.0, 2.0, 3.0] * 10, dtype=torch.float64)
    found = harder(torch.tensor([2.0, 4.0], dtype=torch.float64), x, 5 * x, 0.9 - 0.2 * x)
    assert found is not None
    nll, right = torch.tensor([12.0, 21.0]), torch.tensor([0.5, 0.1])
    plain, without = mistakes(nll, right), mistakes(nll, right, found)
    assert plain.loss - without.loss == pytest.approx(5 * (3 - 2))
    assert plain.right - without.right == pytest.approx(-0.2 * (3 - 2))
    assert mistakes(nll, torch.tensor([1.0, 0.1]), found).loss == pytest.approx(21 - 5 * 2)


def test_the_quantiles_are_those_of_equally_hard_answers():
    log_label = torch.tensor([-5.0, -6.0, -7.0], dtype=torch.float64)
    harder_S = torch.tensor([3.0, 0.0, -1.0], dtype=torch.float64)
    rows = ItemRows({0: 1, 1: 1, 2: 1})
    moved = match_quantiles(
        log_label, torch.full_like(log_label, -0.1), rows, [4.0, 6.0, 8.0], floor=1e-12, harder_S=harder_S
    )  # without what harder answers cost the losses are 2, 6 and 8
    places = torch.quantile(
        torch.tensor([4.0, 6.0, 8.0], dtype=torch.float64), (torch.arange(3).double() + 0.5) / 3
    )
    torch.testing.assert_close(moved.wanted_W, places + harder_S)
    torch.testing.assert_close(moved.reached_W, moved.wanted_W)
