"""The sections `forget`, `retain` and `holdout`: which texts, read from files or invented."""

from dataclasses import dataclass
from enum import StrEnum

from mari_cli.sections import Flag, Section, flags, fraction, positive, require, seeds


class Form(StrEnum):
    qa = "qa"
    prose = "prose"
    both = "both"


@dataclass(kw_only=True)
class CorpusConfig(Section):
    """What every corpus has."""

    limit: int | None = None
    """Keep the first so many records."""
    block_size: int | None = None
    """Tokens in a block of running text; null: the longest sequence the model takes."""
    truncate: Flag = False
    """Cut a prompt/completion pair that does not fit the context, rather than refuse it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        flags("corpus", self, "truncate")
        positive("corpus", self, "limit", "block_size")


@dataclass(kw_only=True)
class FictionalCorpus(CorpusConfig):
    """People of an invented archive (data/fictional.py)."""

    kind: str = "fictional"
    people: int = 20
    seed: int = 0
    """Seed of the world: towns, prizes, people."""
    overlap: float = 0.5
    """Share of a person's facts that documents of other people state too, in [0, 1]."""
    form: Form = Form.qa

    def __post_init__(self) -> None:
        super().__post_init__()
        seeds("corpus.", self, "seed")
        positive("corpus", self, "people")
        fraction("corpus", self, "overlap")


@dataclass(kw_only=True)
class FileCorpus(CorpusConfig):
    """Text of the user's: a file, a folder, or a data set of the hub by name."""

    kind: str = "files"
    path: str | None = None
    """.jsonl .json .csv .parquet .txt, a folder of them, or a hub data set; null: no such corpus."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    prompt_field: str | None = None
    completion_field: str | None = None
    text_field: str | None = None
    """Fields to read; null: the first of `prompt`/`completion`, `question`/`answer`, `messages`,
    `conversations`, `instruction`/`input`/`output` and `text` that is there."""
    passage_characters: int = 1000
    """Plain text is read as passages: whole paragraphs, joined to at least so many characters each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("corpus", self, "passage_characters")
        require(
            (self.prompt_field is None) == (self.completion_field is None),
            "prompt_field and completion_field go together: set both or neither",
        )
        require(
            self.text_field is None or self.prompt_field is None,
            "text_field excludes prompt_field and completion_field",
        )


@dataclass(kw_only=True)
class ForgetFiles(FileCorpus):
    fraction: float | None = None
    """Forget this share of the one text at `path`, drawn by `fraction_seed`; the rest is retain corpus."""
    fraction_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        seeds("forget.", self, "fraction_seed")
        require(
            self.fraction is None or 0 < self.fraction < 1,
            f"forget.fraction must be between 0 and 1, got {self.fraction}",
        )


@dataclass(kw_only=True)
class RetainConfig(CorpusConfig):
    """What only the retain corpus has."""

    drop_overlap: Flag = False
    """Leave out retain records that are forget records too, rather than refuse the pair of corpora."""
    validation_fraction: float = 0.0
    """Share of the retain records that unlearning never trains on, for the stop rule to watch; 0: it watches
    records that are trained on. What is held out is not protected (experiments/tofu_stories15m)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        flags("retain", self, "drop_overlap")
        fraction("retain", self, "validation_fraction", open_above=True)


@dataclass(kw_only=True)
class RetainFictional(FictionalCorpus, RetainConfig):
    kind: str = "fictional"


@dataclass(kw_only=True)
class RetainFiles(FileCorpus, RetainConfig):
    kind: str = "files"
