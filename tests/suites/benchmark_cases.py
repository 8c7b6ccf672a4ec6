"""A tiny model to ask, and a folder of invented questions, laid out as the hub's data sets are."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

from mari_cli.config import Device, MetricsConfig, ModelConfig, Precision
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel, load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.progress import silent
from mari_cli.suites.examiner import Examiner

SHAPE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 256}
WORDS = [
    "Which of these is the right one? A. one B. two C. three D. four Answer: A Answer: B Answer: C Answer: D",
    "The following are multiple choice questions (with answers) about biology, cybersecurity and chemistry.",
]
SUBJECTS = {"bio": 6, "cyber": 4, "chem": 3}
"""How many questions of each the folder has."""


def model(*, seed: int = 0, precision: str = "float32") -> LanguageModel:
    config = ModelConfig(name="tiny", architecture=SHAPE, tokenizer="train")
    compute = choose_compute(Device.cpu, Precision(precision))
    return load_model(config, train_tokenizer(WORDS * 3, 320), compute, seed=seed)


class SaysB(GPT2LMHeadModel):
    """Whatever it is asked."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits[..., self.b] += 1000
        return output


def says_b(lm: LanguageModel) -> LanguageModel:
    torch.manual_seed(0)
    biased = SaysB(lm.model.config).eval()
    biased.b = lm.tokenizer(" B")["input_ids"][-1]
    return replace(lm, model=biased)


def examiner(lm: LanguageModel, cache: Path | None = None, *, track=silent, **config) -> Examiner:
    settings = MetricsConfig(**{"batch_size": 4, "bootstrap": 50} | config)
    return Examiner(lm, settings, 0, weights_hash(lm.model), cache, track, "model")


# -- the folder ----------------------------------------------------------------------------------------------


def dataset(folder: Path, configs: dict[str, dict[str, list[dict]]]) -> None:
    """A data set of the hub: by configuration and split its rows; README.md says which file is which."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            name = f"{config}-{split}.jsonl"
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines += [f"  - split: {split}", f"    path: {name}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def choices(subject: str, count: int) -> list[dict]:
    return [
        {
            "question": f"Which of these is the right one of {subject}, {i}?",
            "choices": ["one", "two", "three", "four"],
            "answer": i % 3,
        }
        for i in range(count)
    ]


def goals(count: int, first: int = 0) -> list[dict]:
    return [
        {"goal": f"count to {i}", "sol1": "one two " * (i + 1), "sol2": "four " * (i + 1), "label": i % 2}
        for i in range(first, first + count)
    ]


def write_folder(root: Path, *, own_train: bool = True) -> Path:
    """WMDP, PIQA, HellaSwag and some text. ``own_train`` false: PIQA's train split is its questions."""
    dataset(
        root / "cais" / "wmdp",
        {f"wmdp-{subject}": {"test": choices(subject, count)} for subject, count in SUBJECTS.items()},
    )
    train = goals(5, first=100) if own_train else goals(6)
    dataset(root / "baber" / "piqa", {"default": {"validation": goals(6), "train": train}})
    endings = {"endings": ["one two", "three", "four three", "two"], "activity_label": "Counting"}
    contexts = [endings | {"ctx_a": "One", "ctx_b": f"then {i}", "label": str(i % 4)} for i in range(3)]
    dataset(root / "Rowan" / "hellaswag", {"default": {"validation": contexts, "train": contexts[:1]}})
    pages = [{"page": "One two three four. " * 9}, {"page": "Four three one two! " * 30}, {"page": "One."}]
    of_text = {"wikitext-2-raw-v1": {"test": pages, "validation": pages[:1], "train": pages[1:]}}
    dataset(root / "EleutherAI" / "wikitext_document_level", of_text)
    return root
