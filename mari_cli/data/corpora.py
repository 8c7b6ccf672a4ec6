"""Forget, retain and holdout corpora of one run, read together and checked against each other.

They must not share a record, because a record cannot be forgotten and retained at once, and the holdout must
be unseen. `limit` cuts every corpus (after the split of `forget.fraction`) before this check.
"""

import random
import unicodedata
from dataclasses import dataclass, field, replace
from itertools import combinations

from mari_cli.config import CorpusConfig, FictionalCorpus, FileCorpus, ForgetConfig, ForgetFiles, RetainConfig
from mari_cli.data.fictional import COVERING_PEOPLE, num_shared, read_fictional
from mari_cli.data.files import read_files
from mari_cli.data.forms import listed
from mari_cli.data.records import Record
from mari_cli.data.requests import Request, read_requests, refuse_retained
from mari_cli.errors import UserError, counted

Prompt = tuple[tuple[str, str], ...]
Said = tuple[Prompt, str]
"""The prompt and the answer of a record, as `_spelt_alike` writes them; the prompt of running text is ()."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    forget: list[Record]
    retain: list[Record]
    holdout: list[Record] | None
    notes: list[str] = field(default_factory=list)
    """Remarks on the data for a reader of the results, one sentence each."""
    requests: list[Request] = field(default_factory=list)
    """All requests, if the forget corpus arrives in several. The forget records are then those of all
    requests, or those of the request at `forget.request_number`."""


def load_corpora(*, forget: CorpusConfig, retain: RetainConfig, holdout: CorpusConfig) -> Texts:
    """Read the corpora. Raises UserError where one is missing or empty, or where they do not fit together."""
    notes = _check_fictional(forget, retain, holdout)
    fraction = forget.fraction if isinstance(forget, ForgetFiles) else None
    if fraction is not None and retain.is_given:
        raise UserError(
            "`forget.fraction` makes the rest of the forget text the retain corpus, but there is another one",
            "leave out `forget.fraction`, or use a retain corpus of files without `retain.path`",
        )
    if fraction is None and not retain.is_given:
        raise UserError(
            "there is no retain corpus: `retain.path` is not set",
            "set `retain.path`, or `forget.fraction=0.1` to forget a tenth of the text at `forget.path` "
            "and keep the rest"
            if isinstance(forget, ForgetFiles)
            else "set `retain.path`, or choose `retain=fictional`",
        )
    in_requests = isinstance(forget, ForgetConfig) and forget.requests is not None
    if not forget.is_given and not in_requests:
        raise UserError(
            "there is no forget corpus: `forget.path` is not set",
            "set `forget.path` to a file, a folder or a hub data set, or choose `forget=fictional`",
        )

    requests: list[Request] = []
    if in_requests:
        assert isinstance(forget, ForgetConfig)
        requests = read_requests(forget, retain=retain, notes=notes)
        forget_records = [record for request in requests for record in request.records]
    else:
        forget_records = _read(forget, corpus="forget", notes=notes)
    if fraction is None:
        retain_records = _read(retain, corpus="retain", notes=notes)
    else:
        assert isinstance(forget, ForgetFiles)
        forget_records, retain_records = split(forget_records, fraction=fraction, seed=forget.fraction_seed)
    retain_records = retain_records[: retain.limit]
    if not requests:
        forget_records = forget_records[: forget.limit]
    holdout_records = None
    if holdout.is_given:
        holdout_records = _read(holdout, corpus="holdout", notes=notes)[: holdout.limit]
    of_corpus = {
        corpus: [_spelt_alike(record) for record in records or []]
        for corpus, records in (
            ("forget", forget_records),
            ("retain", retain_records),
            ("holdout", holdout_records),
        )
    }
    for corpus, said in of_corpus.items():
        notes += _note_ambiguous(said, corpus=corpus)
        if repeated := len(said) - len(set(said)):
            notes.append(f"the {corpus} corpus repeats {_records(repeated)}, and each copy counts")

    refuse_retained(requests, retain_records, drop=retain.drop_overlap)
    retain_records, dropped = _without_overlap(forget_records, retain_records, drop=retain.drop_overlap)
    for corpus, others in (("forget", forget_records), ("retain", retain_records)):
        common = len({record.key for record in holdout_records or []} & {record.key for record in others})
        if common:
            raise UserError(
                f"the holdout and {corpus} corpora share {_records(common)}, but holdout must be unseen",
                "take them out of the holdout corpus, or do without it: `holdout.path=null`",
            )
    notes += dropped
    if dropped:
        of_corpus["retain"] = [_spelt_alike(record) for record in retain_records]
    for one, other in combinations(of_corpus, 2):
        notes += _note_shared(of_corpus[one], of_corpus[other], corpora=(one, other))
    texts = Texts(
        forget=forget_records, retain=retain_records, holdout=holdout_records, notes=notes, requests=requests
    )
    if isinstance(forget, ForgetConfig) and forget.request_number:
        return of_request(texts, forget.request_number, keep_later=forget.keep_later)
    return texts


def of_request(texts: Texts, number: int, *, keep_later: bool) -> Texts:
    """The request ``number`` of ``texts``: later ones are retained until then, or left out."""
    later = texts.requests[number:] if keep_later else []
    kept = [record for request in later for record in request.records]
    told = f"the retain corpus holds {_records(len(kept))} of requests that are still to come"
    return replace(
        texts,
        forget=texts.requests[number - 1].records,
        retain=[*kept, *texts.retain],
        notes=[*texts.notes, told] if kept else texts.notes,
    )


def split(records: list[Record], *, fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split into (forget, retain), each in the order of ``records``. Copies of a record stay together. Raises
    UserError where one side would be empty."""
    keys = list(dict.fromkeys(record.key for record in records))
    count = round(fraction * len(keys))
    if not 0 < count < len(keys):
        side = "forget" if count == 0 else "retain"
        raise UserError(
            f"`forget.fraction={fraction}` of {_records(len(keys))} leaves nothing to {side}",
            "change the fraction, or cut plain text finer with `forget.passage_characters` "
            "(paragraphs end at blank lines)",
        )
    chosen = set(random.Random(seed).sample(keys, count))
    return [r for r in records if r.key in chosen], [r for r in records if r.key not in chosen]


