"""The check that the logits of a model are its head applied to its last hidden state."""

import torch
from transformers import PreTrainedModel

from mari_cli.errors import UserError
from mari_cli.lm_head import head_of
from mari_cli.models.backbone import run_backbone


@torch.no_grad()
def check_parity(model: PreTrainedModel) -> None:
    """Raise UserError where logits are not head(backbone(tokens)): every loss and metric needs that."""
    config, device = model.config.get_text_config(), next(model.parameters()).device
    length = min(8, getattr(config, "max_position_embeddings", None) or 8)
    input_ids_BT = torch.arange(length, device=device).remainder(config.vocab_size).unsqueeze(0)
    ours = head_of(model)(run_backbone(model, input_ids_BT)[0])
    theirs = model(input_ids=input_ids_BT, use_cache=False).logits.float()
    if not theirs.isfinite().all():
        raise UserError(
            f"the logits of `{type(model).__name__}` are NaN or infinite, though its weights are not",
            "its weights are too large: take an earlier step of its training",
        )
    gap = (ours - theirs).abs().max().item()
    if not gap <= 1e-3 * max(1.0, theirs.abs().max().item()):
        raise UserError(
            f"the logits of `{type(model).__name__}` are not its head applied to its last hidden state "
            f"(gap {gap:.3g})",
            "this architecture is not supported yet",
        )
