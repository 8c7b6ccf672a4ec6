"""Probe: does a linear map of a layer's states at the question say which answer is right?

G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes" (2016,
arXiv:1610.01644); the control task after J. Hewitt, P. Liang, "Designing and Interpreting Probes with
Control Tasks" (2019, arXiv:1909.03368). Answers are of many kinds and mostly unique, so that a probe cannot
be a classifier of answers: it is a ridge regression from the state that predicts the first token of the
value to that token's row in the head. It is learned on some people and asked about others; the value of an
item is the share of the other answers that it finds less likely than the right one: 0.5 knows nothing. The
layer is the one at which the model does best, chosen for each model and for the control alike. The control
learns shuffled answers.

Shapes: L layers, I items, D hidden size, C candidates.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from mari_cli.audit.answer_tokens import value_places
from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence
from mari_cli.audit.logit_lens import batches
from mari_cli.config import AuditConfig
from mari_cli.errors import counted
from mari_cli.lm_head import head_of
from mari_cli.models.layers import layer_states
from mari_cli.models.load import LanguageModel

LEAST = 20
"""Items from which a probe can be learned and asked."""


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    if not evidence.layers:
        return [], ["the probe is left out: the layers of this architecture are not found"]
    settings = config.probe
    if len(evidence.chosen) < LEAST:
        return [], [f"the probe is left out: {counted(len(evidence.chosen), 'item')}, fewer than {LEAST}"]
    says = f"a linear probe of a layer, learned on other people, {counted(settings.folds, 'fold')}"
    asked = {"folds": settings.folds, "ridge": settings.ridge}
    return [Case("probe", "best_layer", says, asked, 2)], []


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    firsts = [places[0] for places in value_places(lm, evidence)]
    states: list[Tensor] = [torch.empty(0)] * len(evidence.items)
    for indices, chunk in batches(evidence):
        of_chunk = layer_states(lm, chunk).split([item.num_targets for item in chunk], dim=1)
        for i, of_item_LTD in zip(indices, of_chunk, strict=True):
            states[i] = of_item_LTD[:, firsts[i]].double().cpu()
    states_LID = torch.stack(states, dim=1)
    answers = [
        item.input_ids[item.supervised_from + first]
        for item, first in zip(evidence.items, firsts, strict=True)
    ]
    rows_VD = head_of(lm.model).weight_VD.detach()
    folds, ridge = int(case.settings["folds"]), float(case.settings["ridge"])
    shuffled = random.Random(f"{evidence.seed} probe").sample(answers, len(answers))
    by_layer = [probe(h_ID, answers, rows_VD, folds=folds, ridge=ridge) for h_ID in states_LID]
    control = [probe(h_ID, shuffled, rows_VD, folds=folds, ridge=ridge) for h_ID in states_LID]
    best = max(by_layer, key=sum)
    values: list[float | None] = list(best)
    return CaseValues(
        values,
        {
            "rank_by_layer": [sum(of_layer) / len(of_layer) for of_layer in by_layer],
            "control_by_layer": [sum(of_layer) / len(of_layer) for of_layer in control],
        },
    )


def probe(
    states_ID: Tensor, answers: Sequence[int], rows_VD: Tensor, *, folds: int, ridge: float
) -> list[float]:
    """Of each item the share of the other answers that a probe of the other folds finds less likely than the
    right one; ties count half. A fold is a stretch of the corpus, so that it holds whole people.

    ``ridge`` is the weight of the penalty beside the mean variance of a state's directions.
    """
    candidates = sorted(set(answers))
    if len(candidates) < 2:
        return [0.5] * len(answers)
    right = [candidates.index(answer) for answer in answers]
    rows_CD = rows_VD[candidates].double().cpu()
    rows_CD = torch.nn.functional.normalize(rows_CD - rows_CD.mean(0), dim=1)
    count = len(answers)
    ranks = []
    for fold in range(folds):
        asked = range(count * fold // folds, count * (fold + 1) // folds)
        learned = [i for i in range(count) if i not in asked]
        x_ID, y_ID = states_ID[learned], rows_CD[[right[i] for i in learned]]
        x_D, y_D = x_ID.mean(0), y_ID.mean(0)
        kernel_II = (x_ID - x_D) @ (x_ID - x_D).T
        penalty = ridge * kernel_II.diagonal().mean() + 1e-12
        duals_ID = torch.linalg.solve(kernel_II + penalty * torch.eye(len(learned)), y_ID - y_D)
        said_ID = (states_ID[list(asked)] - x_D) @ (x_ID - x_D).T @ duals_ID + y_D
        for i, likely_C in zip(asked, said_ID @ rows_CD.T, strict=True):
            others_C = torch.cat([likely_C[: right[i]], likely_C[right[i] + 1 :]])
            less = (others_C < likely_C[right[i]]).double() + 0.5 * (others_C == likely_C[right[i]])
            ranks.append(float(less.mean()))
    return ranks


PROBE = AuditAttack("probe", "hidden, not gone", cases, run)
