"""MUSE, Machine Unlearning Six-way Evaluation (Shi et al. 2024, https://arxiv.org/abs/2407.06460), on news or
on books.

* Verbatim memorisation: ROUGE-L F1, without stemmer, of the greedy continuation of a forget passage against
  the true continuation; both have the same number of tokens.
* Knowledge, of the forget and of the retain set: ROUGE-L F1 of the answer to a question after ten others with
  their answers. The answer ends before the first blank line or the next question that the model generates.
* Privacy leakage: `privleak` of min-k (40 %) between forget and unseen passages, against the model that was
  trained without the forget data (`gold`), which is required. In MUSE's own code that model's AUC is a
  constant.

Prompts are MUSE's own, without a chat template. ROUGE is from 0 to 1 here, in percent in MUSE's tables. Of
the six ways, scalability and sustainability need other forget sets, larger ones or a sequence of sets:
conf/forget/muse_news.yaml.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mari_cli.config import MuseSuite, SuiteConfig
from mari_cli.data.files import read_subset
from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.metrics.generation import rouge_l_f1
from mari_cli.metrics.statistics import How
from mari_cli.suites.attacks import attacks_in, membership, privleak, score_attacks
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.means import means
from mari_cli.suites.muse_metrics import KNOWLEDGE, PRIVACY, ROUGE, SUITE
from mari_cli.suites.plain import (
    cut_note,
    describe_records,
    first_tokens,
    not_generated,
    prompt_items,
    require_words,
    rows_of_records,
    text_items,
)
from mari_cli.suites.suite import Row, Summary

MIN_K = 0.4
_END = re.compile("\n\n|\nQuestion|Question:")
"""What ends an answer: after them the model continues on its own."""


@dataclass(frozen=True)
class Muse:
    config: MuseSuite
    sets: Mapping[str, Sequence[Record]]
    shots: Mapping[str, str]
    """The examples before each question of a knowledge set."""
    name: str = "muse"

    def describe(self) -> Mapping[str, Any]:
        return describe_records(self.sets)

    def examine(self, examiner: Examiner) -> list[Row]:
        examiner = replace(examiner, config=replace(examiner.config, min_k=MIN_K))

        def ask(name: str, asked: Sequence[Record]) -> list[Row] | None:
            if name in PRIVACY:
                return self._score_texts(examiner, name, asked)
            return self._said(examiner, name, asked) if examiner.config.generate else None

        return rows_of_records(self.sets, examiner, ask)

    def _said(self, examiner: Examiner, name: str, asked: Sequence[Record]) -> list[Row]:
        lm, shots = examiner.lm, self.shots.get(name)
        most = self.config.verbatim_tokens if shots is None else self.config.knowledge_tokens
        prompts = [
            str(record.prompt) if shots is None else f"{shots}Question: {record.prompt}\nAnswer: "
            for record in asked
        ]
        items, cut = prompt_items(lm, prompts, max_new_tokens=most)
        said = examiner.answers(items, name, max_new_tokens=most, strip=False)
        if shots is None:
            pairs = [
                (text, first_tokens(lm, record.text, most)) for text, record in zip(said, asked, strict=True)
            ]
        else:
            pairs = [(_END.split(text, 1)[0], record.text) for text, record in zip(said, asked, strict=True)]
        return [
            {"rouge_l_f1": rouge_l_f1(*pair), "cut": int(shorter)}
            for pair, shorter in zip(pairs, cut, strict=True)
        ]

    def _score_texts(self, examiner: Examiner, name: str, asked: Sequence[Record]) -> list[Row]:
        items, cut = text_items(examiner.lm, [record.text for record in asked])
        scores = examiner.score(items, name)
        attacks = score_attacks(examiner, items, scores, [record.text for record in asked], name)
        del attacks["loss"]
        return [
            {"tokens": score.tokens, "answer_nll": score.answer_nll, "cut": int(shorter)}
            | {attack: values[i] for attack, values in attacks.items()}
            for i, (score, shorter) in enumerate(zip(scores, cut, strict=True))
        ]

    def summarise(self, rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
        metrics = means(ROUGE, rows, how)
        notes = not_generated(ROUGE, metrics)
        own = _min_k(rows)
        forget, holdout = (attacks_in([row for row in rows if row["set"] == name]) for name in PRIVACY)
        metrics |= membership(forget, holdout, how, group=SUITE)
        if gold is None:
            notes.append("`muse/privleak` is left out: it needs a gold model (`gold`)")
        else:
            leak = privleak("muse/privleak", own, _min_k(gold), how)
            metrics |= leak.metrics
            notes += leak.notes
        for name, records in self.sets.items():
            if again := len(records) - len({record.key for record in records}):
                notes.append(
                    f"{again} of the {len(records)} records of `{name}` are others again, and count again"
                )
        return Summary(metrics, notes + cut_note("MUSE", rows))


def _min_k(rows: Sequence[Row]) -> list[list[float]]:
    return [[row["min_k"] for row in rows if row["set"] == name] for name in PRIVACY]


def load(config: SuiteConfig) -> Muse:
    """Read and check all data. Raises UserError."""
    assert isinstance(config, MuseSuite)
    questions = {name: f"{name.removeprefix('knowledge_')}_qa" for name in KNOWLEDGE}
    sets = {"verbatim_forget": _read(config, "verbmem", "forget", "prompt", "gt")}
    sets |= {name: _read(config, "knowmem", split, "question", "answer") for name, split in questions.items()}
    sets |= {name: _read(config, "privleak", name.removeprefix("privacy_"), None, "text") for name in PRIVACY}
    forgotten = {record.key for record in sets["privacy_forget"]}
    if both := [i for i, r in enumerate(sets["privacy_holdout"], start=1) if r.key in forgotten]:
        raise UserError(
            f"{len(both)} records of `privleak/holdout` in `{config.path}` are in `privleak/forget` too, "
            f"record {both[0]} first",
            "a holdout is what no model has seen",
        )
    shots = {}
    for name, split in questions.items():
        before = _read(config, "knowmem", f"{split}_icl", "question", "answer")
        shots[name] = "".join(f"Question: {shot.prompt}\nAnswer: {shot.text}\n\n" for shot in before)
    return Muse(config, sets, shots)


def _read(config: MuseSuite, subset: str, split: str, prompt: str | None, text: str) -> list[Record]:
    fields = [text] if prompt is None else [prompt, text]
    rows = read_subset(config.path, subset, fields, split=split)
    require_words(rows, fields, where=f"`{subset}/{split}` in `{config.path}`")
    return [Record(prompt=None if prompt is None else str(row[prompt]), text=str(row[text])) for row in rows]
