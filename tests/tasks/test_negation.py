"""A task vector is its paper's formula; what is evaluated, kept and saved is the model on the other side."""

from types import SimpleNamespace

import pytest
import torch
from tiny import TINY

from mari_cli import launch
from mari_cli.errors import UserError
from mari_cli.losses.task_vector import TaskVectorConfig
from mari_cli.tasks.negation import Negation
from mari_cli.tasks.unlearn import unlearn


def test_the_weights_go_the_other_way_by_the_papers_formula():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    negation = Negation.of(model, 1.5)
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    tuned = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = {name: before[name] - 1.5 * (tuned[name] - before[name]) for name in before}
    seen = negation.around(lambda lm, step: {"norm": lm.model.weight.norm().item(), "step": step})
    assert seen(SimpleNamespace(model=model), 4) == {"norm": expected["weight"].norm().item(), "step": 4}
    assert all(torch.equal(p, tuned[name]) for name, p in model.named_parameters())  # training goes on
    negation.apply(model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-15, atol=1e-15)


def test_weights_that_were_not_trained_stay_where_they_are():
    model = torch.nn.Linear(3, 2).bfloat16()
    before = model.weight.detach().clone()
    Negation.of(model, 7.0).apply(model)
    assert torch.equal(model.weight, before)


def test_its_loss_is_that_of_learning_the_forget_data_and_asks_for_nothing_else():
    needs = TaskVectorConfig(name="task_vector").objective().needs
    assert needs.roles == ("forget",)
    with pytest.raises(ValueError, match=r"loss\.retain_weight must be 0"):
        TaskVectorConfig(name="task_vector", retain_weight=1.0)


@pytest.mark.parametrize("loss", ["task_vector", "repselect"])
@pytest.mark.parametrize("word", ["model.lora.rank=2", "train.parallel=fsdp"])
def test_what_is_no_whole_weight_is_refused(word, loss, tmp_path):
    words = [*TINY, f"loss={loss}", word, f"out={tmp_path / 'run'}"]
    with pytest.raises(UserError, match=rf"for `?loss={loss}"):
        launch.prepare(launch.Experiment("unlearn", words))


@pytest.mark.smoke
def test_a_run_forgets_by_learning(tmp_path, cache):
    words = [*TINY, "loss=task_vector", "train.stop.at_holdout=false", "train.stop.retain_drop=null",
             "train.keep=last", f"out={tmp_path / 'run'}", f"cache={cache}"]  # fmt: skip
    result = launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", words)))
    nll = {name: m["metrics"]["forget/answer_nll"]["value"] for name, m in result["models"].items()}
    assert nll["unlearned"] > nll["target"]
