"""TOFU, a Task of Fictitious Unlearning (Maini et al. 2024, https://arxiv.org/abs/2401.06121).

The questions are about fictitious authors to forget and to retain, about real authors and about the world.
Each has a true answer, a paraphrase of it (in the last two sets the answer itself) and wrong answers. The
mean token losses of all answers under teacher forcing, and the generated answers, give for each set a
probability, a truth ratio and ROUGE recalls. These give model utility and, against the model that was trained
on the retain data alone, forget quality (`tofu_numbers`).

A loss is the mean over every token of the answer and its closing EOS, as in TOFU's code, in float32 from the
logits on (TOFU's logs come from a model in bfloat16). With TOFU's prompt, which for Llama 2 is
`model.chat_template=off model.prompt_template='[INST] {prompt} [/INST]'`, every answer has as many tokens as
in TOFU's logs, except answers whose opening quotation mark the tokenizer joins to the prompt: that token
counts here. Extraction strength and exact memorization count the EOS too, which OpenUnlearning leaves out.

Generated answers are greedy and have at most 200 new tokens (`suite.max_new_tokens`), as in OpenUnlearning;
in TOFU's code question and answer together have 200.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mari_cli.config import SuiteConfig, TofuSuite
from mari_cli.metrics.generation import verbatim_rouge_1, verbatim_rouge_l
from mari_cli.metrics.statistics import How
from mari_cli.storage.hashing import content_hash
from mari_cli.suites import tofu_numbers
from mari_cli.suites.attacks import score_attacks
from mari_cli.suites.draws import drawn, seeds_of
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.suite import Row, Summary
from mari_cli.suites.tofu_data import Question, read_questions
from mari_cli.suites.tofu_metrics import HOLDOUT, MEMBERSHIP
from mari_cli.suites.tofu_numbers import of_losses

SETS = tofu_numbers.SETS | {HOLDOUT: "holdout items"}


@dataclass(frozen=True)
class Tofu:
    config: TofuSuite
    questions: Mapping[str, Sequence[Question]]
    """Questions by set; `holdout` is one of the sets if there is a holdout."""
    name: str = "tofu"

    def describe(self) -> Mapping[str, Any]:
        """By set, the number of questions and a hash of all their text."""
        return {
            name: {
                "records": len(asked),
                "sha256": content_hash([[q.words, q.answer, *q.others] for q in asked]),
            }
            for name, asked in self.questions.items()
        }

    def examine(self, examiner: Examiner) -> list[Row]:
        """A forward pass for each answer, and a generated answer to each question outside the holdout."""
        return [row for name in self.questions for row in self._rows(name, examiner)]

    def _rows(self, name: str, examiner: Examiner) -> list[Row]:
        config = examiner.config
        numbers = drawn(len(self.questions[name]), config.max_items, seeds_of(config, examiner.seed))
        asked = [self.questions[name][i] for i in numbers]
        records = [q.record(q.answer) for q in asked]
        records += [q.record(text) for q in asked for text in q.others]
        items = examiner.tokenize(records, corpus="suite")
        scores = examiner.score(items, SETS[name])
        of_others = iter(scores[len(asked) :])
        rows: list[Row] = []
        for number, q, score in zip(numbers, asked, scores, strict=False):
            row = {"set": name, "item": number, "key": q.key[:16]} | score.stored
            nlls = [next(of_others).answer_nll for _ in q.others]
            if nlls:
                paraphrase, *wrong = nlls if q.paraphrase else [score.answer_nll, *nlls]
                row |= of_losses(name, score.answer_nll, paraphrase, wrong)
            rows.append(row)
        if name in MEMBERSHIP:
            answers = [q.answer for q in asked]
            of_answers = items[: len(asked)], scores[: len(asked)]
            for attack, values in score_attacks(examiner, *of_answers, answers, SETS[name]).items():
                for row, value in zip(rows, values, strict=True):
                    row |= {} if attack == "loss" else {attack: value}
        if config.generate and name != HOLDOUT:
            most = self.config.max_new_tokens
            said = examiner.answers(items[: len(asked)], SETS[name], max_new_tokens=most)
            for row, q, text in zip(rows, asked, said, strict=True):
                row["rouge_l_recall"] = verbatim_rouge_l(text, q.answer)
                row["rouge_1_recall"] = verbatim_rouge_1(text, q.answer)
        return rows

    def summarise(self, rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
        """TOFU's metrics, and membership inference if there is a holdout."""
        summary = tofu_numbers.summarise(rows, gold, how)
        missing = [] if HOLDOUT in self.questions else [_NO_HOLDOUT]
        return Summary(summary.metrics, summary.notes + missing)


_NO_HOLDOUT = "membership inference and privleak are left out: no holdout is asked (`suite.holdout=null`)"


def load(config: SuiteConfig) -> Tofu:
    """Read and check all data. Raises UserError."""
    assert isinstance(config, TofuSuite)
    return Tofu(config, read_questions(config))
