"""Generation: the tokens that follow a start, either the most probable ones or those a caller chooses.

Shapes: B starts, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from mari_cli.models.load import LanguageModel
from mari_cli.models.speaking import greedily

Choose = Callable[[int, Tensor], Tensor]
"""A function of the next token's number (from 0) and its logits [B, V] that returns the next tokens [B]."""


class _ForcedToken(LogitsProcessor):
    """Gives the chosen token probability 1, and all other tokens 0."""

    def __init__(self, choose: Choose, width: int) -> None:
        self.choose = choose
        self.width = width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen_B1 = self.choose(input_ids.shape[1] - self.width, scores).unsqueeze(1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B1, 0.0)


@torch.no_grad()
def continued(
    lm: LanguageModel,
    starts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    ends: Sequence[int] = (),
    choose: Choose | None = None,
) -> Tensor:
    """At most ``new_tokens`` tokens that follow each of the B ``starts`` [B, T], on the CPU: the most
    probable tokens, or those that ``choose`` returns. After one of ``ends`` a row is filled with padding.

    The keys and values of each layer are cached, so that each token costs a forward pass of one token.
    """
    width = max(map(len, starts))
    input_ids_BT = torch.zeros(len(starts), width, dtype=torch.long)
    mask_BT = torch.zeros_like(input_ids_BT)
    for row, start in enumerate(starts):  # generation continues at the right edge, so padding is on the left
        input_ids_BT[row, width - len(start) :] = torch.tensor(start)
        mask_BT[row, width - len(start) :] = 1
    processors = LogitsProcessorList([] if choose is None else [_ForcedToken(choose, width)])
    with lm.compute.autocast(), greedily(lm.model, lm.tokenizer, ends):
        model_generate: Any = lm.model.generate
        output_BT: Tensor = model_generate(
            input_ids_BT.to(lm.device),
            attention_mask=mask_BT.to(lm.device),
            max_new_tokens=new_tokens,
            logits_processor=processors,
        )
    return output_BT[:, width:].cpu()
