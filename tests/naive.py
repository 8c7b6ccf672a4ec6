"""The same readings from full logits and autograd: what the engine is checked against, and measured against.

Holds [positions x vocabulary] several times. Shapes: N, M positions, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, smooth_l1_loss

from mari_cli.lm_head import Head
from mari_cli.losses import marginal
from mari_cli.losses.mari import Divergence
from mari_cli.losses.objective import Needs
from mari_cli.losses.readings import (
    KL,
    Anchor,
    HiddenStates,
    JensenShannon,
    LogitMargin,
    LogOdds,
    LogP,
    PooledInformation,
    ReverseKL,
    SupportInformation,
    TargetCrossEntropy,
    UniformTarget,
)
from mari_cli.losses.readings.reading import Reading
from mari_cli.losses.step import Rows


def readings(
    head: Head,
    rows: Mapping[str, Rows],
    needs: Needs,
    *,
    reference: Head | None = None,
    index_N: Mapping[str, Tensor] | None = None,
) -> dict[Reading, Tensor]:
    """All readings of ``needs`` with their graphs; the marginal information of pools as one number [1].
    ``index_N``: of each position in its sequence, by role.
    """
    logits = {role: head(of_role.h_ND) for role, of_role in rows.items()}
    beside: dict[str, Tensor] = {}
    for role, of_role in rows.items():
        if of_role.reference_ND is not None:
            assert reference is not None
            beside[role] = reference(of_role.reference_ND).detach()
    found: dict[Reading, Tensor] = {}
    for reading in needs.readings:
        role, z_NV, of_role = reading.role, logits[reading.role], rows[reading.role]
        match reading:
            case LogP():
                found[reading] = -token_nll(z_NV, of_role.labels_N)
            case KL():
                found[reading] = kl_from_reference(z_NV, beside[role])
            case ReverseKL():
                both = z_NV.log_softmax(-1), beside[role].log_softmax(-1)
                found[reading] = (both[0].exp() * (both[0] - both[1])).sum(-1)
            case JensenShannon():
                p_NV, q_NV = z_NV.softmax(-1), beside[role].softmax(-1)
                m_NV = (p_NV + q_NV) / 2
                found[reading] = sum((x * (x / m_NV).log()).sum(-1) / 2 for x in (p_NV, q_NV))
            case LogOdds():
                found[reading] = log_odds(z_NV, of_role.labels_N)
            case UniformTarget():
                p_NV, label_NV = z_NV.softmax(-1), one_hot(of_role.labels_N, z_NV.shape[-1])
                rest_N1 = (p_NV * (1 - label_NV)).sum(-1, keepdim=True)
                size = z_NV.shape[-1]
                q_NV = torch.where(label_NV.bool(), 1 / size, p_NV / rest_N1 * (size - 1) / size).detach()
                found[reading] = (p_NV * (p_NV / q_NV).log()).sum(-1)
            case LogitMargin():
                found[reading] = z_NV.max(-1).values - z_NV.mean(-1)
            case Anchor():
                both = z_NV.log_softmax(-1), beside[role].log_softmax(-1)
                found[reading] = smooth_l1_loss(*both, reduction="none").mean(-1)
            case TargetCrossEntropy():
                label_NV = one_hot(of_role.labels_N, z_NV.shape[-1])
                q_NV = (beside[role] - reading.lowered * label_NV).softmax(-1)
                found[reading] = cross_entropy(z_NV, q_NV, reduction="none")
            case PooledInformation():
                found[reading] = _pooled(reading, logits, index_N).reshape(1)
            case SupportInformation():
                found[reading] = _supported(reading, of_role, z_NV, retain=len(rows["retain"].h_ND))
            case HiddenStates():
                assert of_role.layer_ND is not None
                found[reading] = of_role.layer_ND
            case _:
                raise NotImplementedError(f"add a case for {type(reading).__name__} here: its plain formula")
    return found


def pooled_information(p_r_NV: Tensor, p_u_MV: Tensor, *, prior: float, forget_share: float | None) -> Tensor:
    """I(X;Z) of two vocabulary vectors: mean prediction over retain, and over retain and forget together."""
    share = forget_share if forget_share is not None else len(p_u_MV) / (len(p_r_NV) + len(p_u_MV))
    p_r_V, p_u_V = p_r_NV.mean(0), p_u_MV.mean(0)
    return marginal.generalised_jsd(p_r_V, (1 - share) * p_r_V + share * p_u_V, prior)


def token_information(
    p_r_NV: Tensor,
    p_u_MV: Tensor,
    index_r_N: Tensor,
    index_u_M: Tensor,
    *,
    prior: float,
    forget_share: float | None,
) -> Tensor:
    """I(X;Z|C) with the weights of `marginal.pools_by_index`: one pair of vectors for each index."""
    share = forget_share if forget_share is not None else len(p_u_MV) / (len(p_r_NV) + len(p_u_MV))
    length = int(torch.cat([index_r_N, index_u_M]).max()) + 1
    count_r_C = torch.bincount(index_r_N, minlength=length).to(p_r_NV.dtype)
    count_u_C = torch.bincount(index_u_M, minlength=length).to(p_u_MV.dtype)
    both_C = ((count_r_C > 0) & (count_u_C > 0)).nonzero().squeeze(-1)
    p_r_CV = p_r_NV.new_zeros(length, p_r_NV.shape[-1]).index_add(0, index_r_N, p_r_NV)[both_C]
    p_u_CV = p_u_MV.new_zeros(length, p_u_MV.shape[-1]).index_add(0, index_u_M, p_u_MV)[both_C]
    a_C, u_C = count_r_C[both_C] / len(p_r_NV), count_u_C[both_C] / len(p_u_MV)
    b_C = (1 - share) * a_C + share * u_C
    p_C = (1 - prior) * a_C + prior * b_C
    p_r_CV = p_r_CV / count_r_C[both_C].unsqueeze(-1)
    p_u_CV = p_u_CV / count_u_C[both_C].unsqueeze(-1)
    share_C1 = (share * u_C / b_C).unsqueeze(-1)
    information_C = marginal.generalised_jsd(
        p_r_CV, (1 - share_C1) * p_r_CV + share_C1 * p_u_CV, prior * b_C / p_C
    )
    return (p_C * information_C).sum()


def _pooled(
    reading: PooledInformation, logits: Mapping[str, Tensor], index_N: Mapping[str, Tensor] | None
) -> Tensor:
    p_r_NV, p_u_MV = logits["retain"].softmax(-1), logits["forget"].softmax(-1)
    prior = marginal.prior_of(reading.prior, retain=len(p_r_NV), forget=len(p_u_MV))
    if not reading.through_retain:
        p_r_NV = p_r_NV.detach()
    if reading.one_pool:
        return pooled_information(p_r_NV, p_u_MV, prior=prior, forget_share=reading.share)
    assert index_N is not None
    return token_information(
        p_r_NV, p_u_MV, index_N["retain"], index_N["forget"], prior=prior, forget_share=reading.share
    )


def _supported(reading: SupportInformation, rows: Rows, z_MV: Tensor, *, retain: int) -> Tensor:
    supported, p_MV = rows.supported, z_MV.softmax(-1)
    assert supported is not None
    share = len(p_MV) / (len(p_MV) + retain) if reading.share is None else reading.share
    prior = marginal.prior_of(reading.prior, retain=retain, forget=len(p_MV))
    q_ML = marginal.with_rest(supported.probability_MK.to(p_MV.dtype))
    p_ML = named_and_rest(p_MV, supported.ids_MK.long())
    values = [divergence(q_ML, p_ML, reading.divergence, prior=prior, share=share)]
    if reading.pointwise:
        values.append(smooth_l1_loss(p_ML[:, 0].log(), q_ML[:, 0].log(), reduction="none"))
    return torch.stack(values)


def divergence(q: Tensor, p: Tensor, kind: Divergence, *, prior: float, share: float) -> Tensor:
    """D(q, p) in nats over the last dimension, as `loss.divergence` says."""
    forward, reverse = (q * (q / p).log()).sum(-1), (p * (p / q).log()).sum(-1)
    match kind:
        case Divergence.jensen_shannon:
            return marginal.generalised_jsd(q, (1 - share) * q + share * p, prior)
        case Divergence.forward:
            return forward
        case Divergence.reverse:
            return reverse
        case Divergence.jeffreys:
            return forward + reverse


def token_nll(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Negative log-likelihood of each label [N], in nats."""
    return torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")


