"""What stands for the role `alternative`: other answers to the forget prompts, or other labels.

Of every forget item one, or several: then first one of each item, then a second one of each, and so on.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

from mari_cli.config import FileCorpus, UnlearnRun
from mari_cli.data.files import read_files
from mari_cli.data.records import Record
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError, counted
from mari_cli.losses.base import Alternates
from mari_cli.models.fingerprint import cache_key, described
from mari_cli.models.load import LanguageModel
from mari_cli.progress import track
from mari_cli.storage import json_cache
from mari_cli.storage.hashing import content_hash
from mari_cli.suites.examiner import items_hash
from mari_cli.suites.generate import Sampling, decode, generate, question_and_truth
from mari_cli.suites.standard import Corpus
from mari_cli.tasks.setting import cache_directory

DEFINITION = 1
"""Part of every key: raise it when a change here changes what is written."""


def alternative_items(config: UnlearnRun, lm: LanguageModel, forget: Corpus) -> list[Item]:
    """For every forget item its prompt with one of the answers that the loss prefers, taken in turn; none
    where the loss prefers no answers. Where it wants other tokens in the forget items, those items so
    labelled. Where ``lm`` has yet to write the answers, items that are as long as these can be."""
    loss, asked = config.loss, config.loss.alternates_request
    if (wanted := loss.wanted_tokens) is not None:
        tokens: list[int] = list(lm.tokenizer(wanted, add_special_tokens=False)["input_ids"])
        if not tokens:
            raise UserError(
                f"the tokenizer of `{lm.name}` makes no token of {wanted!r}",
                f"{loss.kind} wants these tokens: choose others",
            )
        return [replace(item, wanted=tuple(islice(cycle(tokens), item.num_targets))) for item in forget.items]
    if not loss.alternative_answers and asked is None:
        return []
    if any(record.prompt is None for record in forget.records):
        raise UserError(
            f"{loss.kind} needs prompts, but the forget corpus holds running text", "choose another `loss`"
        )
    if asked is None:
        in_turn = islice(cycle(loss.alternative_answers), len(forget.items))
        return _with_answers(config, lm, forget, [[answer] for answer in in_turn])
    if asked.path is not None:
        return _with_answers(config, lm, forget, _of_file(asked, forget))
    _questions(asked, lm, forget)  # raises now what would be raised after target and gold are trained
    return [_longest(item, asked, lm) for item in forget.items]


def write_alternatives(
    config: UnlearnRun, lm: LanguageModel, forget: Corpus, *, weights: str
) -> tuple[list[Item], list[str]]:
    """What ``lm``, the model before, answers instead of the forget answers, and notes for the reader; from
    the cache where it was asked before. ``weights`` is the hash of its weights.

    Raises UserError where it has nothing to say to some prompt."""
    asked = config.loss.alternates_request
    assert asked is not None
    records = [forget.record_of(i) for i in range(len(forget.items))]
    items = _questions(asked, lm, forget)
    settings = {
        "questions": items_hash(items),
        "each": asked.alternates,
        "temperature": asked.temperature,
        "max_new_tokens": asked.max_new_tokens,
        "seed": asked.seed,
    }
    key = content_hash(cache_key("alternates", DEFINITION, described(lm, weights), settings))
    path = cache_directory(config) / "alternates" / f"{key[:24]}.json"
    found = json_cache.read(path)
    if found is None:
        asks = [question_and_truth(item)[0] for item in items for _ in range(asked.alternates)]
        said = generate(
            lm,
            asks,
            max_new_tokens=asked.max_new_tokens,
            batch_size=config.metrics.batch_size,
            track=track,
            description="alternates",
            sampling=Sampling(asked.temperature, asked.seed),
        )
        words, each = [decode(lm, ids) for ids in said], asked.alternates
        found = json_cache.write(path, [words[i : i + each] for i in range(0, len(words), each)])
    answers = [list(filter(None, of_item)) for of_item in found]
    if silent := sum(not of_item for of_item in answers):
        raise UserError(
            f"to {silent} of {counted(len(answers), 'forget prompt')} the model before wrote no answer",
            "give the answers in a file (`loss.path`), or another `loss.instruction`",
        )
    same = sum(
        words == record.text.strip()
        for of_item, record in zip(answers, records, strict=True)
        for words in of_item
    )
    total = sum(map(len, answers))
    wrote = f"the model before wrote {counted(total, 'answer')}"
    note = f"alternates: {wrote}, {same} of them the answer to be forgotten"
    if 2 * same > total:
        note = f"warning: {note}: little is preferred to it"
    return _with_answers(config, lm, forget, answers), [note]


def _questions(asked: Alternates, lm: LanguageModel, forget: Corpus) -> list[Item]:
    """The instruction with each forget prompt. Raises UserError where one leaves no room for an answer."""
    records = [
        Record(
            prompt=asked.instruction.replace("{answer}", record.text).replace(
                "{prompt}", record.prompt or ""
            ),
            text=record.text,
        )
        for record in map(forget.record_of, range(len(forget.items)))
    ]
    try:
        return lm.tokenize(records, corpus="forget", block_size=None, truncate=True)
    except UserError as error:
        raise UserError(
            f"with `loss.instruction` around them, {error}",
            "shorten the instruction, or give the answers in a file: `loss.path=FILE`",
        ) from error


def _with_answers(
    config: UnlearnRun, lm: LanguageModel, forget: Corpus, answers: Sequence[Sequence[str]]
) -> list[Item]:
    """``answers``: to each forget item; who has fewer than others begins again."""
    records = [
        replace(forget.record_of(i), text=of_item[turn % len(of_item)], fact=None, value=None)
        for turn in range(max(map(len, answers)))
        for i, of_item in enumerate(answers)
    ]
    try:
        return lm.tokenize(records, corpus="forget", block_size=None, truncate=config.forget.truncate)
    except UserError as error:
        raise UserError(f"with the answers that {config.loss.kind} prefers, {error}", error.hint) from error


def _of_file(asked: Alternates, forget: Corpus) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    corpus = FileCorpus(
        path=asked.path, prompt_field=asked.prompt_field, completion_field=asked.completion_field
    )
    for record in read_files(corpus, corpus="loss")[0]:
        if record.prompt is not None:
            found.setdefault(record.prompt, []).append(record.text)
    prompts = [forget.record_of(i).prompt or "" for i in range(len(forget.items))]
    if missing := sum(prompt not in found for prompt in prompts):
        raise UserError(
            f"`loss.path={asked.path}` has no answer to {missing} of "
            f"{counted(len(prompts), 'forget prompt')}",
            "give one for each, with the very words of its prompt",
        )
    chosen = [found[prompt] for prompt in prompts]
    same = sum(forget.record_of(i).text.strip() in map(str.strip, chosen[i]) for i in range(len(chosen)))
    if same:
        raise UserError(
            f"`loss.path={asked.path}` prefers the answer to be forgotten at {same} of "
            f"{counted(len(prompts), 'forget prompt')}",
            "take these answers out of it: the loss prefers them to themselves",
        )
    return chosen


def _longest(item: Item, asked: Alternates, lm: LanguageModel) -> Item:
    """The prompt of ``item`` with an answer as long as the model may write, and its end."""
    question, _ = question_and_truth(item)
    room = max(1, min(asked.max_new_tokens + 1, lm.max_length - len(question)))
    return Item((*question, *[0] * room), len(question), item.record)
