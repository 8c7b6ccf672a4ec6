"""How much of an answer the model still holds, from greedy predictions under teacher forcing.

Shapes: T = tokens of one answer, at least one. Every score is a fraction: 1 is verbatim recall, 0 the most
forgotten.
"""

from torch import Tensor


def _correct(predicted_T: Tensor, answer_T: Tensor) -> Tensor:
    if predicted_T.shape != answer_T.shape or predicted_T.dim() != 1:
        raise ValueError(f"expected two vectors of one length, got {predicted_T.shape} and {answer_T.shape}")
    if len(answer_T) == 0:
        raise ValueError("an answer without tokens has no score")
    return predicted_T == answer_T


def exact_match(predicted_T: Tensor, answer_T: Tensor) -> float:
    """1 where every token is predicted, each from the true tokens before it, else 0."""
    return float(_correct(predicted_T, answer_T).all().item())


def exact_memorization(predicted_T: Tensor, answer_T: Tensor) -> float:
    """Share of the tokens predicted, each from the true tokens before it."""
    return _correct(predicted_T, answer_T).double().mean().item()


def extraction_strength(predicted_T: Tensor, answer_T: Tensor) -> float:
    """1 - k/T, k the length of the shortest prefix after which every token is predicted.

    Carlini et al. 2021. That is the longest correct suffix over the answer's length, hence 0 when the last
    token is wrong (k = T), and exact match for an answer of one token. Implementations that let k stop at T -
    1 return 1/T there.
    """
    correct_T = _correct(predicted_T, answer_T)
    return correct_T.long().flip(0).cumprod(0).sum().item() / len(correct_T)
