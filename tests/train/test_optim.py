"""Updates do not vanish, and an optimiser that was saved goes on with the same bits."""

import importlib.util
import sys

import pytest
import torch

from mari_cli.config import OptimConfig, OptimizerName, Precision, Schedule, Weights
from mari_cli.errors import UserError
from mari_cli.train import checkpoint, state
from mari_cli.train.optim import Optimizer, check_optimizer, learning_rate

NO = torch.tensor(False)
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs torchao: pip install 'mari-cli[8bit]'"
)
KINDS = {
    "adamw": {},
    "bfloat16 weights": {"weights": Weights.bfloat16},
    "8 bit": {"optimizer": OptimizerName.adamw_8bit},
    "8 bit, bfloat16 weights": {"optimizer": OptimizerName.adamw_8bit, "weights": Weights.bfloat16},
}
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=needs_torchao if "8 bit" in n else (), id=n) for n, k in KINDS.items()]
)


def network(*, seed: int = 0, frozen: bool = False) -> torch.nn.Module:
    """One tensor large enough for 8 bits, some that are not, and a buffer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 3))
    model.register_buffer("positions", torch.full((2,), 1 / 3))
    model[0].weight.requires_grad_(not frozen)
    return model


def train(model, optimizer, steps: range, lr: float = 1e-3) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 64, generator=generator)
        model(x.to(next(model.parameters()))).square().sum().backward()
        optimizer.set_lr(lr)
        optimizer.take_gradients()
        optimizer.clip(1.0)
        optimizer.step(skip=NO)
        optimizer.zero_grad()


def test_small_updates_of_bfloat16_weights_do_not_vanish():
    """500 steps of Adam at 1e-5 under a constant gradient move a weight by 5e-3; bfloat16 alone stays put."""
    steps, lr = 500, 1e-5

    def descend(weight: torch.nn.Parameter, step, take=lambda: None) -> None:
        for _ in range(steps):
            weight.grad = torch.ones_like(weight)
            take()
            step()

    model = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    optimizer = Optimizer(model, OptimConfig(lr=lr, weights=Weights.bfloat16))
    assert model.weight.dtype == torch.bfloat16
    descend(model.weight, lambda: optimizer.step(skip=NO), optimizer.take_gradients)
    assert model.weight.dtype == torch.bfloat16
    assert (model.weight < 1).all()
    optimizer.release()
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 4), 1 - steps * lr), rtol=0, atol=1e-5)

    without = torch.nn.Parameter(torch.ones(1, 4, dtype=torch.bfloat16))
    alone = torch.optim.AdamW([without], lr=lr, weight_decay=0.0)
    descend(without, alone.step)
    assert (without == 1).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@kinds
def test_what_was_saved_goes_on_with_the_same_bits(kind, device, tmp_path):
    config = OptimConfig(lr=1e-3, weight_decay=0.1, **kind)
    whole, first, second = (network(seed=seed).to(device) for seed in (0, 0, 1))
    train(whole, Optimizer(whole, config), range(6))

    optimizer = Optimizer(first, config)
    train(first, optimizer, range(3))
    state.save(tmp_path / "state", optimizer, state.Progress(step=3, kept_step=3))

    resumed = Optimizer(second, config)
    saved = state.latest(tmp_path / "state")
    state.load_weights(saved, resumed)
    state.load_optimizer(saved, resumed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    train(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@kinds
def test_every_kind_trains(kind):
    model = network()
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        before = model(x).square().mean()
    optimizer = Optimizer(model, OptimConfig(lr=1e-3, **kind))
    train(model, optimizer, range(30))
    optimizer.release()
    with torch.no_grad():
        assert model(x).square().mean() < 0.7 * before


def fused(optimizer: Optimizer) -> Optimizer:
    """As on CUDA, on a CPU too."""
    optimizer.engine = torch.optim.AdamW(optimizer.masters.values(), lr=1e-3, fused=True)
    return optimizer


@pytest.mark.parametrize("device", ["cpu", "cpu, fused", pytest.param("cuda", marks=pytest.mark.gpu)])
@kinds
def test_a_step_that_is_to_be_skipped_leaves_weights_and_moments_as_they_are(kind, device):
    whole, skipping = (network().to(device.removesuffix(", fused")) for _ in range(2))
    both = [Optimizer(model, OptimConfig(lr=1e-3, **kind)) for model in (whole, skipping)]
    if device == "cpu, fused":
        if "optimizer" in kind:
            pytest.skip("of AdamW alone there is one on a CPU")
        both = [fused(optimizer) for optimizer in both]
    for model, optimizer in zip((whole, skipping), both, strict=True):
        train(model, optimizer, range(3))
    for master in both[1].masters.values():
        master.grad = torch.full_like(master, torch.nan)
    both[1].step(skip=torch.ones((), dtype=torch.bool, device=next(skipping.parameters()).device))
    both[1].zero_grad()
    for model, optimizer in zip((whole, skipping), both, strict=True):
        train(model, optimizer, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), skipping.parameters(), strict=True))
    tensors = [optimizer.tensors() for optimizer in both]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


@needs_torchao
def test_8_bit_moments_take_a_quarter_of_the_memory_and_stay_near_adamw():
    eight, full = network(), network()
    sizes = {}
    for model, name in ((eight, OptimizerName.adamw_8bit), (full, OptimizerName.adamw)):
        optimizer = Optimizer(model, OptimConfig(lr=1e-3, optimizer=name))
        train(model, optimizer, range(10))
        sizes[name] = sum(
            t.numel() * t.element_size()
            for key, t in optimizer.tensors().items()
            if key.startswith("0.weight/exp")
        )
    assert sizes[OptimizerName.adamw_8bit] < 0.3 * sizes[OptimizerName.adamw]
    torch.testing.assert_close(eight[0].weight, full[0].weight, rtol=0, atol=3e-3)
    torch.testing.assert_close(eight[2].weight, full[2].weight, rtol=0, atol=3e-3)


def test_bfloat16_weights_are_the_rounding_of_what_is_stepped_and_saved():
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, OptimConfig(weights=Weights.bfloat16))
    assert all(torch.equal(master, before[name]) for name, master in optimizer.masters.items())
    assert model.positions.dtype == torch.float32
    train(model, optimizer, range(2))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, optimizer.masters[name].bfloat16())
    optimizer.release()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, optimizer.masters[name])


def test_what_is_not_trained_is_neither_stepped_nor_saved(tmp_path):
    model = network(frozen=True)
    frozen = model[0].weight.detach().clone()
    optimizer = Optimizer(model, OptimConfig(weights=Weights.bfloat16))
    assert "0.weight" not in optimizer.masters
    assert model[0].weight.dtype == torch.bfloat16
    train(model, optimizer, range(2))
    state.save(tmp_path / "state", optimizer, state.Progress())
    for part in (state.MODEL, state.OPTIMIZER):
        names = checkpoint.read(
            state.latest(tmp_path / "state") / part, lambda name, size, dtype: torch.empty(size, dtype=dtype)
        )
        assert names
        assert not any(name.startswith("0.weight") for name in names)
    optimizer.release()
    assert torch.equal(model[0].weight, frozen.bfloat16().float())


def test_weight_decay_is_for_matrices_only():
    model = network()
    optimizer = Optimizer(model, OptimConfig(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.engine.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in optimizer.masters.items()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "2.weight": 0.1,
        "2.bias": 0.0,
    }


def test_8_bit_without_torchao_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)  # as Python marks what is not there
    with pytest.raises(UserError, match="needs torchao") as refusal:
        check_optimizer(OptimizerName.adamw_8bit)
    assert "mari-cli[8bit]" in refusal.value.hint


def test_an_optimiser_that_torch_has_needs_nothing():
    check_optimizer(OptimizerName.adamw)


@pytest.mark.parametrize("precision", [Precision.float16, Precision.float32])
def test_bfloat16_weights_want_bfloat16_products(precision):
    with pytest.raises(ValueError, match=r"train\.weights=bfloat16 needs train\.precision=bfloat16"):
        OptimConfig(weights=Weights.bfloat16, precision=precision)


def test_the_learning_rate_warms_up_and_then_follows_its_schedule():
    config = OptimConfig(lr=1.0, warmup_steps=2, schedule=Schedule.linear)
    assert [learning_rate(config, step, 6) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
