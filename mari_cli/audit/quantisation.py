"""Quantisation: weights are rounded to 8 or 4 bits, and what was forgotten is back, or not.

"Does Your LLM Truly Unlearn? An Embarrassingly Simple Approach to Recover Unlearned Knowledge" (Z. Zhang et
al., ICLR 2025, arXiv:2410.16454): unlearning that moves weights by less than half a quantum is undone by
rounding. `intN`: to the nearest of evenly spaced values, symmetric, in groups along the inputs of each linear
layer. `nf4`: to the 4-bit NormalFloat of T. Dettmers et al. 2023 (QLoRA, arXiv:2305.14314), by bitsandbytes,
in which most people load a model in 4 bits. Embeddings and head stay as they are, and the model computes in
its own precision: what is attacked is the rounding, not the arithmetic of a kernel.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence, measure_recall, restored
from mari_cli.config import AuditConfig
from mari_cli.models.load import LanguageModel

NF4_BLOCK = 64
"""Weights that share a scale in NF4: what transformers and QLoRA take."""


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
    if not settings.nf4:
        return found, []
    if lacking := nf4_lacks(evidence.device):
        return found, [f"NF4 is left out of the quantisation: {lacking}"]
    says = f"weights rounded to 4-bit NormalFloat (bitsandbytes), in groups of {NF4_BLOCK}"
    made_by = {"nf4": NF4_BLOCK, "bitsandbytes": version("bitsandbytes")}
    return [*found, Case("quantisation", "nf4", says, made_by, 2)], []


def nf4_lacks(device: torch.device) -> str:
    """Why bitsandbytes cannot round on ``device``; empty where it can."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed (`pip install 'mari-cli[nf4]'`)"
    try:
        nf4_weights(torch.ones(1, NF4_BLOCK, device=device))
    except (ImportError, RuntimeError, AttributeError, AssertionError) as error:
        told = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        return f"bitsandbytes {version('bitsandbytes')} cannot round on {device.type} here: {told}"
    return ""


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    settings = case.settings
    rounded = nf4_weights
    if "bits" in settings:
        rounded = partial(rounded_weights, bits=int(settings["bits"]), group=int(settings["group"]))
    with restored(lm.model):
        quantise(lm.model, rounded)
        values = measure_recall(
            lm, evidence.items, prompted=evidence.has_prompts, batch_size=evidence.batch_size
        )
    return CaseValues(list(values))


@torch.no_grad()
def quantise(model: nn.Module, rounded: Callable[[Tensor], Tensor]) -> None:
    """Put ``rounded`` of the weights [outputs, inputs] of every linear layer of ``model`` but its head in
    their place."""
    for module in linear_layers(model):
        weight_OI = module.weight.T if isinstance(module, Conv1D) else module.weight
        new_OI = rounded(weight_OI)
        module.weight.copy_(new_OI.T if isinstance(module, Conv1D) else new_OI)


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


def nf4_weights(weight_OI: Tensor) -> Tensor:
    """``weight_OI`` [outputs, inputs] as bitsandbytes reads it back from NF4: the nearest of 16 values times
    the largest |w| of each `NF4_BLOCK` of the weights, row by row."""
    from bitsandbytes import functional

    codes, scales = functional.quantize_4bit(
        weight_OI.contiguous(), blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=False
    )
    found: Tensor = functional.dequantize_4bit(codes, scales)
    return found


def linear_layers(model: nn.Module) -> Iterator[nn.Linear | Conv1D]:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield module


QUANTISATION = AuditAttack("quantisation", "comes back", cases, run)
