"""The chunked engine against full logits and autograd: values, every gradient, and memory."""

from dataclasses import replace

import naive
import pytest
import torch
from engine_cases import HEADS, LOSSES, case, gap, head, naively, randn, through_engine
from torch.utils._python_dispatch import TorchDispatchMode

from mari_cli.lm_head import Head
from mari_cli.losses.mari import Estimator, MariConfig
from mari_cli.losses.objective import differentiate
from mari_cli.losses.readings import KL, LogP
from mari_cli.losses.step import Supported

CHUNKS = (1, 2, 3, 5, 100)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", LOSSES)
def test_in_float64_the_engine_is_the_naive_formula(name, kind):
    objective, step, rows = case(LOSSES[name])
    of, reference = head(kind), head(kind, seed=7)
    terms, gradients = naively(objective, step, rows, of, reference)
    for chunk in CHUNKS:
        found, found_gradients = through_engine(objective, step, rows, of, reference, chunk=chunk)
        assert gap(found, terms) < 1e-12
        assert gap(found_gradients, gradients) < 1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_it_does_not_matter_whether_logits_are_kept_or_made_again(name):
    objective, step, rows = case(LOSSES[name])
    heads = head("softcap"), head("softcap", seed=7)
    expected = through_engine(objective, step, rows, *heads, chunk=3)
    kept = through_engine(objective, step, rows, *heads, chunk=3, keep_logits=True)
    for found, of_found in zip(kept, expected, strict=True):
        assert gap(found, of_found) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_in_float32_it_is_the_naive_formula_in_float64(name):
    objective, step, rows = case(LOSSES[name])
    single = case(LOSSES[name], dtype=torch.float32)
    narrow = head("softcap", dtype=torch.float32), head("softcap", seed=7, dtype=torch.float32)
    # the oracle sees the numbers that float32 sees
    rows = {
        role: replace(
            r,
            h_ND=single[2][role].h_ND.double(),
            reference_ND=None if r.reference_ND is None else single[2][role].reference_ND.double(),
        )
        for role, r in rows.items()
    }
    wide = [replace(h, weight_VD=h.weight_VD.detach().double().requires_grad_()) for h in narrow]
    terms, gradients = naively(objective, step, rows, *wide)
    found, found_gradients = through_engine(*single, *narrow, chunk=3)
    assert gap(found, terms) < 1e-5
    assert gap(found_gradients, gradients) < 1e-5


class RoundsLogits(Head):
    """What must not be done: the product itself in 16 bits."""

    def __call__(self, h_ND):
        return (h_ND @ self.weight_VD.T).to(torch.bfloat16).to(h_ND.dtype)


SIXTEEN = {"v": 64, "d": 32, "lengths": {r: [7, 12, 9] for r in ("forget", "retain", "alternative")}}


def in_float64(rows, heads):
    """The numbers that 16 bits see."""
    rows64 = {
        role: replace(
            r, h_ND=r.h_ND.double(), reference_ND=None if r.reference_ND is None else r.reference_ND.double()
        )
        for role, r in rows.items()
    }
    return rows64, *(Head(h.weight_VD.detach().double().requires_grad_()) for h in heads)


@pytest.mark.parametrize("name", LOSSES)
def test_in_bfloat16_operands_are_narrow_and_logits_are_not(name):
    bfloat16 = torch.bfloat16
    objective, step, rows = case(LOSSES[name], dtype=bfloat16, **SIXTEEN)
    narrow = head(dtype=bfloat16, v=64, d=32), head(dtype=bfloat16, v=64, d=32, seed=7)
    rows64, *wide = in_float64(rows, narrow)
    terms, gradients = naively(objective, step, rows64, *wide)
    found, found_gradients = through_engine(objective, step, rows, *narrow, chunk=5)
    assert gap(found, terms) < 3e-3
    assert gap(found_gradients, gradients) < 3e-3
    wrong, wrong_gradients = naively(objective, step, rows64, *(RoundsLogits(h.weight_VD) for h in wide))
    assert max(gap(wrong, terms), gap(wrong_gradients, gradients)) > 3e-3


def on_gpu(x):
    """Rows of a role or a head, with all their tensors; what is trained a leaf again."""
    moved = {}
    for name, value in vars(x).items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.detach().cuda().requires_grad_(value.requires_grad)
        elif isinstance(value, Supported):
            moved[name] = on_gpu(value)
    return replace(x, **moved)


