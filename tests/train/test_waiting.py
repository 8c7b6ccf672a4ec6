"""In a step nobody waits for the device. On a CPU it is stood in for by torch's `meta`, whose tensors have no
values that anybody could wait for."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from steps import LOSSES, Bare, gpt2, group_of, llama
from torch.utils._python_dispatch import TorchDispatchMode

from mari_cli.config import Device, OptimConfig, Packing, Precision, Weights
from mari_cli.losses.objective import build
from mari_cli.models.device import choose_compute
from mari_cli.models.load import LanguageModel
from mari_cli.models.packing import choose_layout
from mari_cli.train.loop import Job, fit
from mari_cli.train.optim import Optimizer
from mari_cli.train.step import Recalled, Reference, backward, operand_head
from mari_cli.train.stop import Verdict
from mari_cli.transfer import Fetched, sent

WIDTH, STORED = 16, 5


class Blocking(TorchDispatchMode):
    """Refuses a copy between the CPU and ``device`` for which the CPU would wait."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.copies = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            ends = {x.device.type for x in args if isinstance(x, torch.Tensor)}
            ends |= {torch.device(kwargs["device"]).type} if kwargs.get("device") else set()
            if ends == {"cpu", self.device}:
                self.copies += 1
                assert kwargs.get("non_blocking") or (len(args) > 2 and args[2]), func
        return func(*args, **kwargs)


def reference(lm, config, groups) -> Reference:
    """As it comes from memory-mapped files: on the CPU."""
    needs = build(config).needs
    dtype = lm.compute.dtype if lm.compute.dtype.itemsize == 2 else next(lm.model.parameters()).dtype
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def recall(role: str, at: range) -> Recalled:
        positions = sum(groups[role][i].num_targets for i in at)
        ids = torch.arange(STORED, dtype=torch.int32).repeat(positions, 1)
        return Recalled(
            sent(some(positions, WIDTH).to(dtype), lm.device) if role in needs.beside_reference else None,
            sent(-10 * some(len(at)), lm.device) if role in needs.reference_log_p else None,
            (sent(ids, lm.device), sent(some(positions, STORED).float() / STORED, lm.device))
            if needs.stored_tokens is not None and role == "forget"
            else None,
            sent(some(positions, WIDTH).to(dtype), lm.device) if role in needs.reference_layer else None,
        )

    return Reference(recall, operand_head(lm).frozen() if needs.beside_reference else None)


def on_meta(lm: Bare) -> Bare:
    lm.model.to("meta")
    lm.device = torch.device("meta")
    return lm


cuts = pytest.mark.parametrize("micro_batch", [None, 2])
names = pytest.mark.parametrize("name", LOSSES)


@cuts
@names
@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_step_reads_no_value_and_waits_for_no_copy(make, name, micro_batch):
    lm, config = on_meta(make(packing=Packing.always)), LOSSES[name]
    groups = group_of(config)
    with Blocking("meta") as seen:
        settings = {"reference": reference(lm, config, groups), "micro_batch": micro_batch, "chunk": 24}
        terms = backward(lm, groups, build(config), **settings)
    assert seen.copies > 4
    for tensor in (*terms.values(), *(p.grad for p in lm.model.parameters())):
        assert tensor.device.type == "meta"


def test_the_stand_in_tells_a_value_that_is_read_and_a_copy_that_is_waited_for():
    there = torch.zeros(3, device="meta")
    with pytest.raises(RuntimeError, match="item"):
        float(there[0])
    with pytest.raises(AssertionError), Blocking("meta"):
        torch.zeros(3).to("meta")


@pytest.mark.parametrize("weights", Weights)
def test_between_gradient_and_update_no_value_is_read(weights):
    lm = on_meta(llama(packing=Packing.always))
    lm.model.float()
    optimizer = Optimizer(lm.model, OptimConfig(weights=weights))
    for parameter in lm.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.take_gradients()
    assert optimizer.clip(1.0).device.type == "meta"


# -- on a GPU ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(make, precision: str) -> LanguageModel:
    model = make().model.float().cuda()
    compute = choose_compute(Device.cuda, Precision(precision))
    layout = choose_layout(model, compute, Packing.always)
    return LanguageModel(model, None, "tiny", 32, None, compute, layout)


@pytest.mark.gpu
@cuts
@names
@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_on_a_gpu_the_cpu_does_not_wait_between_the_tokens_and_the_update(make, precision, name, micro_batch):
    lm, config = on_gpu(make, precision), LOSSES[name]
    groups = group_of(config)
    optimizer = Optimizer(lm.model, OptimConfig(lr=1e-3))
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "float16", init_scale=64.0)
    told = reference(lm, config, groups)

    def step() -> Fetched:
        settings = {"reference": told, "micro_batch": micro_batch, "scale": scaler.scale}
        terms = backward(lm, groups, build(config), **settings)
        optimizer.take_gradients()
        scaler.unscale_(optimizer.engine)
        values = torch.stack([*(sent(x, lm.device, torch.float64) for x in terms.values())])
        norm = optimizer.clip(1.0)
        optimizer.step(skip=~norm.isfinite())
        scaler.update()
        optimizer.zero_grad()
        return Fetched(values)

    step()  # compiles, and takes the memory that the next ones use again
    before = [p.detach().clone() for p in lm.model.parameters()]
    with nobody_waits():
        values = step()
    assert all(map(torch.isfinite, torch.tensor(values.read())))
    assert any(not torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True))


@pytest.mark.gpu
def test_on_a_gpu_the_loop_waits_only_to_evaluate_and_says_what_its_steps_took(tmp_path):
    lm, config = on_gpu(llama, "bfloat16"), LOSSES["mari pooled"]
    groups, rows = group_of(config), []
    told = reference(lm, config, groups)

    def items_at(step: int):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        return groups

    def evaluate(lm, step: int) -> dict[str, float]:
        torch.cuda.set_sync_debug_mode("default")
        return {}

    job = Job(
        steps=6,
        items_at=items_at,
        objective=build(config),
        reference_at=lambda step: told,
        evaluate=evaluate,
        judge=lambda history: Verdict(history[-1]["step"], None),
        evaluate_every=6,
    )
    try:
        fit(lm, job, OptimConfig(lr=1e-3), state_dir=tmp_path, log=rows.append, description="")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    for row in steps:
        assert row["tokens_per_second"] > 0
        assert 0 < row["peak_bytes"] < 2**30
        assert 0 < row.get("mfu", 0.5) < 1


@pytest.mark.gpu
def test_on_a_gpu_a_wait_would_be_noticed():
    with pytest.raises(RuntimeError, match="synchroniz"), nobody_waits():
        torch.ones(2, device="cuda").sum().item()


@pytest.mark.gpu
def test_from_a_gpu_values_are_those_of_the_moment_they_were_asked_for():
    there = torch.full((4,), 3.0, device="cuda")
    with nobody_waits():
        values = Fetched(there)
        there.zero_()
    assert values.read() == [3.0] * 4
