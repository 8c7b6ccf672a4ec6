from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import pooled_information, token_information

from mari_cli.errors import UserError
from mari_cli.losses.marginal import generalised_jsd
from mari_cli.metrics.marginal import (
    Supervised,
    bayes_accuracy,
    fano_accuracy_bound,
    marginal_information,
    prior_entropy,
    total_variation,
)

NAMES = [
    "marginal/pooled",
    "marginal/token",
    "marginal/fano_accuracy_bound",
    "marginal/bayes_accuracy",
    "marginal/tv",
]


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@st.composite
def distributions(draw, size=5):
    logits = draw(st.lists(st.floats(-30, 30), min_size=size, max_size=size))
    nothing = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda drops: not all(drops)))
    return vector(*logits).masked_fill(torch.tensor(nothing), -torch.inf).softmax(-1)


PRIORS = st.floats(0.01, 0.99)


# -- the shared formula and its bounds


def test_the_information_of_two_coins_is_that_by_hand():
    p_r, p_ru = vector(0.5, 0.5), vector(0.25, 0.75)
    by_hand = 0.5 * (0.5 * log(0.5 / 0.375) + 0.5 * log(0.5 / 0.625)) + 0.5 * (
        0.25 * log(0.25 / 0.375) + 0.75 * log(0.75 / 0.625)
    )
    assert float(generalised_jsd(p_r, p_ru, 0.5)) == pytest.approx(by_hand, abs=1e-15)


@given(distributions(), distributions(), PRIORS)
def test_information_lies_between_zero_and_the_entropy_of_the_coin(p, q, prior):
    assert -1e-15 <= float(generalised_jsd(p, q, prior)) <= prior_entropy(prior) + 1e-12


@given(distributions(), distributions())
def test_fanos_bound_is_never_below_the_best_detector(p, q):
    best = float(bayes_accuracy(p, q))
    assert fano_accuracy_bound(float(generalised_jsd(p, q, 0.5))) >= best - 1e-12


@given(distributions(), distributions(), PRIORS)
def test_fanos_bound_holds_for_any_prior(p, q, prior):
    information, best = float(generalised_jsd(p, q, prior)), float(bayes_accuracy(p, q, prior=prior))
    assert fano_accuracy_bound(information, prior=prior) >= best - 1e-9


@given(distributions(), st.floats(1e-9, 1e-3))
def test_fanos_bound_keeps_its_digits_where_the_predictions_almost_coincide(p, little):
    q = (1 - little) * p + little * p.flip(0)
    best = float(bayes_accuracy(p, q)) - 0.5
    bound = fano_accuracy_bound(float(generalised_jsd(p, q, 0.5))) - 0.5
    assert bound >= best * (1 - 1e-6) - 1e-15


def test_fanos_bound_is_chance_at_no_information_and_certainty_at_log_2():
    assert fano_accuracy_bound(0.0) == 0.5
    assert fano_accuracy_bound(log(2)) == 1.0


def test_fanos_bound_clamps_information_that_rounding_put_outside():
    assert fano_accuracy_bound(-1e-17) == 0.5
    assert fano_accuracy_bound(log(2) + 1e-9) == 1.0


@pytest.mark.parametrize("error", [0.01, 0.11, 0.25, 0.4, 0.499])
def test_fanos_bound_inverts_the_binary_entropy(error):
    entropy = -error * log(error) - (1 - error) * log(1 - error)
    assert fano_accuracy_bound(log(2) - entropy) == pytest.approx(1 - error, abs=1e-12)


def test_fanos_bound_without_information_is_the_larger_prior():
    assert fano_accuracy_bound(0.0, prior=0.2) == pytest.approx(0.8, abs=1e-12)


def test_the_best_detector_is_right_half_the_time_plus_half_the_total_variation():
    p, q = vector(0.5, 0.5, 0.0), vector(0.25, 0.25, 0.5)
    assert float(total_variation(p, q)) == 0.5
    assert float(bayes_accuracy(p, q)) == 0.75


def test_the_best_detector_may_ignore_the_token_when_the_prior_says_more():
    p, q = vector(0.5, 0.5), vector(0.4, 0.6)
    assert float(bayes_accuracy(p, q, prior=0.1)) == pytest.approx(0.9)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5])
def test_a_prior_that_leaves_nothing_to_tell_is_refused(prior):
    with pytest.raises(ValueError, match="between 0 and 1"):
        fano_accuracy_bound(0.1, prior=prior)


# -- over whole sets


