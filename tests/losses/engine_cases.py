"""A step as random hidden states, and every loss over it, twice: through the engine and from full logits."""

import math
from collections.abc import Mapping
from dataclasses import replace

import naive
import torch
from torch import Tensor

from mari_cli.lm_head import Head
from mari_cli.losses.altpo import AltPOConfig
from mari_cli.losses.ascent import KLGA, GradAscent, GradDiff
from mari_cli.losses.base import LossConfig, RetainLoss
from mari_cli.losses.ceu import CEUConfig
from mari_cli.losses.jensun import JensUnConfig
from mari_cli.losses.mari import Divergence, Estimator, GradientThrough, MariConfig, RetainDivergence
from mari_cli.losses.objective import Objective, Terms, build, differentiate
from mari_cli.losses.pdu import PDUConfig
from mari_cli.losses.preference import DPOConfig, NPOConfig
from mari_cli.losses.satimp import SatImpConfig
from mari_cli.losses.simnpo import SimNPOConfig
from mari_cli.losses.step import Positions, Rows, Step, Supported
from mari_cli.losses.undial import UndialConfig
from mari_cli.losses.unilogit import UnilogitConfig
from mari_cli.losses.wga import WGAConfig

V, D, K = 23, 5, 6
BOTH = GradientThrough.both
LOSSES: dict[str, LossConfig] = {
    "mari_pooled": MariConfig(name="mari", estimator=Estimator.pooled),
    "mari_token": MariConfig(name="mari", estimator=Estimator.token, prior=0.3),
    "mari_pooled_both": MariConfig(name="mari", estimator=Estimator.pooled, gradient_through=BOTH),
    "mari_token_both": MariConfig(
        name="mari", estimator=Estimator.token, gradient_through=BOTH, forget_share=0.7
    ),
    "mari_context": MariConfig(name="mari", estimator=Estimator.context, prior=0.4),
    **{
        f"mari_{divergence}": MariConfig(
            name="mari", estimator=Estimator.context, divergence=divergence, pointwise_weight=0.3
        )
        for divergence in Divergence
    },
    "mari_paper": MariConfig(
        name="mari",
        estimator=Estimator.pooled,
        gradient_through=BOTH,
        prior=None,
        retain_divergence=RetainDivergence.reverse,
    ),
    "mari_reverse": MariConfig(
        name="mari",
        estimator=Estimator.context,
        retain_divergence=RetainDivergence.reverse,
        anchor_weight=3.0,
    ),
    "mari_anchored": MariConfig(name="mari", estimator=Estimator.context, anchor_weight=30.0),
    "mari_nll": MariConfig(name="mari", estimator=Estimator.context, retain_nll_weight=0.6),
    "mari_token_nll": MariConfig(
        name="mari", estimator=Estimator.token, gradient_through=BOTH, retain_nll_weight=2.0
    ),
    "mari_jensen_shannon_retain": MariConfig(
        name="mari", estimator=Estimator.context, retain_loss=RetainLoss.jensen_shannon
    ),
    "grad_ascent": GradAscent(name="grad_ascent"),
    "grad_diff": GradDiff(name="grad_diff", retain_weight=0.7),
    "kl_ga": KLGA(name="kl_ga", forget_weight=0.3),
    "npo": NPOConfig(name="npo", retain_loss=RetainLoss.nll),
    "npo_by_length": NPOConfig(name="npo", length_normalised=True, beta=1.0),
    "dpo": DPOConfig(name="dpo"),
    "simnpo": SimNPOConfig(name="simnpo", gamma=0.3),
    "simnpo_jensen_shannon": SimNPOConfig(
        name="simnpo", retain_loss=RetainLoss.jensen_shannon, retain_weight=3.0
    ),
    "wga": WGAConfig(name="wga", beta=0.7),
    "satimp": SatImpConfig(name="satimp", beta1=1.5, retain_loss=RetainLoss.kl),
    "ceu": CEUConfig(name="ceu", retain_loss=RetainLoss.nll),
    "unilogit": UnilogitConfig(name="unilogit"),
    "jensun": JensUnConfig(name="jensun", retain_weight=0.6),
    "pdu": PDUConfig(name="pdu", retain_weight=2.0),
    "altpo": AltPOConfig(name="altpo", beta=0.3, retain_weight=0.5),
    "undial": UndialConfig(name="undial", strength=2.0, retain_loss=RetainLoss.kl),
}
LENGTHS = {"forget": [2, 4, 1], "retain": [3, 1, 5, 2], "alternative": [1, 3, 2]}
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.25},
    "softcap": {"softcap": 3.0},
    "all": {"bias": True, "scale": 1.5, "softcap": 3.0},
}


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def head(
    kind: str = "plain", *, seed: int = 0, dtype: torch.dtype = torch.float64, v: int = V, d: int = D
) -> Head:
    settings = HEADS[kind]
    bias_V = randn(v, seed=seed + 1, dtype=dtype).requires_grad_() if settings.get("bias") else None
    weight_VD = randn(v, d, seed=seed, dtype=dtype).requires_grad_()
    return Head(weight_VD, bias_V, settings.get("scale", 1.0), settings.get("softcap"))


