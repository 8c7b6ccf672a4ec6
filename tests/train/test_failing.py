"""A training whose numbers are not finite ends, and what was reached is kept."""

import pytest
import torch
from steps import Bare, gpt2, items

from mari_cli.config import OptimConfig
from mari_cli.errors import UserError
from mari_cli.losses.objective import FINE_TUNING
from mari_cli.train.loop import Job, Outcome, fit
from mari_cli.train.stop import Verdict

ITEMS = items(8, seed=1)


def weights(lm: Bare) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def trained(lm: Bare, directory, *, steps: int, broken_at: int | None = None, kept: int = 2):
    """What became of it, its weights at each evaluation, and the steps logged; ``kept`` is worth keeping."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    log: list[dict] = []

    def items_at(step: int):
        if step == broken_at:
            next(lm.model.parameters()).data.fill_(torch.nan)
        return {"retain": ITEMS}

    def evaluate(lm: Bare, step: int) -> dict[str, float]:
        seen[step] = weights(lm)
        return {}

    job = Job(
        steps=steps,
        items_at=items_at,
        objective=FINE_TUNING,
        reference_at=lambda step: None,
        evaluate=evaluate,
        judge=lambda history: Verdict(min(kept, history[-1]["step"]), None),
        evaluate_every=2,
        section="finetune.",
    )
    outcome = fit(lm, job, OptimConfig(lr=1e-3), state_dir=directory, log=log.append, description="")
    return outcome, seen, [row["step"] for row in log if row["kind"] == "train"]


def whole(needs_loss_scaling: bool = False) -> Bare:
    lm = gpt2()
    lm.needs_loss_scaling = needs_loss_scaling
    return lm


@pytest.mark.parametrize("kept", [2, 4])
@pytest.mark.parametrize("broken_at", [4, 5])
def test_a_loss_that_is_not_finite_ends_it_and_the_kept_step_is_restored(kept, broken_at, tmp_path):
    lm = whole()
    outcome, seen, logged = trained(lm, tmp_path, steps=8, broken_at=broken_at, kept=kept)
    assert logged == list(range(1, broken_at + 1))
    assert outcome.stopped_by == f"step {broken_at + 1}: loss, gradient not finite; the update was not made"
    assert (outcome.steps, outcome.kept_step, outcome.failed) == (broken_at, kept, True)
    assert all(torch.equal(p, seen[kept][name]) for name, p in weights(lm).items())


def test_it_is_refused_where_nothing_was_reached(tmp_path):
    with pytest.raises(UserError, match="step 2: loss, gradient not finite") as refused:
        trained(whole(), tmp_path, steps=8, broken_at=1)
    assert refused.value.hint == "lower `finetune.lr` (now 0.001)"


def overflowing(lm: Bare, first: int, last: int = 10**9) -> Bare:
    """From step ``first`` to ``last`` its gradient is infinite."""
    step = 0

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step += 1
        return gradient * torch.inf if first <= step <= last else gradient

    lm.model.transformer.ln_f.bias.register_hook(overflow)
    return lm


def test_ten_steps_in_a_row_without_an_update_end_it_and_what_was_before_is_kept(tmp_path):
    lm = overflowing(whole(needs_loss_scaling=True), first=4)
    outcome, seen, _ = trained(lm, tmp_path, steps=40, kept=10**9)
    assert outcome.stopped_by.startswith("steps 4 to 13: the gradient is not finite in float16")
    assert (outcome.steps, outcome.skipped_steps, outcome.kept_step) == (13, 10, 12)
    assert all(torch.equal(p, seen[12][name]) for name, p in weights(lm).items())


def test_some_steps_without_an_update_are_counted(tmp_path):
    outcome, *_ = trained(overflowing(whole(True), first=2, last=4), tmp_path, steps=6)
    assert (outcome.steps, outcome.skipped_steps, outcome.stopped_by, outcome.failed) == (6, 3, None, False)


@pytest.mark.parametrize("steps", [4, 40])
def test_a_run_without_any_update_is_refused_however_short(steps, tmp_path):
    with pytest.raises(UserError, match="not finite in float16") as refused:
        trained(overflowing(whole(True), first=1), tmp_path, steps=steps)
    assert "`finetune.precision=float32`" in refused.value.hint


def test_steps_without_an_update_are_counted_through_a_resume(tmp_path) -> None:
    trained(overflowing(whole(True), first=1, last=3), tmp_path, steps=4)
    outcome: Outcome = trained(overflowing(whole(True), first=1, last=1), tmp_path, steps=8)[0]
    assert outcome.skipped_steps == 4
