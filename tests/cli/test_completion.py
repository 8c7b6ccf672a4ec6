"""Completion of overrides, as the shells ask for it."""

import os
import subprocess
import sys

import pytest

from mari_cli.cli.completion import complete_override


@pytest.mark.parametrize(
    ("typed", "some"),
    [
        ("loss=", {"loss=mari", "loss=npo", "loss=grad_diff"}),
        ("loss=n", {"loss=npo"}),
        ("los", {"loss="}),
        ("loss.est", {"loss.estimator="}),
        ("train.st", {"train.steps=", "train.stop."}),
        ("forget=t", {"forget=tofu", "forget=text"}),
    ],
)
def test_an_override_is_completed_by_what_the_config_has(typed, some):
    assert some <= set(complete_override(typed))


def test_what_is_not_for_users_is_not_offered():
    offered = complete_override("")
    assert {"loss=", "seed=", "train."} <= set(offered)
    assert not [word for word in offered if word.startswith(("hydra", "schema", "_"))]


def test_half_a_word_that_makes_no_config_is_no_error():
    assert complete_override("loss=[") == []


def in_bash(*words: str, at: int) -> list[str]:
    """What bash is told: it splits words at `=` before it asks."""
    asked = {"_MARI_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(at)}
    done = subprocess.run(
        [sys.executable, "-m", "mari_cli"], env={**os.environ, **asked}, capture_output=True, text=True
    )
    return done.stdout.split()


def test_bash_completes_after_the_equals_sign():
    assert in_bash("mari", "unlearn", "loss", "=", "n", at=4) == ["npo"]
    assert {"mari", "npo", "dpo"} <= set(in_bash("mari", "unlearn", "loss", "=", at=3))


def test_bash_completes_a_key():
    assert "loss.estimator=" in in_bash("mari", "unlearn", "loss.es", at=2)
    assert "corpora=" in in_bash("mari", "finetune", "corp", at=2)
