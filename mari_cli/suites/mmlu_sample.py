"""MMLU's development questions from lm_eval's wheel: a benchmark that needs no data and no network.

The wheel has worked examples for each of the 57 subjects of MMLU (Hendrycks et al. 2021,
https://arxiv.org/abs/2009.03300) as few-shot samples of its chain-of-thought variant. These questions are
asked here without the working, in the zero-shot words of the stock task. The result is no MMLU score; it
shows whether general ability has changed. Chance is 0.25.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import lm_eval
import yaml
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from mari_cli.suites.lm_metrics import MMLU_SAMPLE

VERSION = 1
"""Raise it when the questions or their words change."""

_QUESTION = re.compile(r"(?P<question>.*)\(A\)(?P<A>.*)\(B\)(?P<B>.*)\(C\)(?P<C>.*)\(D\)(?P<D>.*)", re.DOTALL)
_ANSWER = re.compile(r"The answer is \((?P<letter>[A-Z])\)\.\s*$")
_LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True)
class ChoiceQuestion:
    subject: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int


def parse(subject: str, question: str, target: str) -> ChoiceQuestion | None:
    """One sample of the wheel; None if the answer is a fifth choice. Raises ValueError for other text."""
    parts, answer = _QUESTION.fullmatch(question), _ANSWER.search(target)
    if parts is None or answer is None:
        raise ValueError(f"not a question with choices (A) to (D) and an answer: {question!r}, {target!r}")
    if answer["letter"] not in _LETTERS:
        return None
    a, b, c, d = (parts[letter].strip() for letter in _LETTERS)
    return ChoiceQuestion(
        subject=subject,
        question=parts["question"].strip(),
        choices=(a, b, c, d),
        answer=_LETTERS.index(answer["letter"]),
    )


def sample_questions(limit: int | None = None) -> list[ChoiceQuestion]:
    """The questions inside lm_eval's wheel by subject, in alphabetical order; ``limit``: the first of each.

    lm_eval 0.4 has five for each of 54 subjects and four for three (282). One question of college chemistry
    has its right answer under (E) and is left out: 281.
    """
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


def sample_task(limit: int | None = None) -> ConfigurableTask:
    """The wheel's questions as an lm_eval task in memory, in the words of `mmlu_*` (tasks/mmlu/default);
    ``limit``: the first questions of each subject."""
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
            "task": MMLU_SAMPLE,
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
            "metadata": {"version": VERSION},
        }
    )
