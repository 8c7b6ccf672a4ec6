"""The commands as they run on a GPU: on one that is pretended, and with `-m gpu` on a real one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pretended
import pytest
import torch
from tiny import TINY

from mari_cli import launch
from mari_cli.audit.registry import ATTACKS
from mari_cli.tasks.audit import audit
from mari_cli.tasks.evaluate import evaluate
from mari_cli.tasks.finetune import finetune
from mari_cli.tasks.unlearn import unlearn

MODEL = [setting for setting in TINY if setting.startswith("model.")]
DATA = [setting for setting in TINY if not setting.startswith(("model.", "train.", "finetune."))]
TRAIN = ["train.steps=2", "train.evaluate_every=2", "train.forget_batch=2", "train.retain_batch=2"]
TRAIN += ["train.stop.at_holdout=false", "train.stop.retain_drop=null"]
ALL = ["metrics.generate=true", "metrics.max_new_tokens=2", "metrics.max_items=4", "metrics.gradnorm=true"]

Gpu = Callable[[], AbstractContextManager[None]]


@pytest.fixture(
    params=[
        pytest.param(pretended.gpu, id="pretended"),
        pytest.param(nullcontext, id="real", marks=pytest.mark.gpu),
    ],
    scope="module",
)
def on(request: pytest.FixtureRequest) -> Gpu:
    return request.param


@pytest.fixture(scope="module")
def target(on: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `mari finetune`."""
    out = tmp_path_factory.mktemp("cuda") / "target"
    with on():
        run(finetune, "finetune", out, *MODEL, *DATA, "train.epochs=1", "train.lr=3e-3")
    return out


def run(task, name: str, out: Path, *settings: str) -> dict:
    arguments = [*settings, f"out={out}", f"cache={out.parent / 'cache'}"]
    return launch.run(task, launch.prepare(launch.Experiment(name, arguments)))


def test_a_model_is_evaluated_whole(on, target):
    there = target.parent / "evaluated"
    beside = [f"gold={target}", f"metrics.mia_reference={target}"]
    with on():
        result = run(evaluate, "evaluate", there, f"model.path={target}", *DATA, *ALL, *beside)
    assert {"marginal/token", "privacy/gradnorm_auc", "forget/verbatim_rouge_l"} <= set(
        result["models"]["model"]["metrics"]
    )


@pytest.mark.parametrize(
    "settings",
    [
        ["loss=mari", "train.micro_batch=1", "train.gradient_checkpointing=true"],
        ["loss=mari_pooled", "train.weights=bfloat16", "train.chunk=8", "train.memory=unchecked"],
        ["loss=mari_context", "model.lora.rank=2", "train.memory=unchecked"],
        [
            "loss=dpo",
            "loss.forget_weight=0.05",
            "train.precision=float16",
            "train.dropout=true",
            "train.memory=unchecked",
        ],
    ],
    ids=lambda settings: settings[0],
)
def test_a_model_is_unlearned_and_measured(on, target, settings):
    there = target.parent / settings[0].replace("=", "_")
    with on():
        result = run(unlearn, "unlearn", there, f"model.path={target}", *DATA, *TRAIN, *settings)
    assert result["training"]["steps"] == 2
    assert "marginal/pooled" in result["models"]["unlearned"]["metrics"]


def test_a_model_is_attacked(on, target):
    beside = [f"model.path={target}", f"before={target}", f"gold={target}", f"second_gold={target}"]
    gentle = [
        "audit=quick",
        "audit.items=20",
        "audit.relearning.items=[4]",
        "audit.relearning.lrs=[1e-3]",
        "audit.relearning.steps=1",
        "audit.sampling={samples: 1, best_of: 1, max_new_tokens: 2}",
        "audit.prompts={given: [1], prefixes: [], templates: [], examples: null, rewordings: null}",
        "audit.traces={folds: 2, max_new_tokens: 2}",
        "audit.distance.max_new_tokens=2",
    ]
    of_facts = [setting for setting in DATA if not setting.startswith("forget.")]
    with on():
        result = run(audit, "audit", target.parent / "audit", *beside, *of_facts, "forget.people=6", *gentle)
    assert {row["attack"] for row in result["audit"]} == set(ATTACKS)


# -- the detector itself


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here.sum().add_(there.sum()),
        lambda here, there: torch.nn.functional.linear(here, there),
        lambda here, there: here[there.long()],
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: there.numpy(),
        lambda here, there: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda here, there: (there.requires_grad_() * 1).backward(here),
    ],
)
def test_what_cuda_refuses_is_refused(mixed):
    with pretended.gpu(), pytest.raises(pretended.DeviceMismatch):
        mixed(torch.ones(2, 2), torch.ones(2, 2).to("cuda"))


def test_what_cuda_takes_is_taken_and_stays_where_it_was_made():
    with pretended.gpu():
        here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
        for made in (
            there * here.sum(),
            there[here[0].long()],
            torch.zeros_like(there),
            there[1],
            there.to(here.dtype),
        ):
            assert made.is_cuda
        for made in (
            there.cpu(),
            here * 2,
            here.copy_(there),
            torch.zeros(2),
            there.new_zeros(2, device="cpu"),
        ):
            assert made.device.type == "cpu"
    assert not torch.cuda.is_available() or torch.ones(1).device.type == "cpu"