def log_odds(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """log p(label) - log(1 - p(label)) at each position [N]."""
    label_N1 = labels_N.unsqueeze(-1)
    others_NV = logits_NV.scatter(-1, label_N1, -torch.inf)
    return logits_NV.gather(-1, label_N1).squeeze(-1) - others_NV.logsumexp(-1)


def kl_from_reference(logits_NV: Tensor, reference_NV: Tensor) -> Tensor:
    """KL(reference ‖ model) at each position [N], in nats; both arguments are logits."""
    log_p_NV, log_q_NV = logits_NV.log_softmax(-1), reference_NV.log_softmax(-1)
    return (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1)


def neighbour_weights(
    states_r_ND: Tensor, states_u_MD: Tensor, *, temperature: float, neighbours: int
) -> Tensor:
    """[M, N]: how much each retain position speaks for the context of each forget position; rows sum to 1.

    ``states`` are the reference's hidden states, centred here by the retain mean and normalised; the weights
    are a softmax of cosine similarity / ``temperature`` over the ``neighbours`` nearest.
    """
    centre_D = states_r_ND.mean(0)
    r_ND = torch.nn.functional.normalize(states_r_ND - centre_D, dim=-1)
    u_MD = torch.nn.functional.normalize(states_u_MD - centre_D, dim=-1)
    similarity_MN = u_MD @ r_ND.T / temperature
    nearest = similarity_MN.topk(min(neighbours, len(r_ND)), dim=-1)
    weights_MN = torch.zeros_like(similarity_MN)
    return weights_MN.scatter(-1, nearest.indices, nearest.values.softmax(-1))


def supported_information(
    p_u_MV: Tensor, ids_MK: Tensor, supported_MK: Tensor, *, prior: float, share: float
) -> Tensor:
    """I(X;Z) at each forget position [M], against what the retain data supports in its context.

    The supported distribution is known at the tokens ``ids_MK``, each named once a row; what is left of it
    lies on all others together. They are one outcome here, so this is I of a coarser X, never above I of X.
    """
    r_ML, u_ML = marginal.with_rest(supported_MK.to(p_u_MV.dtype)), named_and_rest(p_u_MV, ids_MK)
    return marginal.generalised_jsd(r_ML, (1 - share) * r_ML + share * u_ML, prior)


def named_and_rest(p_MV: Tensor, ids_MK: Tensor) -> Tensor:
    """[M, K+1]: the probabilities of ``ids_MK``, and of all other tokens together."""
    rest_M1 = p_MV.scatter(-1, ids_MK, 0.0).sum(-1, keepdim=True)
    return torch.cat([p_MV.gather(-1, ids_MK), rest_M1], -1)
