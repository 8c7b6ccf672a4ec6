"""Mixtures of experts, whose way through the model depends on the data: planned in numbers, or refused."""

from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mari_cli.config import LoraConfig, OptimConfig, Packing, UnlearnConfig
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.lm_head import check_parity
from mari_cli.losses.mari import Estimator, MariConfig
from mari_cli.losses.objective import FINE_TUNING, build
from mari_cli.losses.preference import NPOConfig
from mari_cli.measure import fake
from mari_cli.models.device import Compute
from mari_cli.models.load import LanguageModel
from mari_cli.models.lora import add_adapters
from mari_cli.models.packing import foresee_layout
from mari_cli.train.forecast import Settings, Unforeseeable, count_step, fake_reference, forecast
from mari_cli.train.step import backward

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
}
LATENT = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = {"n_routed_experts": 4, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 1}
DEEPSEEK |= {"topk_group": 1, "n_shared_experts": 1}
FAMILIES = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24},
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 8},
    "olmoe": {"num_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "deepseek_v3": {**DEEPSEEK, **LATENT, "q_lora_rank": 16},
    "phimoe": {"num_local_experts": 4},
    "llama4_text": {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48},
}
ROUTES_ON_THE_CPU = "jetmoe"
"""It asks for the lengths of what each expert gets."""
MADE = {**FAMILIES, ROUTES_ON_THE_CPU: {"num_local_experts": 4, "kv_channels": 8}}
CPU = torch.device("cpu")
COMPUTE = {
    "cpu float32": Compute(CPU, torch.float32, ""),
    "cpu bfloat16": Compute(CPU, torch.bfloat16, ""),
    "gpu bfloat16": Compute(CPU, torch.bfloat16, "", as_on_cuda=True),
}
TOKEN = MariConfig(name="mari", estimator=Estimator.token)
NPO = NPOConfig(name="npo")


@cache
def groups() -> dict[str, list[Item]]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2, 64, (8, 20), generator=generator).tolist()
    return {
        "forget": [Item(tuple(ids[: 12 + i]), 3, i) for i, ids in enumerate(drawn[:4])],
        "retain": [Item(tuple(ids), 3, i) for i, ids in enumerate(drawn[4:])],
    }


def language_model(family: str, compute: Compute) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **MADE[family]})
    model = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(model, None, family, 64, None, compute, foresee_layout(model, Packing.auto))


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_a_mixture_is_planned(family, compute):
    lm = language_model(family, COMPUTE[compute])
    found = forecast(lm, groups(), build(TOKEN), Settings(), UnlearnConfig())
    assert found.flops > 0
    assert sum(found.parts.values()) == found.peak > 0


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe"])
def test_its_operations_are_those_of_the_real_step_and_its_memory_within_5_percent(family):
    lm, objective, config = language_model(family, COMPUTE["cpu float32"]), build(NPO), OptimConfig()
    told = fake_reference(lm, groups=groups(), objective=objective, world=fake.mode())
    planned = forecast(lm, groups(), objective, Settings(), config)
    real = count_step(lm, groups(), objective, Settings(), config, reference=lambda lm: told)
    assert planned.flops == real.flops
    assert planned.peak == pytest.approx(real.peak, rel=0.05)


@pytest.mark.parametrize("compute", COMPUTE)
def test_one_that_asks_its_data_is_refused_in_two_lines(compute):
    lm = language_model(ROUTES_ON_THE_CPU, COMPUTE[compute])
    with pytest.raises(
        Unforeseeable, match="`jetmoe` cannot be planned: what it computes depends"
    ) as refused:
        forecast(lm, groups(), build(TOKEN), Settings(), UnlearnConfig())
    assert refused.value.hint
    assert "\n" not in str(refused.value) + refused.value.hint


def test_one_that_fails_without_data_is_refused_in_two_lines(monkeypatch):
    lm = language_model("mixtral", COMPUTE["cpu float32"])
    broken = "Expected inputs of BF16 type\nand more of it"
    monkeypatch.setattr(
        type(lm.model.model), "forward", lambda *_, **__: exec("raise RuntimeError(x)", {"x": broken})
    )
    with pytest.raises(Unforeseeable, match=r"without data it fails: Expected inputs of BF16 type$"):
        forecast(lm, groups(), build(TOKEN), Settings(), UnlearnConfig())


@pytest.mark.parametrize("compute", ["cpu float32", "cpu bfloat16"])
@pytest.mark.parametrize("family", MADE)
def test_a_mixture_is_trained_every_expert_of_it(family, compute):
    lm = language_model(family, COMPUTE[compute])
    check_parity(lm.model)
    several = {"retain": [*groups()["retain"], *groups()["forget"]]}
    terms = backward(lm, several, FINE_TUNING, micro_batch=3)
    assert torch.isfinite(terms["loss"])
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in lm.model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("family", ["gpt_oss", "qwen2_moe", "granitemoe"])
def test_adapters_of_its_linear_layers_are_trained(family):
    lm = language_model(family, COMPUTE["cpu float32"])
    add_adapters(lm.model, LoraConfig(rank=2), seed=0)
    check_parity(lm.model)
    backward(lm, {"retain": groups()["retain"]}, FINE_TUNING)
    assert all(p.grad is not None for p in lm.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "deepseek_v3", "llama4_text"])
def test_adapters_of_its_experts_or_router_are_refused(family):
    lm = language_model(family, COMPUTE["cpu float32"])
    with pytest.raises(UserError, match="would be no plain linear one") as refused:
        add_adapters(lm.model, LoraConfig(rank=2), seed=0)
    assert "model.lora.targets=[q_proj,v_proj]" in refused.value.hint
