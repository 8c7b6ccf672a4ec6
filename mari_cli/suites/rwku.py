"""RWKU, Real-World Knowledge Unlearning (Jin et al. 2024, https://arxiv.org/abs/2406.10890): famous people
whom a model knows from its pre-training.

* Three levels of probes about the person to be forgotten (blanks to fill in, questions, adversarial ones) and
  two about their neighbours, who should stay known: ROUGE-L recall of the 30 tokens that the model generates,
  up to the first line break. RWKU compares words with another package, which respects case and punctuation,
  so values differ a little from its tables.
* Mean token loss on passages about the person (`mia_forget`) and about others (`mia_retain`). Pre-training
  had both, so they are not members and non-members, and no attack is scored.

Not included are RWKU's utility sets (general ability is `metrics.benchmarks`; reasoning, truthfulness,
factuality and fluency are not measured), forgetting by an instruction in the prompt, and its other means over
passages (zlib, min-k++).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mari_cli.config import RwkuSuite, SuiteConfig
from mari_cli.data.files import read_subset
from mari_cli.data.records import Record
from mari_cli.errors import UserError, did_you_mean
from mari_cli.metrics.generation import rouge_l_recall
from mari_cli.metrics.statistics import How
from mari_cli.models.load import LanguageModel
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.means import means
from mari_cli.suites.plain import (
    cut_note,
    describe_records,
    not_generated,
    prompt_items,
    require_words,
    rows_of_records,
    text_items,
)
from mari_cli.suites.rwku_metrics import METRICS, PROBES
from mari_cli.suites.suite import Row, Summary

PASSAGES = {"mia_forget": "forget_mia", "mia_retain": "retain_mia"}
"""Sets of passages, and the names of their files."""
_BLANK = "Please complete the blank in the following question.\nQuestion: {query}\n"
_QUESTION = "Please briefly answer the following question.\nQuestion: {query}\n"
_EXAMPLES = "Please briefly answer the following question.\n{query}\n"
"""The probe itself is a list of questions and answers without the last answer."""
_ANSWER = "Answer:"


@dataclass(frozen=True)
class Rwku:
    config: RwkuSuite
    sets: Mapping[str, Sequence[Record]]
    """For a probe, the prompt is the user's text and the text is the answer."""
    name: str = "rwku"

    def describe(self) -> Mapping[str, Any]:
        return describe_records(self.sets)

    def examine(self, examiner: Examiner) -> list[Row]:
        def ask(name: str, asked: Sequence[Record]) -> list[Row] | None:
            if name not in PASSAGES:
                return self._said(examiner, name, asked) if examiner.config.generate else None
            items, cut = text_items(examiner.lm, [record.text for record in asked])
            return [
                {"answer_nll": score.answer_nll, "cut": int(shorter)}
                for score, shorter in zip(examiner.score(items, name), cut, strict=True)
            ]

        return rows_of_records(self.sets, examiner, ask)

    def _said(self, examiner: Examiner, name: str, asked: Sequence[Record]) -> list[Row]:
        lm, most = examiner.lm, self.config.max_new_tokens
        prompts = [_turn(lm, str(record.prompt)) for record in asked]
        items, cut = prompt_items(lm, prompts, max_new_tokens=most, special_tokens=not lm.style.chat)
        said = examiner.answers(items, name, max_new_tokens=most, strip=False)
        return [
            {"rouge_l_recall": rouge_l_recall(text.partition("\n")[0], record.text), "cut": int(shorter)}
            for text, record, shorter in zip(said, asked, cut, strict=True)
        ]

    def summarise(self, rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
        metrics = means(METRICS, rows, how)
        return Summary(metrics, not_generated(METRICS, metrics) + cut_note("RWKU", rows))


def _turn(lm: LanguageModel, words: str) -> str:
    """The user's text and `Answer:`, which is left out, as in RWKU, if the probe itself begins the answer."""
    begun = _ANSWER if words.endswith("\n") else ""
    before = lm.style.written(lm.tokenizer, Record(prompt=words, text="…")).prompt if lm.style.chat else words
    return before + begun


def load(config: SuiteConfig) -> Rwku:
    """Read and check all data. Raises UserError."""
    assert isinstance(config, RwkuSuite)
    sets = {name: [_probe(name, row) for row in _read(config, name)] for name in PROBES}
    sets |= {name: [Record(text=str(row["text"])) for row in _read(config, name)] for name in PASSAGES}
    return Rwku(config, sets)


def _probe(name: str, row: Mapping[str, object]) -> Record:
    form = _BLANK if name.endswith("level1") else _QUESTION
    if row["type"] == "incontext learning":
        form = _EXAMPLES
    words = form.replace("{query}", str(row["query"]))
    if row["type"] == "affirmative suffix":
        words = words.rstrip("\n")
    return Record(prompt=words, text=str(row["answer"]))


def _read(config: RwkuSuite, name: str) -> list[Mapping[str, object]]:
    words = ["text"] if name in PASSAGES else ["query", "answer"]
    fields = [*words, "subject"] if name in PASSAGES else [*words, "type", "subject"]
    rows = read_subset(config.path, name, fields, split="test", alias=PASSAGES.get(name))
    where = f"`{name}` in `{config.path}`"
    require_words(rows, words, where=where)
    if config.subject is None:
        return rows
    about = [row for row in rows if row["subject"] == config.subject]
    if not about:
        known, otherwise = {str(row["subject"]) for row in rows}, "`suite.subject` is a person's name there"
        raise UserError(
            f"{where} asks nothing about `{config.subject}`",
            did_you_mean(config.subject, known, otherwise, key="suite.subject="),
        )
    return about
