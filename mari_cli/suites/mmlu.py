"""MMLU through lm_eval, on a model in memory (Hendrycks et al. 2021, https://arxiv.org/abs/2009.03300).

`full` is lm_eval's stock task by name, over the network. `sample` works offline: the wheel of lm_eval carries
worked examples for each of the 57 subjects as few-shot samples of its chain-of-thought variant, and these
questions, without the working, are asked here in the stock task's own zero-shot words. They are MMLU's
development questions, so a figure from them is no MMLU score: it says whether general ability has moved.
Chance is 0.25.
"""

import copy
import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mari_cli.config import Mmlu
from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import proportion_estimate

_QUESTION = re.compile(r"(?P<question>.*)\(A\)(?P<A>.*)\(B\)(?P<B>.*)\(C\)(?P<C>.*)\(D\)(?P<D>.*)", re.DOTALL)
_ANSWER = re.compile(r"The answer is \((?P<letter>[A-Z])\)\.\s*$")
_LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True)
class Question:
    subject: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int


def parse(subject: str, question: str, target: str) -> Question | None:
    """One sample of the wheel; None where the right answer is a fifth choice."""
    parts, answer = _QUESTION.fullmatch(question), _ANSWER.search(target)
    if parts is None or answer is None:
        raise ValueError(f"not a question with choices (A) to (D) and an answer: {question!r}, {target!r}")
    if answer["letter"] not in _LETTERS:
        return None
    a, b, c, d = (parts[letter].strip() for letter in _LETTERS)
    return Question(
        subject=subject,
        question=parts["question"].strip(),
        choices=(a, b, c, d),
        answer=_LETTERS.index(answer["letter"]),
    )


def sample_questions(limit: int | None = None) -> list[Question]:
    """The questions inside lm_eval's wheel by subject, in alphabetical order; ``limit``: so many of each.

    lm_eval 0.4 carries five for each of 54 subjects and four for three (282); one of college chemistry has
    its right answer under (E) and is left out: 281.
    """
    import lm_eval
    import yaml

    folder = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "flan_cot_fewshot"
    questions = []
    for path in sorted(folder.glob("mmlu_*.yaml")):
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
        parsed = [
            parse(task["dataset_name"], sample["question"], sample["target"])
            for sample in task["fewshot_config"]["samples"]
        ]
        questions += [question for question in parsed if question is not None][:limit]
    return questions


def _sample_task(limit: int | None) -> Any:
    """The wheel's questions as an lm_eval task in memory, in the words of `mmlu_*` (tasks/mmlu/default)."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = [
        {
            "subject": question.subject.replace("_", " "),
            "question": question.question,
            "choices": list(question.choices),
            "answer": question.answer,
        }
        for question in sample_questions(limit)
    ]
    return ConfigurableTask(
        config={
            "task": "mmlu_sample",
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "num_fewshot": 0,
            "output_type": "multiple_choice",
            "description": "The following are multiple choice questions (with answers) about "
            "{{subject}}.\n\n",
            "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
            "D. {{choices[3]}}\nAnswer:",
            "doc_to_choice": list(_LETTERS),
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    )


def _full_tasks() -> dict[Any, Any]:
    """lm_eval's stock `mmlu` group, its questions fetched from the hub or its cache."""
    import httpx
    from lm_eval.tasks import TaskManager

    try:
        loaded: dict[Any, Any] = TaskManager().load(["mmlu"])
    except (OSError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot load MMLU: {reason}",
            "`metrics.mmlu=sample` works without a network, `metrics.mmlu=off` skips it",
        ) from error
    return loaded


@contextmanager
def _silence() -> Iterator[None]:
    """lm_eval warns of each truncated context and shows a bar per subject; the caller has its own."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers.tokenization_utils_base")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def mmlu(
    model: Any,
    tokenizer: Any,
    *,
    mode: Mmlu,
    limit: int | None = None,
    batch_size: int = 8,
    confidence: float = 0.95,
) -> Estimate:
    """Zero-shot accuracy of ``model`` (a transformers causal LM, left as it was), by the likelier of " A" to
    " D".

    ``limit`` is per subject. A context longer than the model's loses its beginning. No chat template is
    applied, as in the stock task. The interval is normal, from lm_eval's standard error, and Wilson's where
    that is 0. lm_eval holds the logits of whole contexts: ``batch_size`` × length × vocabulary × 8 bytes.
    """
    if mode is Mmlu.off:
        raise ValueError("`metrics.mmlu=off` has no figure")
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from scipy.stats import norm

    was_training = model.training
    with _silence():
        tasks = _full_tasks() if mode is Mmlu.full else {"mmlu_sample": _sample_task(limit)}
        try:
            # a copy, because lm_eval gives a tokenizer without a padding token one
            lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
            # not `simple_evaluate`: that reseeds every global generator
            results = evaluator.evaluate(
                lm=lm, task_dict=tasks, limit=limit if mode is Mmlu.full else None, log_samples=False
            )
        finally:
            model.train(was_training)
    name = "mmlu" if mode is Mmlu.full else "mmlu_sample"
    accuracy, stderr = results["results"][name]["acc,none"], results["results"][name]["acc_stderr,none"]
    n = sum(counts["effective"] for counts in results["n-samples"].values())
    if not isinstance(stderr, float) or not isfinite(stderr) or stderr == 0:
        return proportion_estimate(round(accuracy * n), n, confidence=confidence)
    half = float(norm.ppf((1 + confidence) / 2)) * stderr
    return Estimate(value=accuracy, n=n, low=max(0.0, accuracy - half), high=min(1.0, accuracy + half))
