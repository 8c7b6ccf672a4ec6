"""The sections `forget`, `retain` and `holdout`: texts from files, or invented texts."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mari_cli.sections import Flag, Section, between, flag, fraction, positive, require, seeds


class Form(StrEnum):
    qa = "qa"
    prose = "prose"
    both = "both"


@dataclass(kw_only=True)
class CorpusConfig(Section):
    """The keys of every corpus."""

    section = "corpus"
    limit: int | None = positive(None)
    """Number of records to keep, from the first on; null: all."""
    block_size: int | None = positive(None)
    """Tokens in a block of running text; null: the longest sequence of the model."""
    truncate: Flag = flag(False)
    """Whether to cut a prompt/completion pair that is longer than the context; false: an error."""

    @property
    def is_given(self) -> bool:
        """Whether there is a corpus: files need a path."""
        return True


@dataclass(kw_only=True)
class FictionalCorpus(CorpusConfig):
    """A corpus about invented people (data/fictional.py)."""

    kind: str = "fictional"
    people: int = positive(20)
    seed: int = seeds(0)
    """Seed of the invented towns, prizes and people."""
    overlap: float = fraction(0.5)
    """Share, in [0, 1], of a person's facts that documents of other people state, too."""
    form: Form = Form.qa


@dataclass(kw_only=True)
class FileCorpus(CorpusConfig):
    """Text of the user: a file, a folder, or the name of a data set of the hub."""

    kind: str = "files"
    path: str | None = None
    """A .jsonl, .json, .csv, .parquet or .txt file, a folder of such files, or a hub data set; null: none."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    prompt_field: str | None = None
    completion_field: str | None = None
    text_field: str | None = None
    """Fields to read; null: the first of `prompt`/`completion`, `question`/`answer`, `messages`,
    `conversations`, `instruction`/`input`/`output` and `text` that the table has."""
    passage_characters: int = positive(1000)
    """The least length of a passage. Plain text is cut into passages, which are joined whole paragraphs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.prompt_field is None) == (self.completion_field is None),
            "prompt_field and completion_field go together: set both or neither",
        )
        require(
            self.prompt_field is None or self.prompt_field != self.completion_field,
            f"prompt_field and completion_field must differ, got {self.prompt_field}",
        )
        require(
            self.text_field is None or self.prompt_field is None,
            "text_field excludes prompt_field and completion_field",
        )

    @property
    def is_given(self) -> bool:
        return self.path is not None


@dataclass(kw_only=True)
class ForgetConfig(CorpusConfig):
    """What only the forget corpus has: it may be several requests that arrive one after another."""

    section = "forget"
    requests: Any = None
    """The requests in their order: a list of files, folders or names of fictional people (a list inside it is
    one request of several of them), a folder whose entries are the requests in the order of their names (2
    before 10), or a number, of equal parts of the forget corpus. null: all of the corpus is one request."""
    request_number: int | None = positive(None)
    """The one of `requests` that this run unlearns, counted from 1; null: each of them, one after another."""
    keep_later: Flag = flag(True)
    """While a request is unlearned, the records of those after it are retain data: nobody has asked to forget
    them yet. false: no step sees them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.requests
        is_number = isinstance(given, int) and not isinstance(given, bool)
        require(
            given is None
            or is_number
            or bool(given and isinstance(given, str))
            or _is_list_of_sources(given),
            f"forget.requests must be a list of files or names, a folder, or a number of parts, got {given}",
            "as `forget.requests=[first.jsonl,second.jsonl]`, `forget.requests=DIR` or `forget.requests=4`",
        )
        require(not is_number or given >= 1, f"forget.requests must be at least 1, got {given}")
        require(
            self.request_number is None or given is not None,
            "forget.request_number needs forget.requests, among which it chooses",
            "leave it out: all of the forget corpus is one request",
        )


def _is_list_of_sources(given: Any) -> bool:
    if not isinstance(given, list) or not given:
        return False
    every = [source for entry in given for source in (entry if isinstance(entry, list) else [entry])]
    return all(isinstance(source, str) and source.strip() for source in every) and [] not in given


@dataclass(kw_only=True)
class ForgetFictional(FictionalCorpus, ForgetConfig):
    kind: str = "fictional"


@dataclass(kw_only=True)
class ForgetFiles(FileCorpus, ForgetConfig):
    kind: str = "files"
    fraction: float | None = between(None)
    """Share of the text at `path` to forget, drawn by `fraction_seed`; the rest is the retain corpus."""
    fraction_seed: int = seeds(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.requests is None or self.fraction is None,
            "forget.requests says what is forgotten, so forget.fraction must be null",
            "leave out one of the two",
        )
        require(
            self.requests is None or isinstance(self.requests, int) or self.path is None,
            "forget.requests names files, so forget.path must be null",
            "add the file at `forget.path` to the list, or leave it out",
        )


@dataclass(kw_only=True)
class RetainConfig(CorpusConfig):
    """The keys of the retain corpus only."""

    section = "retain"
    drop_overlap: Flag = flag(False)
    """Whether to drop retain records that are also forget records; false: such records are an error."""
    validation_fraction: float = fraction(0.0, open_above=True)
    """Share of the retain records that the stop rule watches and unlearning does not train on; 0: it watches
    training records. Held-out records are not protected (experiments/tofu_stories15m)."""


@dataclass(kw_only=True)
class RetainFictional(FictionalCorpus, RetainConfig):
    kind: str = "fictional"


@dataclass(kw_only=True)
class RetainFiles(FileCorpus, RetainConfig):
    kind: str = "files"
