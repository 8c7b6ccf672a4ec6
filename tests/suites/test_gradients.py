import sys
from pathlib import Path

import pytest
import torch

from mari_cli.data.records import Record
from mari_cli.progress import silent
from mari_cli.suites import gradients
from mari_cli.suites.gradients import gradnorms

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_models import GPT2, LLAMA, TEXT, built


def items_of(lm):
    records = [Record(prompt="Who sat on the mat?", text="The cat."), Record(text=TEXT)]
    return lm.tokenize(records, corpus="forget", block_size=None, truncate=False)


def by_the_models_own_loss(lm, item) -> float:
    """-‖∇‖ by transformers' own forward and loss, every parameter's .grad concatenated."""
    lm.model.zero_grad()
    ids = torch.tensor([item.input_ids])
    labels = torch.where(torch.arange(ids.shape[1]) < item.supervised_from, -100, ids)
    lm.model(input_ids=ids, labels=labels).loss.backward()
    flat = torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None])
    lm.model.zero_grad()
    return -flat.double().norm().item()


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["tied", "untied"])
@pytest.mark.parametrize("rows", [512, 3])
def test_it_is_the_norm_of_all_gradients_of_the_models_own_loss(architecture, rows, monkeypatch):
    monkeypatch.setattr(gradients, "ROWS", rows)
    lm = built(architecture)
    items = items_of(lm)
    expected = [by_the_models_own_loss(lm, item) for item in items]
    assert gradnorms(lm, items, track=silent, description="") == pytest.approx(expected, rel=1e-5)


def test_what_a_run_trains_changes_nothing_and_nothing_is_left_behind():
    lm = built()
    items = items_of(lm)
    all_trained = gradnorms(lm, items, track=silent, description="")
    for parameter in lm.model.parameters():
        parameter.requires_grad_(False)
    assert gradnorms(lm, items, track=silent, description="") == all_trained
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_what_was_fitted_pulls_less_than_what_was_not():
    """A model that predicts one text well has a smaller gradient there, so a higher score."""
    lm = built()
    fitted, other = items_of(lm)[1], items_of(lm)[0]
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=1e-2)
    ids = torch.tensor([fitted.input_ids])
    for _ in range(60):
        optimiser.zero_grad()
        lm.model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    score_fitted, score_other = gradnorms(lm, [fitted, other], track=silent, description="")
    assert score_fitted > score_other
