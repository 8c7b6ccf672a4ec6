"""What `auto` settles on, what is refused, and steps in sixteen bits beside the same step in thirty-two."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import GPT2, LLAMA, built

from mari_cli.config import Device, OptimConfig, Precision
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.losses.objective import FINE_TUNING
from mari_cli.models.device import Compute, choose_compute
from mari_cli.train import state
from mari_cli.train.loop import Job, fit
from mari_cli.train.step import backward
from mari_cli.train.stop import Verdict

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a CUDA device")


def test_auto_on_a_cpu_is_float32_and_says_why():
    compute = choose_compute(Device.cpu, Precision.auto)
    assert (compute.device.type, compute.precision, compute.reason) == ("cpu", "float32", "auto: CPU")


@no_cuda
def test_auto_without_a_gpu_is_the_cpu():
    assert choose_compute(Device.auto, Precision.auto).device.type == "cpu"


@pytest.mark.gpu
def test_auto_with_a_gpu_names_it_and_its_generation():
    compute = choose_compute(Device.auto, Precision.auto)
    assert compute.device.type == "cuda"
    assert compute.precision == ("bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16")
    assert torch.cuda.get_device_name() in compute.reason
    assert "SM " in compute.reason


@no_cuda
@pytest.mark.parametrize(("section", "key"), [("train.", "train.device"), ("", "device")])
def test_a_gpu_that_is_not_there_is_refused_in_the_commands_own_keys(section, key):
    with pytest.raises(UserError, match="no CUDA device here") as refused:
        choose_compute(Device.cuda, Precision.auto, section=section)
    assert f"`{key}=cpu`" in refused.value.hint


@pytest.mark.parametrize("device", [Device.cpu, pytest.param(Device.auto, marks=no_cuda)])
def test_float16_on_a_cpu_is_refused(device):
    with pytest.raises(UserError, match="float16 needs a CUDA device") as refused:
        choose_compute(device, Precision.float16)
    assert "`train.precision=bfloat16`" in refused.value.hint


# -- steps ---------------------------------------------------------------------------------------------------


def items(count: int, seed: int) -> list[Item]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 20, (count,), generator=generator).tolist()
    return [
        Item(tuple(torch.randint(2, 250, (length,), generator=generator).tolist()), 2, i)
        for i, length in enumerate(lengths)
    ]


def gradient(lm) -> torch.Tensor:
    backward(lm, {"retain": items(8, 1)}, FINE_TUNING, micro_batch=3)
    return torch.cat([p.grad.flatten().cpu() for p in lm.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_gradients_of_a_bfloat16_step_are_close_to_those_in_float32(device, architecture):
    exact = gradient(built(architecture, device=device))
    rounded = gradient(built(architecture, device=device, precision="bfloat16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)  # the autocast did something
    assert (rounded - exact).norm() < 3e-2 * exact.norm()


@pytest.mark.gpu
def test_gradients_of_a_float16_step_are_close_to_those_in_float32():
    exact, rounded = (
        gradient(built(LLAMA, device="cuda")),
        gradient(built(LLAMA, device="cuda", precision="float16")),
    )
    assert (rounded - exact).norm() < 3e-2 * exact.norm()


def train(lm, state_dir, *, steps: int) -> list[dict]:
    """Some steps of fine-tuning, with a state every second step; returns the log."""
    log: list[dict] = []
    job = Job(
        steps=steps,
        items_at=lambda step: {"retain": items(6, step)},
        objective=FINE_TUNING,
        reference_at=lambda step: None,
        evaluate=lambda lm, step: {},
        judge=lambda history: Verdict(history[-1]["step"], None),
        evaluate_every=2,
    )
    fit(lm, job, OptimConfig(lr=1e-3), state_dir=state_dir, log=log.append, description="")
    return [row for row in log if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "float32"),
        ("cpu", "bfloat16"),
        *[
            pytest.param("cuda", precision, marks=pytest.mark.gpu)
            for precision in ("float32", "bfloat16", "float16")
        ],
    ],
)
def test_training_that_was_cut_goes_on_as_if_it_had_not_been(device, precision, tmp_path):
    """On a CPU to the same bits; a GPU sums in an order of its own."""
    whole, first, second = (built(LLAMA, device=device, precision=precision) for _ in range(3))
    losses = [row["loss"] for row in train(whole, tmp_path / "whole", steps=6)]
    train(first, tmp_path / "cut", steps=4)
    resumed = [row["loss"] for row in train(second, tmp_path / "cut", steps=6)]
    assert len(resumed) == 2
    rtol = 0.0 if device == "cpu" else 2e-3
    assert resumed == pytest.approx(losses[4:], rel=rtol, abs=0)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=rtol, atol=0.0 if device == "cpu" else 1e-4)


@pytest.mark.gpu
def test_float16_scales_its_loss_remembers_the_scale_and_survives_an_overflow(tmp_path):
    """The first scale of a GradScaler, 2^16, may be too large: then the step is skipped and it halves."""
    lm = built(LLAMA, device="cuda", precision="float16")
    rows = train(lm, tmp_path / "state", steps=8)
    assert len(rows) == 8
    assert all(torch.isfinite(p).all() for p in lm.model.parameters())
    assert math.isfinite(rows[-1]["loss"])
    progress = state.load_progress(state.latest(tmp_path / "state"))
    assert progress.loss_scaling
    assert progress.loss_scaling["scale"] <= 2**16
    assert progress.loss_scaling["_growth_tracker"] > 0


def test_float16_that_was_cut_goes_on_with_its_scale_and_the_steps_that_it_has_held(tmp_path):
    """The scale doubles after so many steps in a row: a count from anew would double it elsewhere."""

    def half(steps: int) -> state.Progress:
        lm = built(LLAMA, device="cpu")
        lm.compute = Compute(torch.device("cpu"), torch.float16, "as on a GPU")
        train(lm, tmp_path / "state", steps=steps)
        return state.load_progress(state.latest(tmp_path / "state"))

    first, then = half(4).loss_scaling, half(6).loss_scaling
    assert (first["_growth_tracker"], then["_growth_tracker"]) == (4, 6)
    assert first["scale"] == then["scale"]


@pytest.mark.gpu
def test_a_checkpoint_from_the_gpu_is_read_on_the_cpu(tmp_path):
    lm = built(LLAMA, device="cuda", precision="bfloat16")
    train(lm, tmp_path / "state", steps=2)
    lm.save(tmp_path / "checkpoint")
    weights = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    for name, parameter in lm.model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach().cpu(), rtol=0, atol=0)
