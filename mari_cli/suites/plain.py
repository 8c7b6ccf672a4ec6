"""Functions of suites with a benchmark's own prompts, without chat template or the model's prompt style."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item, encode_text
from mari_cli.errors import UserError, counted
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.metric import Metric
from mari_cli.models.load import LanguageModel
from mari_cli.storage.hashing import content_hash
from mari_cli.suites.draws import drawn, seeds_of
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.suite import Row


def prompt_items(
    lm: LanguageModel, prompts: Sequence[str], *, max_new_tokens: int, special_tokens: bool = True
) -> tuple[list[Item], list[bool]]:
    """An item for each prompt, and whether its beginning was cut to fit the context before
    ``max_new_tokens``. Raises UserError where a context has no space for a prompt."""
    room = lm.max_length - max_new_tokens
    if room < 1:
        raise UserError(
            f"a context of {counted(lm.max_length, 'token')} has no room for a prompt before "
            f"{max_new_tokens} new ones",
            "use a model with a longer context, or ask for fewer tokens",
        )
    items, cut = [], []
    for number, prompt in enumerate(prompts):
        encoded: Any = lm.tokenizer(prompt, add_special_tokens=special_tokens)
        ids = list(encoded["input_ids"])
        cut.append(len(ids) > room)
        items.append(Item((*ids[-room:], lm.tokenizer.eos_token_id), min(len(ids), room), number))
    return items, cut


def text_items(lm: LanguageModel, texts: Sequence[str]) -> tuple[list[Item], list[bool]]:
    """An item for each text, and whether its end was cut to fit the context. Every token is a target, except
    the first where no BOS precedes it. Raises UserError for a text without targets."""
    blocks = [encode_text(text, lm.tokenizer, lm.max_length) for text in texts]
    if not all(blocks):
        raise UserError(
            f"text {blocks.index([]) + 1} of {len(texts)} has no token that could be predicted",
            "leave it out of the data",
        )
    items = [Item(tuple(of_text[0]), 1, number) for number, of_text in enumerate(blocks)]
    return items, [len(of_text) > 1 for of_text in blocks]


def first_tokens(lm: LanguageModel, text: str, count: int) -> str:
    """The text of the first ``count`` tokens of ``text``, special tokens counted."""
    encoded: Any = lm.tokenizer(text)
    return str(lm.tokenizer.decode(encoded["input_ids"][:count], skip_special_tokens=True))


def require_words(rows: Sequence[Mapping[str, object]], fields: Sequence[str], *, where: str) -> None:
    """Refuse a set without rows, or with a row that lacks text; ``where`` names the set's source."""
    hint = "`suite.path` is the benchmark's data as it is on the hub"
    if not rows:
        raise UserError(f"{where} is empty", hint)
    for number, row in enumerate(rows, start=1):
        for field in fields:
            words = row[field]
            if not isinstance(words, str) or not words.strip():
                raise UserError(f"`{field}` in record {number} of {where} is no text, or empty", hint)


def describe_records(sets: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """By set, the number of records and their hash."""
    return {
        name: {"records": len(records), "sha256": content_hash([record.key for record in records])}
        for name, records in sets.items()
    }


def rows_of_records(
    sets: Mapping[str, Sequence[Record]],
    examiner: Examiner,
    ask: Callable[[str, Sequence[Record]], list[Row] | None],
) -> list[Row]:
    """A row for each drawn record, with the values that ``ask`` returns for it; None: the set is left out."""
    limit, seeds = examiner.config.max_items, seeds_of(examiner.config, examiner.seed)
    rows = []
    for name, records in sets.items():
        chosen = drawn(len(records), limit, seeds)
        found = ask(name, [records[i] for i in chosen])
        for i, numbers in zip(chosen, found, strict=True) if found is not None else ():
            rows.append({"set": name, "item": i, "key": records[i].key[:16]} | numbers)
    return rows


def not_generated(metrics: Iterable[Metric], found: Mapping[str, Estimate]) -> list[str]:
    """A note for each of ``metrics`` that is missing because nothing was generated."""
    return [
        f"`{metric.name}` is left out: nothing was generated (`metrics.generate=false`)"
        for metric in metrics
        if metric.name not in found
    ]


def cut_note(benchmark: str, rows: Sequence[Mapping[str, int]]) -> list[str]:
    """A note where rows have `cut` texts."""
    cut = sum(row["cut"] for row in rows)
    return [f"{cut} of {benchmark}'s {len(rows)} texts do not fit the model's context and were cut"] * bool(
        cut
    )
