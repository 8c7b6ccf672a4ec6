"""Logit lens: what each layer would say, if the head read it: is the answer there, and only not said?

nostalgebraist, "interpreting GPT: the logit lens" (2020). The output of every layer goes through the final
norm and the head; of an item the layer counts at which the tokens of its value are likeliest, by the
geometric mean of their probabilities given the answer before them. Gold, read in the same way, guesses some
of them too.

Shapes: L layers, N supervised positions, D hidden size, P tokens of a value.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mari_cli.audit.answer_tokens import labels_of, of_items, value_places
from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence
from mari_cli.config import AuditConfig
from mari_cli.data.batches import length_sorted
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.models.layers import final_norm_of, layer_states
from mari_cli.models.load import LanguageModel


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    if not evidence.layers:
        return [], ["the logit lens is left out: the layers of this architecture are not found"]
    return [Case("logit_lens", "best_layer", "each layer read by the head, the likeliest counts", {}, 2)], []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    places = value_places(lm, evidence)
    by_layer: list[Tensor] = [torch.empty(0)] * len(evidence.items)
    for indices, chunk in batches(evidence):
        log_p_LN = read_layers(lm, chunk)
        of_chunk = of_items(log_p_LN, chunk, [places[i] for i in indices])
        for i, log_p_LP in zip(indices, of_chunk, strict=True):
            by_layer[i] = log_p_LP.mean(1).exp()
    probabilities_IL = torch.stack(by_layer)
    best: list[float | None] = probabilities_IL.amax(1).tolist()
    return CaseValues(best, {"probability_by_layer": probabilities_IL.mean(0).tolist()})


@torch.no_grad()
def read_layers(lm: LanguageModel, items: Sequence[Item]) -> Tensor:
    """[L, N] in nats: the log-probability of each target, if the head read the layer after the final norm."""
    norm, head = final_norm_of(lm.model), head_of(lm.model)
    labels_N1 = labels_of(items).to(lm.device).unsqueeze(1)
    found = []
    for h_ND in layer_states(lm, items):
        with lm.compute.autocast():
            read_ND = norm(h_ND)
        found.append(head(read_ND).log_softmax(-1).gather(1, labels_N1).squeeze(1))
    return torch.stack(found).float().cpu()


def batches(evidence: Evidence) -> Iterator[tuple[list[int], list[Item]]]:
    """Numbers and items of each batch, items of like length together."""
    items = evidence.items
    for indices in length_sorted([len(item.input_ids) for item in items], evidence.batch_size):
        yield indices, [items[i] for i in indices]


LOGIT_LENS = AuditAttack("logit_lens", "hidden, not gone", cases, run)
