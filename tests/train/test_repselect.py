"""RepSelect is its paper's formula on each MLP matrix; every other weight stays to the bit."""

import pytest
import torch
from steps import gpt2, items, llama
from tiny import TINY

from mari_cli import launch
from mari_cli.config import OptimConfig
from mari_cli.errors import UserError
from mari_cli.losses.objective import build
from mari_cli.losses.repselect import Collapse, RepSelectConfig, collapse
from mari_cli.tasks.unlearn import unlearn
from mari_cli.train.gradient_filter import filter_with, largest_components, mlp_matrices, read_components

CONFIG = RepSelectConfig(name="repselect")


def matrix(rows: int, columns: int, seed: int, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(rows, columns) if rank is None else draw(rows, rank) @ draw(rank, columns)


def by_hand(g: torch.Tensor, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, power: int) -> torch.Tensor:
    """One component after another: the part of g along it, and what of that part is taken away."""
    for k in range(len(s)):
        g = g - (1 - (s.min() / s[k]) ** power) * torch.outer(g @ v[:, k], v[:, k])
    for k in range(len(s)):
        g = g - (1 - (s.min() / s[k]) ** power) * torch.outer(u[:, k], u[:, k] @ g)
    return g


@pytest.mark.parametrize(("how", "power"), [(Collapse.soft, 1), (Collapse.quadratic, 2)])
def test_a_gradient_is_made_smaller_along_each_component_on_both_sides(how, power):
    of = largest_components(matrix(6, 9, 1), 3)
    g = matrix(6, 9, 2)
    expected = by_hand(g, of.u_AK, of.s_K, of.v_BK, power)
    torch.testing.assert_close(collapse(g, of.u_AK, of.s_K, of.v_BK, how), expected, rtol=1e-12, atol=1e-12)


def test_hard_leaves_nothing_along_the_components_and_the_rest_alone():
    of = largest_components(matrix(6, 9, 1), 3)
    left = collapse(matrix(6, 9, 2), of.u_AK, of.s_K, of.v_BK, Collapse.hard)
    assert (left @ of.v_BK).abs().max() < 1e-12
    assert (of.u_AK.T @ left).abs().max() < 1e-12
    elsewhere = left.clone()
    torch.testing.assert_close(collapse(elsewhere, of.u_AK, of.s_K, of.v_BK, Collapse.hard), elsewhere)


def test_the_gradient_that_the_components_are_of_has_the_strength_of_the_weakest_squared():
    g = matrix(5, 7, 3)
    of = largest_components(g, 5)
    s = torch.linalg.svdvals(collapse(g, of.u_AK, of.s_K, of.v_BK, Collapse.soft))
    torch.testing.assert_close(s.sort().values, (of.s_K.min() ** 2 / of.s_K).sort().values)


@pytest.mark.parametrize("how", list(Collapse))
def test_a_gradient_of_lower_rank_than_asked_for_gives_numbers(how):
    of = largest_components(matrix(8, 8, 4, rank=2), 6)
    assert len(of.s_K) == 2
    assert collapse(matrix(8, 8, 5), of.u_AK, of.s_K, of.v_BK, how).isfinite().all()


def test_a_matrix_whose_gradient_is_0_has_no_components():
    lm = gpt2()
    nothing = next(iter(mlp_matrices(lm.model)))
    lm.model.get_parameter(nothing).register_hook(torch.zeros_like)
    found = read_components(lm, items(3, 1), build(CONFIG), OptimConfig(), count=3, batch=3)
    assert found.keys() == mlp_matrices(lm.model).keys() - {nothing}


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("batch", [2, 3, 100])
def test_components_are_those_of_the_mean_over_all_forget_tokens_however_they_are_read(make, batch):
    lm, forget = make(), items(7, 1)
    loss = torch.zeros((), dtype=torch.float64)
    for item in forget:
        ids = torch.tensor([item.input_ids])
        log_p = lm.model(ids).logits.log_softmax(-1)[0, :-1]
        loss = loss + log_p.gather(-1, ids[0, 1:, None])[item.supervised_from - 1 :].sum()
    (loss / sum(item.num_targets for item in forget)).backward()
    expected = {name: p.grad.clone() for name, p in mlp_matrices(lm.model).items()}
    lm.model.zero_grad()
    config = OptimConfig(micro_batch=2)
    found = read_components(lm, forget, build(CONFIG), config, count=3, batch=batch)
    assert found.keys() == expected.keys()
    assert len(found) == (4 if make is gpt2 else 6)
    for name, of in found.items():
        torch.testing.assert_close(of.s_K, torch.linalg.svdvals(expected[name])[:3])
        torch.testing.assert_close(expected[name] @ of.v_BK, of.u_AK * of.s_K, atol=1e-9, rtol=1e-9)
    assert all(p.grad is None for p in lm.model.parameters())


def test_weights_without_components_get_no_gradient():
    weights = {name: torch.nn.Parameter(matrix(4, 4, i)) for i, name in enumerate("ab")}
    for p in weights.values():
        p.grad = matrix(4, 4, 9)
    of = largest_components(matrix(4, 4, 1), 2)
    filter_with(CONFIG.gradient_filter, {"a": of})(weights)
    assert weights["b"].grad is None
    torch.testing.assert_close(
        weights["a"].grad, collapse(matrix(4, 4, 9), of.u_AK, of.s_K, of.v_BK, Collapse.soft)
    )


def test_a_model_without_mlps_and_a_retain_side_are_refused():
    with pytest.raises(UserError, match="has no matrix whose name says"):
        mlp_matrices(torch.nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"loss\.retain_weight must be 0"):
        RepSelectConfig(name="repselect", retain_weight=1.0)
    with pytest.raises(ValueError, match="components"):
        RepSelectConfig(name="repselect", components=0)


@pytest.mark.smoke
def test_a_run_forgets_through_the_mlps_alone(tmp_path, cache):
    from safetensors.torch import load_file

    words = [*TINY, "loss=repselect", "train.stop.at_holdout=false", "train.stop.retain_drop=null",
             "train.keep=last", f"out={tmp_path / 'run'}", f"cache={cache}"]  # fmt: skip
    result = launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", words)))
    nll = {name: m["metrics"]["forget/answer_nll"]["value"] for name, m in result["models"].items()}
    assert nll["unlearned"] > nll["target"]
    after = load_file(tmp_path / "run/checkpoint/model.safetensors")
    targets = [load_file(path) for path in cache.glob("models/*/checkpoint/model.safetensors")]
    shared = [t for t in targets if t.keys() == after.keys() and torch.equal(t[EMBEDDING], after[EMBEDDING])]
    assert len(shared) == 1
    moved = {name for name in after if not torch.equal(after[name], shared[0][name])}
    assert moved
    assert all(".mlp." in name and name.endswith("weight") for name in moved)


EMBEDDING = "transformer.wte.weight"
