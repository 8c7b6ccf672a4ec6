"""The same readings from full logits and autograd: what the engine is checked against, and measured against.

Holds [positions x vocabulary] several times. Shapes: N, M positions, V vocabulary.
"""

from collections.abc import Mapping

from torch import Tensor

from mari_cli.config import Estimator, GradientThrough, MariConfig
from mari_cli.losses import likelihood, marginal
from mari_cli.losses.engine import Readings, Rows
from mari_cli.losses.head import Head


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
    kl = {}
    for role, of_role in rows.items():
        if of_role.reference_ND is not None:
            assert reference is not None
            kl[role] = likelihood.kl_from_reference(logits[role], reference(of_role.reference_ND).detach())
    if config is None:
        return Readings(log_p, kl)
    p_r_NV, p_u_MV = logits["retain"].softmax(-1), logits["forget"].softmax(-1)
    if config.gradient_through is GradientThrough.forget:
        p_r_NV = p_r_NV.detach()
    match config.estimator:
        case Estimator.pooled:
            information = marginal.pooled_information(
                p_r_NV, p_u_MV, prior=config.prior, forget_share=config.forget_share
            ).reshape(1)
        case Estimator.token:
            assert index_N is not None
            information = marginal.token_information(
                p_r_NV,
                p_u_MV,
                index_N["retain"],
                index_N["forget"],
                prior=config.prior,
                forget_share=config.forget_share,
            ).reshape(1)
        case Estimator.context:
            supported = rows["forget"].supported
            assert supported is not None
            information = marginal.supported_information(
                p_u_MV,
                supported.ids_MK.long(),
                supported.probability_MK,
                prior=supported.prior,
                share=supported.share,
            )
    return Readings(log_p, kl, information)
