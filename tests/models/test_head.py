"""Logits are the head applied to the backbone's last hidden state, in every architecture."""

from contextlib import nullcontext

import pretended
import pytest
import torch
from tiny_models import GPT2, LLAMA, SMALL, built
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mari_cli.errors import UserError
from mari_cli.lm_head import Head, HeadGradient, check_parity, head_of
from mari_cli.measure import fake
from mari_cli.measure.memory import MemoryTracker
from mari_cli.models.backbone import run_backbone

ARCHITECTURES = {
    "gpt2, tied": GPT2,
    "gpt2, untied": GPT2 | {"tie_word_embeddings": False},
    "llama, tied": LLAMA | {"tie_word_embeddings": True},
    "llama, untied": LLAMA,
    "gpt_neox": SMALL | {"model_type": "gpt_neox"},
    "opt": {"model_type": "opt", "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    | {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    "opt, narrow embeddings": {"model_type": "opt", "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 8, "max_position_embeddings": 64},
    "qwen2": SMALL | {"model_type": "qwen2", "num_key_value_heads": 1},
    "phi, with a bias": SMALL | {"model_type": "phi", "num_key_value_heads": 1},
    "gemma2, capped": SMALL
    | {"model_type": "gemma2", "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.05},
    "cohere, scaled": SMALL | {"model_type": "cohere", "num_key_value_heads": 1, "logit_scale": 0.25},
    "granite, divided": SMALL | {"model_type": "granite", "num_key_value_heads": 1, "logits_scaling": 8.0},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_of_the_backbone_gives_the_models_own_logits(name):
    """`built` has checked a row of eight tokens; here it is a batch, to the last digits."""
    model = built(ARCHITECTURES[name]).model
    ids = torch.arange(2, 34).view(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            head_of(model)(run_backbone(model, ids)[0]),
            model(input_ids=ids, use_cache=False).logits,
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("name", "scale", "softcap"),
    [("gemma2, capped", 1.0, 0.05), ("cohere, scaled", 0.25, None), ("granite, divided", 0.125, None)],
)
def test_what_an_architecture_does_to_its_logits_is_read_off_its_config(name, scale, softcap):
    head = head_of(built(ARCHITECTURES[name]).model)
    assert (head.scale, head.softcap) == (scale, softcap)


class Doubled(GPT2LMHeadModel):
    """Does to its logits what no configuration tells."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output


class NotANumber(GPT2LMHeadModel):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * float("nan")
        return output


@pytest.mark.parametrize(
    ("architecture", "said"), [(Doubled, "are not its head applied"), (NotANumber, "are NaN or infinite")]
)
def test_a_model_that_changes_its_logits_on_the_way_is_refused(architecture, said):
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=40, initializer_range=0.5)
    check_parity(GPT2LMHeadModel(config).eval())
    with pytest.raises(UserError, match=f"the logits of `{architecture.__name__}` {said}"):
        check_parity(architecture(config).eval())


def test_a_model_without_a_head_is_refused():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=1, n_head=2, n_embd=16))
    with pytest.raises(UserError, match="`GPT2Model` has no language-model head"):
        check_parity(model.transformer)


def test_a_frozen_head_stays_as_it_was():
    head = Head(torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.zeros(3)))
    frozen = head.frozen()
    with torch.no_grad():
        head.weight_VD.mul_(2)
        head.bias_V.add_(1)
    assert not frozen.weight_VD.requires_grad
    assert frozen(torch.ones(1, 2)).tolist() == [[2.0, 2.0, 2.0]]


def test_the_head_computes_in_float32_even_under_autocast():
    head = Head(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    states = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(states)
    assert torch.equal(logits, head(states))


# -- the gradient at the weight, with products of 16 bits that come out in float32


@pytest.mark.parametrize("on", [pretended.gpu, pytest.param(nullcontext, marks=pytest.mark.gpu)])
def test_the_gradient_of_16_bit_products_is_added_up_in_float32_over_chunks(on):
    with on():
        generator = torch.Generator().manual_seed(0)
        sizes = ((60, 7), (90, 60), (90, 7))
        weight, delta, h = (torch.randn(size, generator=generator).to("cuda") for size in sizes)
        delta, h = delta.bfloat16(), h.bfloat16()
        gradient = HeadGradient(Head(weight.requires_grad_(), dtype=torch.bfloat16))
        for delta_c, h_c in zip(delta.split(8), h.split(8), strict=True):
            gradient.push(delta_c.float(), h_c, None)
        expected = delta.double().T @ h.double()
        assert (gradient.weight_VD - expected).norm() / expected.norm() < 1e-6


def test_nothing_as_large_as_the_weight_is_made_beside_its_gradient():
    world = fake.mode()
    weight = torch.nn.Parameter(fake.empty((4096, 256), torch.float32, world))
    gradient = HeadGradient(Head(weight, dtype=torch.bfloat16, widens=True))
    delta, h = fake.empty((8, 4096), torch.float32, world), fake.empty((8, 256), torch.bfloat16, world)
    tracker = MemoryTracker(fake.Again(world))
    tracker.overlook([gradient.weight_VD])
    with tracker:
        gradient.push(delta, h, None)
    assert tracker.flops == 2 * 2 * 8 * 4096 * 256
    assert tracker.peak < weight.nbytes / 10
