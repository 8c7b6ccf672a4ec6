"""Items whose scores are NaN or infinite are left out of every figure, and named."""

import math
from dataclasses import asdict

import pytest
import torch

from mari_cli.config import Device, MetricsConfig, ModelConfig, Precision
from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.progress import silent
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.finite import finite_rows
from mari_cli.suites.standard import Corpus, measure, quick

SHAPE = {
    "model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64,
    "tie_word_embeddings": False,
}  # fmt: skip
CONFIG = MetricsConfig(batch_size=3, max_new_tokens=3, bootstrap=20, gradnorm=True, examples=5)


def records(*broken: int, number: str) -> list[Record]:
    """Eight of them; those at ``broken`` hold the letter that the model overflows at."""
    return [
        Record(prompt=f"What is {i}{number}?", text=f"It is {'ž' if i in broken else i} 1 2 3")
        for i in range(8)
    ]


@pytest.fixture(scope="module")
def lm():
    """A model that overflows at one letter."""
    tokenizer = train_tokenizer(["What is it? It is number 1 2 3 4 5 6 7 8 9"], 280)
    config = ModelConfig(name="x", architecture=SHAPE, tokenizer="train")
    lm = load_model(config, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=0)
    letter = tokenizer("ž", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        lm.model.transformer.wte.weight[letter] = 3e38
    return lm


def corpora(lm, **broken: tuple[int, ...]) -> dict[str, Corpus]:
    found = {}
    for number, role in enumerate(("forget", "retain", "holdout")):
        those = records(*broken.get(role, ()), number=str(number))
        items = lm.tokenize(those, corpus=role, block_size=None, truncate=False)
        found[role] = Corpus(those, items)
    return found


def asked(lm) -> Examiner:
    return Examiner(lm, CONFIG, 0, "", None, silent, "model")


@pytest.fixture(scope="module")
def healthy(lm):
    return measure(asked(lm), corpora(lm))


def test_what_is_finite_is_measured_as_it_would_be_alone(lm, healthy):
    whole = corpora(lm)
    found = measure(asked(lm), corpora(lm, forget=(0, 3), holdout=(5,)))
    good = [i for i in range(8) if i not in (0, 3)]
    alone = measure(
        asked(lm),
        {
            "forget": Corpus(whole["forget"].records, [whole["forget"].items[i] for i in good]),
            "retain": whole["retain"],
            "holdout": Corpus(
                whole["holdout"].records, [whole["holdout"].items[i] for i in range(8) if i != 5]
            ),
        },
    )
    assert healthy.notes == alone.notes == []
    for name, estimate in alone.metrics.items():
        assert asdict(found.metrics[name]) == pytest.approx(asdict(estimate), abs=1e-5), name
    assert found.metrics["forget/answer_nll"].n == 6
    assert found.metrics["privacy/loss_auc"].n == 6 + 7
    assert [row["item"] for row in found.items if row["set"] == "forget"] == good
    rows = {(row["set"], row["item"]): row for row in healthy.items}
    for row in found.items:  # of the same items, so that models are compared in pairs
        assert row["answer_nll"] == pytest.approx(rows[row["set"], row["item"]]["answer_nll"], abs=1e-5)
    assert found.answers[0] == found.answers[3] == "(left out)"
    assert found.answers[1] == healthy.answers[1]


def test_those_left_out_are_counted_and_named(lm):
    notes = measure(asked(lm), corpora(lm, forget=(0, 3), retain=(7,))).notes
    reason = "left out of every figure, because a score is NaN or infinite"
    assert notes == [
        f"model: 2 of 8 forget items are {reason}: items 0, 3",
        f"model: 1 of 8 retain items is {reason}: item 7",
    ]


def test_a_model_without_one_finite_score_of_a_corpus_is_refused(lm):
    with pytest.raises(UserError, match="model: all 8 items of retain have a score that is NaN or infinite"):
        measure(asked(lm), corpora(lm, retain=tuple(range(8))))


def test_what_is_followed_in_training_is_not_a_number_where_a_score_is_none(lm):
    found = quick(lm, corpora(lm, forget=(2,)), batch_size=4, min_k=0.4, track=silent)
    assert math.isnan(found["forget/answer_nll"])
    assert math.isnan(found["privacy/loss_auc"])
    assert math.isfinite(found["retain/answer_nll"])


def test_a_suites_rows_are_left_out_set_by_set():
    rows = [
        {"set": "a", "item": 4, "loss": 1.0, "losses": [1.0, 2.0]},
        {"set": "a", "item": 5, "loss": 1.0, "losses": [1.0, math.inf]},
        {"set": "b", "item": 0, "loss": math.nan},
        *({"set": "b", "item": i, "loss": 0.0} for i in range(1, 9)),
        *({"set": "b", "item": i, "loss": -math.inf} for i in range(9, 16)),
    ]
    kept, notes = finite_rows(rows, model="gold")
    assert [(row["set"], row["item"]) for row in kept] == [("a", 4), *(("b", i) for i in range(1, 9))]
    assert notes[0].startswith("gold: 1 of 2 `a` items is left out")
    assert notes[0].endswith("item 5")
    assert notes[1].endswith("items 0, 9, 10, 11, 12, …")
    with pytest.raises(UserError, match="gold: all 1 item of `b`"):
        finite_rows([{"set": "b", "item": 0, "loss": math.nan}], model="gold")