def through_gpu(objective, step, rows, of, reference, *, scale=1.0):
    """As `through_engine`, in chunks that are not all of one size."""
    there = {role: on_gpu(r) for role, r in rows.items()}
    settings = {"chunk": 5, "reference": on_gpu(reference), "scale": lambda loss: scale * loss}
    terms, found = differentiate(objective, step, there, on_gpu(of), **settings)
    gradients = dict(found.h) | {"weight": found.head.weight_VD}
    gradients |= {} if found.head.bias_V is None else {"bias": found.head.bias_V}
    return (
        {name: term.cpu() for name, term in terms.items()},
        {name: gradient.cpu().double() / scale for name, gradient in gradients.items()},
    )


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["plain", "all"])
@pytest.mark.parametrize("name", LOSSES)
def test_on_a_gpu_in_float64_the_compiled_engine_is_the_naive_formula(name, kind):
    objective, step, rows = case(LOSSES[name])
    of, reference = head(kind), head(kind, seed=7)
    terms, gradients = naively(objective, step, rows, of, reference)
    found, found_gradients = through_gpu(objective, step, rows, of, reference)
    assert gap(found, terms) < 1e-12
    assert gap(found_gradients, gradients) < 1e-12


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1.0), (torch.float16, 1024.0)])
@pytest.mark.parametrize("name", LOSSES)
def test_on_a_gpu_16_bit_products_are_the_naive_formula_in_float64(name, dtype, scale):
    """In float16 with a scaled loss, as steps are taken: its smallest numbers are as large as gradients."""
    objective, step, rows = case(LOSSES[name], dtype=dtype, **SIXTEEN)
    narrow = head(dtype=dtype, v=64, d=32), head(dtype=dtype, v=64, d=32, seed=7)
    terms, gradients = naively(objective, step, *in_float64(rows, narrow))
    found, found_gradients = through_gpu(objective, step, rows, *narrow, scale=scale)
    assert gap(found, terms) < 3e-3
    assert gap(found_gradients, gradients) < 3e-3


class Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, *tensors):
        value, gradients = run(*tensors)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx, upstream):
        return None, *(upstream * gradient for gradient in ctx.saved_tensors)


SMALL = {"v": 9, "d": 2, "lengths": {"forget": [2, 3], "retain": [3, 1], "alternative": [1, 2]}}
"""gradcheck moves each input by itself, and looks at every gradient each time."""


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_through_the_engine(name):
    objective, step, rows = case(LOSSES[name], **SMALL)
    if name in ("mari_pooled", "mari_token"):
        pytest.skip("its gradient leaves one side out by definition; with both sides it is checked")
    if name in ("wga", "satimp"):
        pytest.skip("its weights carry no gradient by definition")
    of, reference = (head("all", seed=seed, v=9, d=2) for seed in (0, 7))
    roles = list(rows)

    def run(weight_VD, bias_V, *h):
        parts = {role: replace(rows[role], h_ND=x) for role, x in zip(roles, h, strict=True)}
        at = replace(of, weight_VD=weight_VD, bias_V=bias_V)
        terms, gradients = through_engine(objective, step, parts, at, reference, chunk=4)
        return terms["loss"], [gradients[key] for key in ("weight", "bias", *roles)]

    inputs = [of.weight_VD, of.bias_V, *(rows[role].h_ND.clone().requires_grad_() for role in roles)]
    assert torch.autograd.gradcheck(lambda *x: Loss.apply(run, *x), inputs, atol=1e-7, rtol=1e-5)


class Largest(TorchDispatchMode):
    """The most entries of any tensor that an operation made, weights apart."""

    def __init__(self, allowed):
        self.allowed, self.entries = {tuple(shape) for shape in allowed}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor) and tuple(x.shape) not in self.allowed:
                self.entries = max(self.entries, x.numel())
        return out


SIZES = {"v": 300, "d": 8, "lengths": {r: [9, 12, 9, 6, 4] * 3 for r in ("forget", "retain", "alternative")}}


