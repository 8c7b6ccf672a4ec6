"""The same readings from full logits and autograd: what the engine is checked against, and measured against.

Holds [positions x vocabulary] several times. Shapes: N, M positions, V vocabulary.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from mari_cli.lm_head import Head
from mari_cli.losses import likelihood, marginal
from mari_cli.losses.engine import Readings, Rows
from mari_cli.losses.mari import Divergence, Estimator, GradientThrough, MariConfig
from mari_cli.losses.objective import prior_of


def readings(
    head: Head,
    rows: Mapping[str, Rows],
    *,
    reference: Head | None = None,
    index_N: Mapping[str, Tensor] | None = None,
    config: MariConfig | None = None,
) -> Readings:
    """All readings of ``rows`` with their graphs; with ``config`` the marginal information of `retain` and
    `forget` too, one number [1] or one a position [M]. ``index_N``: of each position in its sequence, by
    role.
    """
    logits = {role: head(of_role.h_ND) for role, of_role in rows.items()}
    log_p = {role: -likelihood.token_nll(z_NV, rows[role].labels_N) for role, z_NV in logits.items()}
    kl, reverse_kl, anchor = {}, {}, {}
    for role, of_role in rows.items():
        if of_role.reference_ND is not None:
            assert reference is not None
            reference_NV = reference(of_role.reference_ND).detach()
            kl[role] = likelihood.kl_from_reference(logits[role], reference_NV)
            both = logits[role].log_softmax(-1), reference_NV.log_softmax(-1)
            reverse_kl[role] = (both[0].exp() * (both[0] - both[1])).sum(-1)
            anchor[role] = smooth_l1_loss(*both, reduction="none").mean(-1)
    if config is None:
        return Readings(log_p, kl, reverse_kl, anchor)
    p_r_NV, p_u_MV = logits["retain"].softmax(-1), logits["forget"].softmax(-1)
    prior = prior_of(config, retain=len(p_r_NV), forget=len(p_u_MV))
    if config.gradient_through is GradientThrough.forget:
        p_r_NV = p_r_NV.detach()
    match config.estimator:
        case Estimator.pooled:
            information = marginal.pooled_information(
                p_r_NV, p_u_MV, prior=prior, forget_share=config.forget_share
            ).reshape(1)
        case Estimator.token:
            assert index_N is not None
            information = marginal.token_information(
                p_r_NV,
                p_u_MV,
                index_N["retain"],
                index_N["forget"],
                prior=prior,
                forget_share=config.forget_share,
            ).reshape(1)
        case Estimator.context:
            supported = rows["forget"].supported
            assert supported is not None
            q_ML = marginal.with_rest(supported.probability_MK.to(p_u_MV.dtype))
            p_ML = marginal.named_and_rest(p_u_MV, supported.ids_MK.long())
            information = divergence(q_ML, p_ML, config, prior=prior, share=_share(config, log_p))
            observed = p_ML[:, 0].log(), q_ML[:, 0].log()
            pointwise = smooth_l1_loss(*observed, reduction="none")
            return Readings(log_p, kl, reverse_kl, anchor, information, pointwise)
    return Readings(log_p, kl, reverse_kl, anchor, information)


def divergence(q: Tensor, p: Tensor, config: MariConfig, *, prior: float, share: float) -> Tensor:
    """D(q, p) in nats over the last dimension, as `loss.divergence` says."""
    forward, reverse = (q * (q / p).log()).sum(-1), (p * (p / q).log()).sum(-1)
    match config.divergence:
        case Divergence.jensen_shannon:
            return marginal.generalised_jsd(q, (1 - share) * q + share * p, prior)
        case Divergence.forward:
            return forward
        case Divergence.reverse:
            return reverse
        case Divergence.jeffreys:
            return forward + reverse


def _share(config: MariConfig, log_p: Mapping[str, Tensor]) -> float:
    forget, retain = len(log_p["forget"]), len(log_p["retain"])
    return forget / (forget + retain) if config.forget_share is None else config.forget_share
