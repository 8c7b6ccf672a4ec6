"""Patching: the model before goes on from what the attacked model has made of a question, layer by layer.

After the first stages of the unlearning depth score: J. Lee, D. Kim, J. Jo, "Measuring the Depth of LLM
Unlearning via Activation Patching" (2026, arXiv:2605.24614). At the positions that predict the answer the
output of one layer of the model before is replaced by the attacked model's; where the answer is still in
it, the layers above say it. Gold's states show at which layers the answer is. All three must have started
from one base model: a layer of another does not mean the same.

Shapes: L layers, N supervised positions, D hidden size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mari_cli.audit.answer_tokens import labels_of, of_items, value_places
from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence
from mari_cli.audit.logit_lens import batches
from mari_cli.config import AuditConfig
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.lm_head import head_of
from mari_cli.models.layers import blocks_of, layer_states, states_with
from mari_cli.models.load import LanguageModel


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    if not evidence.layers:
        return [], ["patching is left out: the layers of this architecture are not found"]
    if "target" not in evidence.roles:
        return [], ["patching is left out: there is no model before to go on from the layers"]
    says = "the model before goes on from a layer of this one, mean over layers"
    return [Case("patching", "all_layers", says, {}, 2 * evidence.layers + 1, beside=("target",))], []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    before = evidence.beside("target")
    if len(blocks_of(lm.model)) != len(blocks_of(before.model)):
        raise UserError("the model before has another number of layers", "leave out the attack `patching`")
    places = value_places(lm, evidence)
    by_layer: list[Tensor] = [torch.empty(0)] * len(evidence.items)
    for indices, chunk in batches(evidence):
        log_p_LN = go_on(before, layer_states(lm, chunk), chunk)
        of_chunk = of_items(log_p_LN, chunk, [places[i] for i in indices])
        for i, log_p_LP in zip(indices, of_chunk, strict=True):
            by_layer[i] = log_p_LP.mean(1)
    log_p_IL = torch.stack(by_layer)
    values: list[float | None] = log_p_IL.exp().mean(1).tolist()
    return CaseValues(values, {"log_probability_by_layer": log_p_IL.mean(0).tolist()})


@torch.no_grad()
def go_on(before: LanguageModel, states_LND: Tensor, items: Sequence[Item]) -> Tensor:
    """[L, N] in nats: the log-probability of each target under ``before``, which goes on from the states."""
    head = head_of(before.model)
    labels_N1 = labels_of(items).to(before.device).unsqueeze(1)
    found = []
    for layer, instead_ND in enumerate(states_LND):
        h_ND = states_with(before, items, layer, instead_ND)
        found.append(head(h_ND).log_softmax(-1).gather(1, labels_N1).squeeze(1))
    return torch.stack(found).float().cpu()


def depth(details: Mapping[str, Mapping[str, Any]]) -> float | None:
    """How much of what gold lacks the attacked model lacks too, 0 nothing, 1 all: the mean over layers of the
    ratio of their drops of log-probability, weighted with gold's drop. None where gold lacks nothing."""
    of = {role: detail["log_probability_by_layer"] for role, detail in details.items()}
    if not {"target", "model", "gold"} <= of.keys():
        return None
    drops = [
        (before - gold, before - now)
        for before, now, gold in zip(of["target"], of["model"], of["gold"], strict=True)
        if before - gold > 0
    ]
    whole = sum(gold for gold, _ in drops)
    return sum(min(max(now, 0.0), gold) for gold, now in drops) / whole if whole else None


PATCHING = AuditAttack("patching", "hidden, not gone", cases, run)
