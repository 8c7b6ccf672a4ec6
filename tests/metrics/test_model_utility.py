import numpy as np
import pytest

from mari_cli.metrics.model_utility import model_utility, model_utility_estimate

# rows of TOFU's leaderboard (llama-10p.csv): the nine components and the published utility
LEADERBOARD = {
    "full": (
        [
            0.9895272273969072,
            0.9856545937933034,
            0.47469858801063763,
            0.45548207783762884,
            0.9329999999999999,
            0.5962289157077106,
            0.41856180755948974,
            0.8824786324786325,
            0.5390328416393139,
        ],
        0.6226773637427153,
    ),
    "retain90": (
        [
            0.9888967275083739,
            0.9758111850816836,
            0.47097713402452873,
            0.434087175400151,
            0.9229999999999999,
            0.5706808914420933,
            0.4143263304391235,
            0.8974358974358975,
            0.5441982317366325,
        ],
        0.613744995233942,
    ),
    "GradDiff, 2 epochs": (
        [
            0.01072258695886401,
            0.0870156615843273,
            0.46335032188327696,
            0.5059025919974256,
            0.1728333333333333,
            0.6423979530486502,
            0.46556158385992097,
            0.6548433048433049,
            0.6295666352270255,
        ],
        0.07407765375022281,
    ),
    "GradAscent, 2 epochs": (
        [
            6.790053646828093e-05,
            0.00012345679012345666,
            0.04541293757602166,
            0.2483656568638272,
            0.0,
            0.15535630808979686,
            0.26037936742224227,
            0.00712250712250712,
            0.16126857369252184,
        ],
        0.0,
    ),
}


@pytest.mark.parametrize("run", LEADERBOARD)
def test_it_is_the_published_one(run):
    components, published = LEADERBOARD[run]
    assert model_utility(components) == pytest.approx(published, abs=1e-14)


@pytest.mark.parametrize("components", [[], [0.5, -0.1], [0.5, float("nan")], [float("inf")]])
def test_components_that_are_none_are_refused(components):
    with pytest.raises(ValueError, match="components of at least 0"):
        model_utility(components)


def some_sets(seed=0):
    generator = np.random.default_rng(seed)
    return [generator.uniform(0.2, 1.0, size=(n, 3)) for n in (40, 25, 30)]


def test_the_estimate_is_the_utility_of_the_means_over_all_items():
    sets = some_sets()
    estimate = model_utility_estimate(sets)
    means = [sets[i][:, j].mean() for i in range(3) for j in range(3)]
    assert estimate.value == pytest.approx(9 / sum(1 / mean for mean in means), rel=1e-14)
    assert estimate.n == 95
    assert estimate.low < estimate.value < estimate.high
    assert model_utility_estimate(sets) == estimate


def test_the_interval_narrows_with_the_number_of_items():
    few, many = some_sets(), [np.repeat(values, 16, axis=0) for values in some_sets()]
    [few, many] = [model_utility_estimate(sets) for sets in (few, many)]
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.2)


def test_items_are_resampled_with_all_their_components():
    """Components that make up for each other on every item leave less to chance than such that do not."""
    generator = np.random.default_rng(5)
    x = generator.uniform(0.3, 0.7, size=200)
    together, against = np.stack([x, x], axis=1), np.stack([x, 1 - x], axis=1)
    [wide, narrow] = [model_utility_estimate([values]) for values in (together, against)]
    assert (narrow.high - narrow.low) < 0.3 * (wide.high - wide.low)


def test_a_component_of_zero_makes_zero_and_the_interval_says_how_much_it_could_be():
    sets = some_sets()
    sets[1][:, 1] = 0.0
    estimate = model_utility_estimate(sets)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert (
        0 < estimate.high < 0.65
    )  # 0 of 25 is at most 0.13 by Wilson: harmonic mean with eight of about 0.6
    assert estimate.high == pytest.approx(9 / (1 / 0.1332 + 8 / 0.68), rel=0.1)


def test_one_item_a_set_has_no_interval():
    estimate = model_utility_estimate([np.array([[0.5, 0.25]]), np.array([[0.5, 0.25]])])
    assert (estimate.low, estimate.high, estimate.n) == (None, None, 2)
    assert estimate.value == pytest.approx(1 / 3)
