"""Traces: does a classifier of outputs tell the attacked model from gold, so that one sees the removal?

"Unlearning traces" in outputs: Y. Chen et al., "Unlearning Isn't Invisible" (2025, arXiv:2506.14003). A
logistic regression sees of every answer its losses, the likeliest tokens' log-probabilities, and what the
model says greedily; it is learned on some prompts and asked about others, both models' outputs of a prompt
in one fold. The value of an item is the share of its two outputs that are told rightly: 0.5 is chance. Two
golds of different seeds are told apart too, so that only a second gold, where there is one, says what is
more than that.

Shapes: I items, T targets of one item, V vocabulary, F features.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mari_cli.audit.answer_tokens import labels_of
from mari_cli.audit.attack import AuditAttack, Case, CaseValues, Evidence
from mari_cli.config import AuditConfig
from mari_cli.data.batches import length_sorted
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.models.backbone import hidden_states
from mari_cli.models.load import LanguageModel
from mari_cli.progress import silent
from mari_cli.suites.generate import generate, question_and_truth

PROMPTS = {"forget": "forget", "retain": "retain", "holdout": "unrelated"}
"""By the role of a corpus, what its prompts are called."""


def cases(config: AuditConfig, evidence: Evidence) -> tuple[list[Case], list[str]]:
    if "gold" not in evidence.roles:
        return [], ["traces are left out: they set the outputs beside gold's, and there is no gold model"]
    settings = config.traces
    asked = {
        "top": settings.top,
        "folds": settings.folds,
        "penalty": settings.penalty,
        "max_new_tokens": settings.max_new_tokens,
    }
    found, notes = [], []
    for corpus, name in PROMPTS.items():
        if corpus not in evidence.corpora:
            notes.append(f"traces on {name} prompts are left out: there is no {corpus} corpus")
        elif len(evidence.places(corpus)) < 2 * settings.folds:
            notes.append(
                f"traces on {name} prompts are left out: there are too few for {settings.folds} folds"
            )
        else:
            says = f"outputs on {name} prompts told from gold's by a classifier; 0.5 is chance"
            found.append(
                Case(
                    "traces",
                    name,
                    says,
                    {**asked, "corpus": corpus},
                    10,
                    beside=("gold",),
                    corpus=corpus,
                    chance=0.5,
                )
            )
    return found, notes


def run(lm: LanguageModel, case: Case, evidence: Evidence) -> CaseValues:
    items = [evidence.corpora[case.corpus].items[i] for i in evidence.places(case.corpus)]
    asked = {key: int(case.settings[key]) for key in ("top", "max_new_tokens")}
    both = [
        features(of, items, batch_size=evidence.batch_size, **asked) for of in (lm, evidence.beside("gold"))
    ]
    right = told_apart(*both, folds=int(case.settings["folds"]), penalty=float(case.settings["penalty"]))
    values: list[float | None] = list(right)
    return CaseValues(values)


@torch.no_grad()
def features(
    lm: LanguageModel, items: Sequence[Item], *, batch_size: int, top: int, max_new_tokens: int
) -> NDArray[np.float64]:
    """[I, F] of what ``lm`` puts out: see `seen_of`, and of the greedy answer its length in tokens and the
    share of the right answer's first tokens that it repeats."""
    head = head_of(lm.model)
    seen: list[list[float]] = [[] for _ in items]
    for indices in length_sorted([len(item.input_ids) for item in items], batch_size):
        chunk = [items[i] for i in indices]
        logits_NV = head(hidden_states(lm.model, lm.compute, chunk, packed=lm.layout.packed)[0])
        log_p_NV = logits_NV.float().log_softmax(-1)
        counts = [item.num_targets for item in chunk]
        labels = labels_of(chunk).to(lm.device).split(counts)
        for i, log_p_TV, labels_T in zip(indices, log_p_NV.split(counts), labels, strict=True):
            seen[i] = seen_of(log_p_TV, labels_T, top=top)
    questions, truths = zip(*map(question_and_truth, items), strict=True)
    answers = generate(
        lm, questions, max_new_tokens=max_new_tokens, batch_size=batch_size, track=silent, description=""
    )
    for of_item, answer, truth in zip(seen, answers, truths, strict=True):
        same = sum(said == wanted for said, wanted in zip(answer, truth, strict=False))
        of_item += [float(len(answer)), same / len(truth)]
    return np.array(seen)


def seen_of(log_p_TV: Tensor, labels_T: Tensor, *, top: int) -> list[float]:
    """Of one answer: mean, least, largest and first loss, mean and first entropy, the share of targets that
    are likeliest, and the ``top`` largest log-probabilities, at the first target and in the mean."""
    nll_T = -log_p_TV.gather(1, labels_T.unsqueeze(1)).squeeze(1)
    entropy_T = -(log_p_TV.exp() * log_p_TV).nan_to_num().sum(-1)
    top_TK = log_p_TV.topk(min(top, log_p_TV.shape[1])).values.clamp(min=-50.0)
    right = (log_p_TV.argmax(-1) == labels_T).double().mean()
    numbers = [nll_T.mean(), nll_T.min(), nll_T.max(), nll_T[0], entropy_T.mean(), entropy_T[0], right]
    return [float(number) for number in numbers] + [*top_TK[0].tolist(), *top_TK.mean(0).tolist()]


def told_apart(
    one_IF: NDArray[np.float64], other_IF: NDArray[np.float64], *, folds: int, penalty: float
) -> list[float]:
    """Of each item the share of its two outputs that a classifier learned on the other folds tells rightly.
    ``penalty`` is the inverse of scikit-learn's C. A fold is a stretch of the corpus."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = len(one_IF)
    right: list[float] = []
    for fold in range(folds):
        asked = np.arange(count * fold // folds, count * (fold + 1) // folds)
        learned = np.setdiff1d(np.arange(count), asked)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))
        which = np.repeat([0, 1], len(learned))
        classifier.fit(np.concatenate([one_IF[learned], other_IF[learned]]), which)
        first = classifier.predict(one_IF[asked]) == 0
        second = classifier.predict(other_IF[asked]) == 1
        right += ((first.astype(float) + second) / 2).tolist()
    return right


TRACES = AuditAttack("traces", "can be told from gold", cases, run)
