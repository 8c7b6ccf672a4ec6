"""What several rooms' tests share: a tiny run, composed as a user would compose it."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for a network
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

TINY = [
    "model.architecture.n_layer=1",
    "model.architecture.n_embd=32",
    "model.tokenizer_vocab_size=512",
    "forget.people=2",
    "retain.people=6",
    "holdout.people=2",
    "finetune.epochs=2",
    "finetune.lr=3e-3",
    "train.steps=4",
    "train.evaluate_every=2",
    "train.forget_batch=4",
    "train.retain_batch=4",
    "metrics=fast",
    "metrics.bootstrap=20",
]
"""Overrides for a run of seconds."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: targets and gold models are trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared() -> Path:
    """Data and models that are too large for the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs models and data in {SHARED}")
    return SHARED
