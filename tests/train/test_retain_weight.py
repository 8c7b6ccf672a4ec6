"""A retain weight that follows training: by its rule, however steps are cut, and through a kill."""

import pytest
import torch
from steps import gpt2, items

from mari_cli.config import OptimConfig
from mari_cli.losses.pdu import PDUConfig
from mari_cli.train.loop import Job, fit
from mari_cli.train.stop import Verdict

FORGET, RETAIN = items(4, seed=1), items(4, seed=2)
CONFIG = PDUConfig(
    name="pdu", retain_weight=1.5, retain_limit=3.0, dual_rate=2.0, warmup_steps=2, forget_weight=0.1
)


def trained(directory, *, steps: int = 6, killed_at: int | None = None, micro_batch: int | None = None):
    """The rows of the steps, and the weights after the last."""
    lm, rows = gpt2(), []
    lm.needs_loss_scaling = False

    def items_at(step: int):
        if step == killed_at:
            raise KeyboardInterrupt
        return {"forget": FORGET, "retain": RETAIN}

    job = Job(
        steps=steps,
        items_at=items_at,
        objective=CONFIG.objective(),
        reference_at=lambda step: None,
        evaluate=lambda lm, step: {},
        judge=lambda history: Verdict(history[-1]["step"], None),
        evaluate_every=2,
    )
    config = OptimConfig(lr=1e-3, micro_batch=micro_batch)
    try:
        fit(lm, job, config, state_dir=directory, log=rows.append, description="")
    except KeyboardInterrupt:
        assert killed_at is not None
    return [row for row in rows if row["kind"] == "train"], torch.cat(
        [p.detach().flatten() for p in lm.model.parameters()]
    )


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_the_weight_follows_the_retain_loss_of_the_whole_step(micro_batch, tmp_path):
    rows, weights = trained(tmp_path / "cut", micro_batch=micro_batch)
    expected = 1.5
    for done, row in enumerate(rows):
        assert row["retain_weight"] == pytest.approx(expected, rel=1e-9)
        assert row["loss"] == pytest.approx(0.1 * row["logit_margin"] + expected * row["retain_nll"])
        if done >= 2:
            expected = max(0.0, expected + 2.0 * (row["retain_nll"] - 3.0))
    assert rows[-1]["retain_weight"] != 1.5
    _, whole = trained(tmp_path / "whole")
    torch.testing.assert_close(weights, whole, rtol=1e-6, atol=1e-9)


def test_a_killed_training_goes_on_with_the_weight_that_it_had(tmp_path):
    _, whole = trained(tmp_path / "whole")
    trained(tmp_path / "killed", killed_at=5)
    rows, weights = trained(tmp_path / "killed")
    assert [row["step"] for row in rows] == [5, 6]
    assert rows[0]["retain_weight"] != 1.5
    assert torch.equal(weights, whole)
