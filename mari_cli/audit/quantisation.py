"""Quantisation: weights are rounded to 8 or 4 bits, and what was forgotten is back, or not.

"Does Your LLM Truly Unlearn? An Embarrassingly Simple Approach to Recover Unlearned Knowledge" (Z. Zhang et
al., ICLR 2025, arXiv:2410.16454): unlearning that moves weights by less than half a quantum is undone by
rounding. Rounding is to the nearest, symmetric, in groups along the inputs of each linear layer; embeddings
and head stay as they are. Numbers are those of weight-only quantisation, whatever computes it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence, measure_recall, restored
from mari_cli.config import AuditConfig
from mari_cli.models.load import LanguageModel


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    settings = config.quantisation
    found = [
        Case(
            "quantisation",
            f"int{bits}",
            f"weights rounded to {bits} bits, in groups of {settings.group}",
            {"bits": bits, "group": settings.group},
            2,
        )
        for bits in settings.bits
    ]
    return found, []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    with restored(lm.model):
        quantise(lm.model, bits=int(case.settings["bits"]), group=int(case.settings["group"]))
        values = measure_recall(
            lm, evidence.items, prompted=evidence.has_prompts, batch_size=evidence.batch_size
        )
    return CaseValues(list(values))


@torch.no_grad()
def quantise(model: nn.Module, *, bits: int, group: int) -> None:
    """Round the weights of every linear layer of ``model`` but its head, in place."""
    for module in linear_layers(model):
        inputs_last = module.weight.T if isinstance(module, Conv1D) else module.weight
        rounded = rounded_weights(inputs_last, bits=bits, group=group)
        module.weight.copy_(rounded.T if isinstance(module, Conv1D) else rounded)


def rounded_weights(weight_OI: Tensor, *, bits: int, group: int) -> Tensor:
    """``weight_OI`` [outputs, inputs] to the nearest of the 2^bits - 1 multiples of
    max|w| / (2^(bits-1) - 1), taken over each ``group`` of inputs of one output; the last may be smaller."""
    most = 2 ** (bits - 1) - 1
    parts = []
    for part_OG in weight_OI.split(group, dim=1):
        scale_O1 = part_OG.abs().amax(dim=1, keepdim=True) / most
        scale_O1 = torch.where(scale_O1 == 0, torch.ones_like(scale_O1), scale_O1)
        parts.append((part_OG / scale_O1).round().clamp(-most, most) * scale_O1)
    return torch.cat(parts, dim=1)


def linear_layers(model: nn.Module) -> Iterator[nn.Linear | Conv1D]:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield module


QUANTISATION = AuditAttack("quantisation", "comes back", cases, run)
