"""`mari ask`: the same questions to the models before, now and gold, written as in the evaluation of the run.

A question of the report's examples gets the answer that stands there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mari_cli.config import Device, FinetuneRun, Precision, UnlearnRun
from mari_cli.data.tokenize import encode_beginning, encode_question
from mari_cli.errors import UserError, counted, shell_path
from mari_cli.models.device import Compute, choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel, load_model, load_tokenizer
from mari_cli.progress import say, track
from mari_cli.storage.json_files import damaged, read_object
from mari_cli.suites.generate import Sampling, decode, generate
from mari_cli.tasks.models_of_run import ModelsOfRun

EXAMPLES = "examples.json"


@dataclass(frozen=True)
class HowToAsk:
    max_tokens: int | None = None
    """Most tokens of an answer; None: as many as in the run's evaluation."""
    temperature: float = 0.0
    """0: the most probable tokens, as in the evaluation."""
    seed: int = 0
    """Of the draws, where the temperature is above 0."""
    device: str | None = None
    """None: the run's."""
    continues: bool | None = None
    """Whether a question is the beginning of a text, to go on with in no template; None: where the forget
    corpus of the run is running text."""


@dataclass
class Conversation:
    """A run whose models are asked."""

    run: Path
    config: UnlearnRun | FinetuneRun
    models: ModelsOfRun
    how: HowToAsk
    keeps: bool = False
    """Whether a loaded model stays in memory for the next question; else one of them is there at a time."""
    loaded: dict[str, LanguageModel] = field(default_factory=dict)

    @property
    def max_tokens(self) -> int:
        return self.how.max_tokens or self.config.metrics.max_new_tokens

    @property
    def continues(self) -> bool:
        return is_running_text(self.run) if self.how.continues is None else self.how.continues

    def load(self) -> None:
        """Load what `keeps` keeps, before the first question."""
        for word in self.models.models:
            self._model(word)

    def ask(self, questions: Sequence[str], *, asked_before: int = 0) -> dict[str, list[str]]:
        """The answers to ``questions``, by `before`, `now` and `gold`, as far as these models are there.

        ``asked_before``: the number of earlier questions; draws differ from one question to the next.

        Raises UserError for a question that leaves no room for an answer.
        """
        examples = read_examples(self.run)
        sampling = None
        if self.how.temperature:
            sampling = Sampling(self.how.temperature, self.how.seed + asked_before)
        answers = {}
        for word in self.models.models:
            lm = self._model(word)
            ids = [self._encoded(lm, question, examples) for question in questions]
            _require_room(ids, lm.max_length)
            said = generate(
                lm,
                ids,
                max_new_tokens=self.max_tokens,
                batch_size=self.config.metrics.batch_size,
                track=track,
                description=f"{word}: answering",
                sampling=sampling,
            )
            answers[word] = [decode(lm, of_question) for of_question in said]
        return answers

    def _encoded(self, lm: LanguageModel, question: str, examples: Mapping[str, str]) -> list[int]:
        if self.continues:
            return encode_beginning(question, lm.tokenizer)
        if question in examples:
            return encode_question(question, lm.tokenizer, lm.style, answer=examples[question])
        return encode_question(question, lm.tokenizer, lm.style)

    def _model(self, word: str) -> LanguageModel:
        if word in self.loaded:
            return self.loaded[word]
        model = self.models.models[word]
        say(f"{word}: {model.config.path}")
        tokenizer = load_tokenizer(self.models.models["now"].config, [])
        if load_tokenizer(model.config, []).get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"the model {word} at `{model.config.path}` has another tokenizer than `{self.run}`",
                "give a model with the tokenizer of the run's",
            )
        lm = load_model(model.config, tokenizer, _compute(self.config, self.how.device), seed=0)
        if model.weights not in (None, weights_hash(lm.model)):
            raise UserError(
                f"the weights of the model {word} at `{model.config.path}` are not those of the manifest",
                f"`mari verify {shell_path(self.run)}` lists what has changed"
                if word == "now"
                else f"it was written anew since: give another one as `--{word} PATH`",
            )
        if self.keeps:
            self.loaded[word] = lm
        return lm


def _compute(config: UnlearnRun | FinetuneRun, device: str | None) -> Compute:
    """Those of the run's evaluation, as far as the device that is asked for goes with them."""
    train = config.train
    precision = train.precision
    if device == Device.cpu and precision is Precision.float16:  # which needs a CUDA device
        precision = Precision.auto
    return choose_compute(Device(device or train.device), precision, train.weights, section="--")


def _require_room(questions: Sequence[Sequence[int]], max_length: int) -> None:
    for number, ids in enumerate(questions, start=1):
        if len(ids) >= max_length:
            which = f"question {number} of {len(questions)}" if len(questions) > 1 else "the question"
            raise UserError(
                f"{which} leaves no room for an answer: it has {counted(len(ids), 'token')}, and the context "
                f"of the model holds {max_length}",
                "ask a shorter question",
            )


def is_running_text(run: Path) -> bool:
    """Whether every token of the forget corpus is a target but the first of each item: so it is of running
    text, and of questions never."""
    forget: dict[str, int] = read_object(run / "data.json").get("forget", {})
    return bool(forget) and forget["targets"] == forget["tokens"] - forget["items"]


def read_examples(run: Path) -> dict[str, str]:
    """The questions of the report's examples, with their true answers. A tokenizer may merge the last
    character of a prompt with the first of an answer: where the answer is known, the prompt is cut as in the
    evaluation."""
    path = run / EXAMPLES
    if not path.is_file():
        return {}
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        return {str(row["prompt"]): str(row["answer"]) for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(path, "it is no list of questions and answers") from error