@pytest.mark.parametrize("kind", ["plain", "all"])
@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_has_more_than_a_chunk_of_logits(name, kind):
    chunk = 12
    objective, step, rows = case(LOSSES[name], dtype=torch.float32, **SIZES)
    of, reference = (head(kind, seed=seed, dtype=torch.float32, v=300, d=8) for seed in (0, 7))
    weight = (300, 8)
    for keep in (False, True):
        with Largest(allowed=[weight, weight[::-1]]) as seen:
            differentiate(objective, step, rows, of, chunk=chunk, reference=reference, keep_logits=keep)
        assert seen.entries == chunk * 300
    with Largest(allowed=[weight, weight[::-1]]) as seen:
        naively(objective, step, rows, of, reference)
    assert seen.entries == max(len(r.h_ND) for r in rows.values()) * 300


def test_a_frozen_head_gets_no_gradient():
    objective, step, rows = case(LOSSES["mari_token"])
    of = head("bias")
    frozen = replace(of, weight_VD=of.weight_VD.detach(), bias_V=of.bias_V.detach())
    _, gradients = differentiate(objective, step, rows, frozen, chunk=4, reference=frozen)
    assert gradients.head.weight_VD is None
    assert gradients.head.bias_V is None
    _, expected = differentiate(objective, step, rows, of, chunk=4, reference=of)
    assert gap(gradients.h, expected.h) == 0


def test_at_the_reference_the_divergence_and_its_gradient_are_nothing():
    objective, step, rows = case(MariConfig(name="mari", estimator=Estimator.token, mari_weight=0))
    rows["retain"] = replace(rows["retain"], reference_ND=rows["retain"].h_ND)
    terms, gradients = differentiate(objective, step, rows, head(), chunk=4, reference=head())
    assert terms["retain_kl"].item() == pytest.approx(0, abs=1e-15)
    assert gradients.h["retain"].norm().item() < 1e-15


def test_what_is_surveyed_is_not_linear_and_the_rest_is():
    """`Needs.nonlinear` is what makes the gradient right: without it NPO's would be that at log p = 0."""
    objective, step, rows = case(LOSSES["npo"])
    blind = replace(objective, needs=replace(objective.needs, nonlinear=()))
    _, expected = naively(objective, step, rows, head(), head(seed=7))
    _, wrong = through_engine(blind, step, rows, head(), head(seed=7), chunk=4)
    assert gap(wrong, expected) > 0.01


def test_the_scale_multiplies_gradients_and_no_term():
    objective, step, rows = case(LOSSES["mari_pooled_both"])
    settings = {"chunk": 4, "reference": head(seed=7)}
    terms, gradients = differentiate(objective, step, rows, head(), **settings)
    same, scaled = differentiate(objective, step, rows, head(), scale=lambda loss: 1024 * loss, **settings)
    assert gap(same, terms) == 0
    assert gap({r: g / 1024 for r, g in scaled.h.items()}, gradients.h) < 1e-15


def test_a_far_tail_of_the_supported_distribution_keeps_its_digits():
    """The stored tokens hold all but 1e-7 of the model's probability: 1 - p would be noise in float32."""
    objective, step, rows = case(LOSSES["mari_context"], dtype=torch.float32, d=23)
    ids = rows["forget"].supported.ids_MK[:, 0].long()
    rows["forget"] = replace(rows["forget"], h_ND=19.0 * torch.eye(23)[ids])
    identity = Head(torch.eye(23).requires_grad_())  # the hidden states are the logits
    double = {
        r: replace(
            x, h_ND=x.h_ND.double(), reference_ND=None if x.reference_ND is None else x.reference_ND.double()
        )
        for r, x in rows.items()
    }
    wide = Head(torch.eye(23).double().requires_grad_())
    _, expected = naively(objective, step, double, wide, wide)
    _, found = through_engine(objective, step, rows, identity, identity, chunk=4)
    others = torch.ones(23).scatter(0, rows["forget"].supported.ids_MK[0].long(), 0).bool()
    torch.testing.assert_close(
        found["forget"][0, others].double(), expected["forget"][0, others], rtol=1e-4, atol=0
    )


def test_naive_readings_are_those_of_the_engine_one_by_one():
    objective, _, rows = case(LOSSES["kl_ga"])
    read = naive.readings(head(), rows, objective.needs, reference=head(seed=7))
    assert set(read) == {LogP("forget"), KL("retain")}
    assert objective.needs.roles == ("forget", "retain")
    assert randn(1, seed=0).dtype == torch.float64