def _read(config: CorpusConfig, *, corpus: str, notes: list[str]) -> list[Record]:
    """The records of one corpus. A note is added to ``notes`` where columns are not read."""
    if isinstance(config, FictionalCorpus):
        return read_fictional(config, corpus=corpus)
    assert isinstance(config, FileCorpus), type(config)
    records, unused = read_files(config, corpus=corpus)
    if unused:
        notes.append(f"of the {corpus} corpus these columns are not used: {listed(unused)}")
    return records


def _spelt_alike(record: Record) -> Said:
    """What ``record`` says, without regard to case, white space, the form of Unicode (also `ﬁ` for `fi`), and
    characters that nobody sees, as joiners of zero width."""

    def alike(text: str) -> str:
        unseen = {ord(c): None for c in set(text) if unicodedata.category(c) == "Cf"}
        return " ".join(unicodedata.normalize("NFKC", text.translate(unseen)).casefold().split())

    return tuple((turn.role, alike(turn.content)) for turn in record.conversation), alike(record.text)


def _note_ambiguous(said: list[Said], *, corpus: str) -> list[str]:
    """A note where a prompt has several answers, because a column that makes the prompts differ may be
    unread."""
    answers: dict[Prompt, set[str]] = {}
    for prompt, answer in said:
        if prompt:
            answers.setdefault(prompt, set()).add(answer)
    alike = {prompt for prompt, texts in answers.items() if len(texts) > 1}
    count = sum(prompt in alike for prompt, _ in said)
    prompts = "one prompt" if len(alike) == 1 else f"{len(alike)} prompts"
    return [f"{_records(count)} of the {corpus} corpus have {prompts} with different answers"] * bool(alike)


def _note_shared(one: list[Said], other: list[Said], *, corpora: tuple[str, str]) -> list[str]:
    """Notes where the second corpus says of a prompt of the first what contradicts it, or says the same."""
    first, second = corpora
    prompts, every = {prompt for prompt, _ in one if prompt}, set(one)
    same = sum(record in every for record in other)
    contrary = sum(record[0] in prompts and record not in every for record in other)
    notes = []
    if contrary:
        told = f"{_records(contrary)} with a prompt of the {first} corpus and another answer"
        notes.append(f"the {second} corpus has {told}")
    if same:
        how = "in another spelling (case, spaces, Unicode form, unseen characters)"
        notes.append(f"the {second} corpus has {_records(same)} of the {first} corpus {how}")
    return notes


def _without_overlap(
    forget: list[Record], retain: list[Record], *, drop: bool
) -> tuple[list[Record], list[str]]:
    """The retain records that are not forget records, and a note if some were."""
    keys = {record.key for record in forget}
    rest = [record for record in retain if record.key not in keys]
    common = len(retain) - len(rest)
    if common == 0:
        return retain, []
    if not drop:
        raise UserError(
            f"the forget and retain corpora share {_records(common)}: they cannot be forgotten and kept",
            "leave them out of the retain corpus with `retain.drop_overlap=true`",
        )
    if not rest:
        raise UserError(
            "every retain record is a forget record too: nothing is left to retain",
            "give a retain corpus with other records",
        )
    return rest, [f"dropped {_records(common)} from the retain corpus that are forget records too"]


def _check_fictional(forget: CorpusConfig, retain: CorpusConfig, holdout: CorpusConfig) -> list[str]:
    """Refuse fictional corpora with different seeds, whose shared facts would contradict each other, or with
    more shared facts than the retain corpus states; return a note where the retain corpus may lack some."""
    if not (isinstance(forget, FictionalCorpus) and isinstance(retain, FictionalCorpus)):
        return []
    others = {"forget": forget} | ({"holdout": holdout} if isinstance(holdout, FictionalCorpus) else {})
    for corpus, config in others.items():
        if config.seed != retain.seed:
            raise UserError(
                f"`{corpus}.seed` is {config.seed} and `retain.seed` is {retain.seed}: two fictional worlds",
                "set the same seed for forget, retain and holdout",
            )
        if num_shared(config.overlap) > num_shared(retain.overlap):
            raise UserError(
                f"`{corpus}.overlap` is {config.overlap} but `retain.overlap` is {retain.overlap}: "
                "no retain document would state some of the shared facts",
                f"set `retain.overlap={config.overlap}` too",
            )
    if num_shared(forget.overlap) and (retain.people < COVERING_PEOPLE or retain.limit is not None):
        return [
            "the retain corpus may not state every shared fact of the forget people: "
            f"that takes {COVERING_PEOPLE} retained people without a limit"
        ]
    return []


def _records(count: int) -> str:
    return counted(count, "record")