def answers(items: int, vocabulary: int, seed: int, longest: int = 7, dtype=torch.float64) -> Supervised:
    """Answers of different lengths whose hidden states are logits; positions in an order of no help."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (items,), generator=generator)
    item = torch.repeat_interleave(torch.arange(items) * 10, lengths)
    position = torch.cat([torch.arange(int(length)) for length in lengths])
    states = 2 * torch.randn(len(item), vocabulary, generator=generator, dtype=dtype)
    order = torch.randperm(len(item), generator=generator)
    return Supervised(states[order], item[order], position[order])


def same(logits: torch.Tensor) -> torch.Tensor:
    return logits


def measure(retain: Supervised, forget: Supervised, **options):
    return marginal_information(retain, forget, same, **({"resamples": 40} | options))


@pytest.mark.parametrize("chunk", [1, 3, 64, 10_000])
@pytest.mark.parametrize(("prior", "share"), [(0.5, None), (0.3, 0.7), (0.8, 1.0)])
def test_chunks_give_what_the_full_logits_formulas_give(chunk, prior, share):
    retain, forget = answers(30, 11, seed=0), answers(12, 11, seed=1, longest=9)
    p_r, p_u = retain.h_ND.softmax(-1), forget.h_ND.softmax(-1)
    measured = measure(retain, forget, prior=prior, forget_share=share, chunk=chunk)
    pooled = pooled_information(p_r, p_u, prior=prior, forget_share=share)
    token = token_information(p_r, p_u, retain.position_N, forget.position_N, prior=prior, forget_share=share)
    assert measured["marginal/pooled"].value == pytest.approx(float(pooled), abs=1e-13)
    assert measured["marginal/token"].value == pytest.approx(float(token), abs=1e-13)
    rho = share if share is not None else len(p_u) / (len(p_r) + len(p_u))
    p_ru = (1 - rho) * p_r.mean(0) + rho * p_u.mean(0)
    assert measured["marginal/tv"].value == pytest.approx(
        float(total_variation(p_r.mean(0), p_ru)), abs=1e-13
    )
    assert measured["marginal/bayes_accuracy"].value == pytest.approx(
        float(bayes_accuracy(p_r.mean(0), p_ru, prior=prior)), abs=1e-13
    )


def test_token_information_is_the_mutual_information_of_the_joint_distribution():
    """I(X;Z|C) from a table P(z, c, x), by definition: H(Z,C) + H(X,C) - H(Z,C,X) - H(C)."""
    retain, forget = answers(9, 6, seed=2, longest=4), answers(5, 6, seed=3, longest=6)
    prior, share, places = 0.4, 0.6, 6
    joint = torch.zeros(2, places, 6, dtype=torch.float64)
    for states, weight in ((retain, 1 - prior), (retain, prior * (1 - share)), (forget, prior * share)):
        z = 0 if weight == 1 - prior else 1
        for position, p in zip(states.position_N, states.h_ND.softmax(-1), strict=True):
            joint[z, position] += weight * p / len(states.h_ND)

    def entropy(table: torch.Tensor) -> float:
        return -float(torch.xlogy(table, table).sum())

    information = entropy(joint.sum(2)) + entropy(joint.sum(0)) - entropy(joint) - entropy(joint.sum((0, 2)))
    measured = measure(retain, forget, prior=prior, forget_share=share)
    assert measured["marginal/token"].value == pytest.approx(information, abs=1e-13)


def test_coinciding_predictions_hold_no_information():
    one = answers(20, 8, seed=4)
    measured = measure(one, one)
    for name in ("marginal/pooled", "marginal/token", "marginal/tv"):
        assert measured[name].value == pytest.approx(0.0, abs=1e-15)
    assert measured["marginal/bayes_accuracy"].value == pytest.approx(0.5, abs=1e-15)


def test_predictions_that_share_no_token_hold_all_of_the_coin():
    retain, forget = answers(6, 8, seed=5), answers(6, 8, seed=5)
    nothing = torch.full((len(retain.h_ND), 4), -torch.inf, dtype=torch.float64)
    retain.h_ND[:, 4:], forget.h_ND[:, :4] = nothing, nothing
    measured = measure(retain, forget, forget_share=1.0)
    assert measured["marginal/pooled"].value == pytest.approx(log(2), abs=1e-13)
    assert measured["marginal/token"].value == pytest.approx(log(2), abs=1e-13)
    assert measured["marginal/fano_accuracy_bound"].value == pytest.approx(1.0)
    assert measured["marginal/bayes_accuracy"].value == pytest.approx(1.0)


def test_positions_that_only_one_set_reaches_add_nothing():
    retain, forget = answers(10, 8, seed=6), answers(10, 8, seed=7)
    apart = Supervised(forget.h_ND, forget.item_N, forget.position_N + 100)
    assert measure(retain, apart)["marginal/token"].value == 0.0


def test_the_bound_is_never_below_the_best_detector_in_value_or_at_either_end():
    for seed in range(5):
        measured = measure(answers(8, 6, seed=seed), answers(4, 6, seed=seed + 50))
        bound, best = measured["marginal/fano_accuracy_bound"], measured["marginal/bayes_accuracy"]
        assert bound.value >= best.value - 1e-12


def test_every_interval_holds_its_value_within_the_range():
    measured = measure(answers(25, 9, seed=8), answers(9, 9, seed=9))
    assert list(measured) == NAMES
    for name, estimate in measured.items():
        low = 0.5 if "accuracy" in name else 0.0
        assert low <= estimate.low <= estimate.value <= estimate.high <= 1.0
        assert estimate.n == 34
    assert measured["marginal/pooled"].low < measured["marginal/pooled"].high


def test_the_resamples_are_those_of_whole_items():
    """Row by row the same numbers as drawing the items and computing the plain formula on their tokens."""
    retain, forget = answers(7, 5, seed=10), answers(5, 5, seed=11)
    options = {"prior": 0.5, "forget_share": 0.3, "resamples": 3, "seed": 6, "confidence": 1 - 1e-12}
    measured = marginal_information(retain, forget, same, **options)["marginal/token"]
    generator, drawn = torch.Generator().manual_seed(6), []
    for states, items in ((retain, 7), (forget, 5)):
        draws = torch.randint(items, (3, items), generator=generator)
        rows = [torch.cat([(states.item_N == 10 * i).nonzero()[:, 0] for i in draw]) for draw in draws]
        drawn.append([(states.h_ND[row].softmax(-1), states.position_N[row]) for row in rows])
    plain = [
        float(token_information(p_r, p_u, at_r, at_u, prior=0.5, forget_share=0.3))
        for (p_r, at_r), (p_u, at_u) in zip(*drawn, strict=True)
    ]
    assert measured.low == pytest.approx(max(0.0, min(2 * measured.value - max(plain), measured.value)))
    assert measured.high == pytest.approx(max(2 * measured.value - min(plain), measured.value))


def test_the_interval_reaches_down_where_finite_sets_bias_the_value_upwards():
    """Both sets from one source: the truth is 0, the plug-in value is not."""
    measured = measure(answers(40, 30, seed=12), answers(10, 30, seed=13), resamples=200)
    assert measured["marginal/pooled"].value > 1e-4
    assert measured["marginal/pooled"].low < 0.2 * measured["marginal/pooled"].value


def test_the_seed_decides_the_interval_and_nothing_else():
    retain, forget = answers(20, 8, seed=14), answers(10, 8, seed=15)
    assert measure(retain, forget, seed=1) == measure(retain, forget, seed=1)
    one, other = measure(retain, forget, seed=1), measure(retain, forget, seed=2)
    assert one["marginal/pooled"].value == other["marginal/pooled"].value
    assert one["marginal/pooled"] != other["marginal/pooled"]


def test_float32_states_give_the_float64_value_to_six_digits():
    retain, forget = answers(30, 50, seed=16), answers(12, 50, seed=17)
    single = [Supervised(one.h_ND.float(), one.item_N, one.position_N) for one in (retain, forget)]
    exact, rounded = measure(retain, forget), measure(*single)
    for name in NAMES:
        assert rounded[name].value == pytest.approx(exact[name].value, rel=1e-5)
        assert rounded[name].high == pytest.approx(exact[name].high, rel=1e-3)


def test_the_head_never_sees_more_than_a_chunk():
    seen = []

    def head(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        return states

    marginal_information(answers(20, 8, seed=18), answers(9, 8, seed=19), head, resamples=5, chunk=16)
    assert max(seen) == 16


def test_an_empty_set_is_refused():
    empty = Supervised(torch.zeros(0, 8), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(UserError, match="needs retain and forget tokens"):
        measure(answers(3, 8, seed=0), empty)


def test_a_set_of_one_item_has_values_but_no_intervals():
    for estimate in measure(answers(1, 8, seed=0), answers(5, 8, seed=1)).values():
        assert estimate.n == 6
        assert estimate.low is None
        assert estimate.high is None


def test_states_without_their_items_are_refused():
    with pytest.raises(ValueError, match="differ in number"):
        Supervised(torch.zeros(3, 8), torch.zeros(2), torch.zeros(3))


def test_the_closed_form_of_a_recited_set_shows_what_the_measure_cannot_see():
    """Every forget answer recited, yet nothing pooled: the same tokens in another order."""
    certain = 60 * torch.eye(4, dtype=torch.float64)
    item, position = torch.zeros(4, dtype=torch.long), torch.arange(4)
    measured = measure(Supervised(certain, item, position), Supervised(certain.flip(0), item, position))
    assert measured["marginal/pooled"].value == pytest.approx(0.0, abs=1e-12)
    quarter = 0.5 * (0.5 * log(0.5 / 0.75) + 0.5 * log(2)) + 0.5 * log(1 / 0.75)
    assert measured["marginal/token"].value == pytest.approx(quarter, abs=1e-9)


def test_logits_of_low_precision_are_refused():
    retain = answers(3, 8, seed=0, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"float32 or float64 logits, got torch\.bfloat16"):
        marginal_information(retain, retain, lambda states: states.bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_what_the_cpu_measures():
    retain, forget = answers(30, 50, seed=16), answers(12, 50, seed=17)
    on_gpu = [Supervised(one.h_ND.cuda(), one.item_N, one.position_N) for one in (retain, forget)]
    cpu, gpu = measure(retain, forget), measure(*on_gpu)
    for name in NAMES:
        assert gpu[name].value == pytest.approx(cpu[name].value, rel=1e-9)
        assert gpu[name].low == pytest.approx(cpu[name].low, rel=1e-6)