def positions(lengths: list[int], seed: int, v: int = V) -> Positions:
    labels = torch.randint(v, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    index = torch.cat([torch.arange(length) for length in lengths])
    return Positions(labels, sequence, index, len(lengths), sum(lengths), len(lengths))


def case(
    config: LossConfig,
    *,
    dtype: torch.dtype = torch.float64,
    lengths: Mapping[str, list[int]] = LENGTHS,
    v: int = V,
    d: int = D,
) -> tuple[Objective, Step, dict[str, Rows]]:
    """The objective of ``config``, and a random step for it."""
    objective = build(config)
    needs = objective.needs
    supports = needs.stored_tokens is not None
    where = {role: positions(lengths[role], seed, v) for seed, role in enumerate(needs.roles)}
    rows = {}
    for seed, (role, at) in enumerate(where.items()):
        n = len(at.labels_N)
        h_ND = randn(n, d, seed=20 + seed, dtype=dtype)
        reference_ND = randn(n, d, seed=30 + seed, dtype=dtype) if role in needs.beside_reference else None
        supported = None
        if supports and role == "forget":
            among_MV = randn(n, v, seed=40).scatter(-1, at.labels_N.unsqueeze(-1), -9.0)
            ids_MK = among_MV.argsort(-1)[:, :K]  # the label first
            probability_MK = randn(n, v, seed=41).softmax(-1).gather(-1, ids_MK).to(dtype)
            supported = Supported(ids_MK.int(), probability_MK)
        layer_ND = randn(n, d, seed=60 + seed, dtype=dtype) if needs.states else None
        rows[role] = Rows(h_ND, at.labels_N, reference_ND, supported, layer_ND)
    log_p = {role: randn(len(lengths[role]), seed=50) * 2 - 6 for role in needs.reference_log_p}
    pools = needs.pooled.pools_of(where) if needs.pooled else None
    counts = {role: len(at.labels_N) for role, at in where.items()}
    layers = {
        role: randn(len(where[role].labels_N), d, seed=70, dtype=dtype) for role in needs.reference_layer
    }
    return objective, Step(where, log_p, pools, counts, layers), rows


def through_engine(
    objective: Objective,
    step: Step,
    rows: Mapping[str, Rows],
    of: Head,
    reference: Head,
    *,
    chunk: int,
    keep_logits: bool = False,
) -> tuple[Terms, dict[str, Tensor]]:
    """Terms, and gradients by name: of the hidden states of each role, of the head's weight and bias."""
    terms, found = differentiate(
        objective, step, rows, of, chunk=chunk, reference=reference, keep_logits=keep_logits
    )
    gradients = dict(found.h) | {"weight": found.head.weight_VD}
    layers = {role: torch.zeros_like(r.layer_ND) for role, r in rows.items() if r.layer_ND is not None}
    gradients |= {f"{role} layer": gradient for role, gradient in (layers | found.layer).items()}
    return terms, gradients | ({} if found.head.bias_V is None else {"bias": found.head.bias_V})


def naively(
    objective: Objective, step: Step, rows: Mapping[str, Rows], of: Head, reference: Head
) -> tuple[Terms, dict[str, Tensor]]:
    leaves = {role: r.h_ND.detach().clone().requires_grad_() for role, r in rows.items()}
    layers = {f"{role} layer": r.layer_ND for role, r in rows.items() if r.layer_ND is not None}
    leaves |= {name: x.detach().clone().requires_grad_() for name, x in layers.items()}
    rows = {
        role: replace(r, h_ND=leaves[role], layer_ND=leaves.get(f"{role} layer")) for role, r in rows.items()
    }
    readings = naive.readings(
        of,
        rows,
        objective.needs,
        reference=reference,
        index_N={role: at.index_N for role, at in step.positions.items()},
    )
    if step.pools is not None:  # one number already: the objective's weights of pools add up what is one
        one = torch.ones(1, dtype=readings[objective.needs.pooled].dtype)
        step = replace(step, pools=replace(step.pools, weight_C=one))
    terms = objective.terms(step, readings)
    leaves |= {"weight": of.weight_VD} | ({} if of.bias_V is None else {"bias": of.bias_V})
    gradients = torch.autograd.grad(terms["loss"], list(leaves.values()), materialize_grads=True)
    return {name: term.detach() for name, term in terms.items()}, dict(zip(leaves, gradients, strict=True))


def gap(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative distance, in norm, over all tensors."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for name, x in expected.items():
        assert torch.isfinite(found[name]).all(), name
        distance, size = (found[name].double() - x.double()).norm().item(), x.double().norm().item()
        worst = max(worst, distance / size if size else (0.0 if distance == 0 else math.inf))
    return worst
