"""TOFU's questions, from the hub or a folder (locuslab/TOFU); each occurs once, and none is missing."""

from dataclasses import dataclass

from mari_cli.config import TofuSuite
from mari_cli.data.files import read_subset, subset_file
from mari_cli.data.forms import TableRow
from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.places import place
from mari_cli.suites.tofu_metrics import HOLDOUT, OFFERED

HOLDOUTS = ("holdout01", "holdout05", "holdout10")
_HINT = "`suite.path=locuslab/TOFU` takes TOFU from the hub; a folder holds the files that are there"


@dataclass(frozen=True)
class Question:
    words: str
    answer: str
    paraphrase: str | None
    """None: the answer itself is the paraphrase."""
    wrong: tuple[str, ...]
    """Empty in the holdout."""

    @property
    def others(self) -> list[str]:
        """The paraphrase first, if it is not the answer itself; then the wrong answers."""
        return [*([self.paraphrase] if self.paraphrase else []), *self.wrong]

    def record(self, answer: str) -> Record:
        return Record(prompt=self.words, text=answer)

    @property
    def key(self) -> str:
        """A hash of question and true answer."""
        return self.record(self.answer).key


def read_questions(config: TofuSuite) -> dict[str, list[Question]]:
    """The questions by set; the sets include `holdout` unless `suite.holdout=null`. Raises UserError."""
    subsets = {
        "forget": f"{config.split}_perturbed",
        "retain": "retain_perturbed",
        "authors": "real_authors_perturbed",
        "facts": "world_facts_perturbed",
    }
    questions = {name: _read(config, name, subset) for name, subset in subsets.items()}
    if config.holdout is None:
        return questions
    unseen = _holdout(config, config.holdout)
    questions[HOLDOUT] = _read(config, HOLDOUT, unseen)
    forgotten = {q.key for q in questions["forget"]}
    if both := [i for i, q in enumerate(questions[HOLDOUT], start=1) if q.key in forgotten]:
        raise UserError(
            f"{len(both)} records of `{unseen}` in `{config.path}` are in `{subsets['forget']}` too, record "
            f"{both[0]} first",
            "a holdout is what no model has seen: `suite.holdout=null` goes without",
        )
    return questions


def _holdout(config: TofuSuite, holdout: str) -> str:
    """The name of the holdout's subset. Raises UserError where a folder lacks it."""
    subset = config.split.replace("forget", "holdout") if holdout == "auto" else holdout
    folder = place(config.path)
    if folder.is_dir() and subset_file(folder, subset) is None:
        others = [name for name in HOLDOUTS if subset_file(folder, name)]
        hint = f"`{subset}.json` is in TOFU on the hub (locuslab/TOFU); `suite.holdout=null` goes without"
        if others:
            hint = (
                f"`suite.holdout={others[-1]}` takes the one that is there; `suite.holdout=null` goes without"
            )
        raise UserError(
            f"there is no `{subset}` in `{config.path}`, and without it no membership inference", hint
        )
    return subset


def _read(config: TofuSuite, name: str, subset: str) -> list[Question]:
    fields = ["question", "answer"]
    fields += ["paraphrased_answer"] if name not in (*OFFERED, HOLDOUT) else []
    fields += ["perturbed_answer"] if name != HOLDOUT else []
    rows = read_subset(config.path, subset, fields)[: config.items]
    if not rows:
        raise UserError(f"`{subset}` in `{config.path}` is empty", _HINT)
    questions = []
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        question = _question(row, where=f"record {number} of `{subset}` in `{config.path}`")
        if first.setdefault(question.key, number) != number:
            raise UserError(
                f"record {number} of `{subset}` in `{config.path}` is record {first[question.key]} again",
                "a question that is asked twice counts twice: leave one out",
            )
        questions.append(question)
    return questions


def _question(row: TableRow, *, where: str) -> Question:
    wrong = row.get("perturbed_answer", [])
    if not isinstance(wrong, list) or ("perturbed_answer" in row and not wrong):
        raise UserError(f"`perturbed_answer` in {where} is no list of wrong answers", _HINT)
    texts = {name: row[name] for name in ("question", "answer", "paraphrased_answer") if name in row}
    for name, text in [*texts.items(), *(("perturbed_answer", text) for text in wrong)]:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"`{name}` in {where} is no text, or empty", _HINT)
    words, answer, *paraphrase = (str(text) for text in texts.values())
    return Question(words, answer, paraphrase[0] if paraphrase else None, tuple(wrong))
