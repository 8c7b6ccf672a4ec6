"""Packed in one row, sequences have the states and gradients of each alone, and never see each other."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_head import ARCHITECTURES
from tiny_models import GPT2, LLAMA, SMALL, built
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mari_cli.config import Packing
from mari_cli.data.batches import Documents, collate
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.models import attention
from mari_cli.models.backbone import hidden_states, rows, run_backbone
from mari_cli.models.load import LanguageModel
from mari_cli.models.packing import choose_layout

WINDOW = {"sliding_window": 5, "num_key_value_heads": 1}
EXACT = {name: shape for name, shape in ARCHITECTURES.items() if not name.startswith("gemma2")} | {
    "qwen3": SMALL | {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 8},
    "mistral, all windows": SMALL | WINDOW | {"model_type": "mistral"},
    "qwen2, some windows": SMALL
    | WINDOW
    | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
    "gemma3, some windows": SMALL | WINDOW | {"model_type": "gemma3_text", "head_dim": 8},
    "phi3": SMALL | {"model_type": "phi3", "num_key_value_heads": 1, "pad_token_id": 0},
}
SUMS_IN_FLOAT32 = {"cohere, scaled", "gemma3, some windows"}
"""Architectures whose norms multiply by their weight in float32 whatever the precision of the model."""
REFUSED = {
    "gemma2": (ARCHITECTURES["gemma2, capped"], "not one that transformers can compute as `sdpa`"),
    "gpt_neo": (
        {"model_type": "gpt_neo", "num_layers": 1, "num_heads": 2, "hidden_size": 16}
        | {"attention_types": [[["local"], 1]]},
        "not one that transformers can compute as `sdpa`",
    ),
    "lfm2": (
        SMALL | {"model_type": "lfm2", "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]},
        "it has layers of `conv`",
    ),
    "stablelm": (
        SMALL | {"model_type": "stablelm", "num_key_value_heads": 1},
        "it does not hand documents to its attention",
    ),
}


def items(*, seed: int = 0, lengths: tuple[int, ...] = (9, 4, 17, 9, 30, 2, 12)) -> list[Item]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Item(
            tuple(torch.randint(2, 250, (length,), generator=generator).tolist()),
            1 + i % min(3, length - 1),
            i,
        )
        for i, length in enumerate(lengths)
    ]


def double(architecture: dict, **options) -> LanguageModel:
    lm = built(architecture, **options)
    lm.model.double()
    return lm


def packed_states(lm: LanguageModel, which: list[Item]) -> Tensor:
    return hidden_states(lm.model, lm.compute, which, packed=True)[0]


def padded_states(lm: LanguageModel, which: list[Item]) -> Tensor:
    return hidden_states(lm.model, lm.compute, which)[0]


def states_one_by_one(lm: LanguageModel, which: list[Item]) -> Tensor:
    return torch.cat([padded_states(lm, [item]) for item in which])


def gradients(
    lm: LanguageModel, states: Callable[[LanguageModel, list[Item]], Tensor], which: list[Item]
) -> tuple[Tensor, dict[str, Tensor]]:
    lm.model.zero_grad()
    h_ND = states(lm, which)
    generator = torch.Generator().manual_seed(7)
    h_ND.backward(torch.randn(h_ND.shape, generator=generator, dtype=h_ND.dtype))
    return h_ND.detach(), {
        name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None
    }


def assert_same(
    a: tuple[Tensor, dict[str, Tensor]], b: tuple[Tensor, dict[str, Tensor]], *, to: float = 1e-12
) -> None:
    """To a share of the largest."""
    assert a[1].keys() == b[1].keys()
    for left, right in [(a[0], b[0]), *((a[1][name], b[1][name]) for name in a[1])]:
        torch.testing.assert_close(left, right, rtol=to, atol=to * max(1.0, right.abs().max().item()))


@pytest.mark.parametrize("name", EXACT)
def test_packed_states_and_gradients_are_those_of_padded_sequences_and_of_each_alone(name):
    lm = double(EXACT[name])
    assert lm.layout.packed
    to = 1e-6 if name in SUMS_IN_FLOAT32 else 1e-12
    packed = gradients(lm, packed_states, items())
    assert_same(packed, gradients(lm, states_one_by_one, items()), to=to)
    assert_same(packed, gradients(lm, padded_states, items()), to=to)


@pytest.mark.parametrize("name", ["gpt2, tied", "llama, untied", "mistral, all windows"])
def test_hidden_layers_are_packed_like_the_last(name):
    lm = double(EXACT[name])
    with torch.no_grad():
        for layer in (0, 1):
            _, packed = hidden_states(lm.model, lm.compute, items(), packed=True, layer=layer)
            _, padded = hidden_states(lm.model, lm.compute, items(), layer=layer)
            torch.testing.assert_close(packed, padded, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_stands_in_one_sequence_changes_no_bit_of_another(name, precision):
    lm = built(EXACT[name], precision=precision)
    ours, others = items(), items(seed=1)
    counts = [item.num_targets for item in ours]
    with torch.no_grad():
        before = packed_states(lm, ours).split(counts)
        for kept in range(len(ours)):
            mixed = [*others[:kept], ours[kept], *others[kept + 1 :]]
            after = packed_states(lm, mixed).split(counts)
            assert torch.equal(before[kept], after[kept])
            assert not torch.equal(before[kept - 1], after[kept - 1])


def through(broken: Callable[[Documents], Documents]):
    """`packed_states` with boundaries that are not those of the sequences."""

    def states(lm: LanguageModel, which: list[Item]) -> Tensor:
        batch = collate(which, packed=True)
        assert batch.documents
        return rows(batch, run_backbone(lm.model, batch.input_ids_BT, documents=broken(batch.documents))[0])

    return states


def merged(documents: Documents) -> Documents:
    first, second, *others = documents.lengths
    return replace(documents, lengths=(first + second, *others))


def shifted(documents: Documents) -> Documents:
    first, second, *others = documents.lengths
    return replace(documents, lengths=(first + 1, second - 1, *others))


def counted_on(documents: Documents) -> Documents:
    return replace(documents, position_ids_BT=torch.arange(sum(documents.lengths)).unsqueeze(0))


@pytest.mark.parametrize("broken", [merged, shifted, counted_on])
def test_a_wrong_boundary_would_not_go_unnoticed(broken):
    """A rotary position counts from anywhere; a learned one does not."""
    lm = double(GPT2 | {"n_positions": 128})
    alone = gradients(lm, states_one_by_one, items())
    assert_same(gradients(lm, through(lambda documents: documents), items()), alone)
    with pytest.raises(AssertionError):
        assert_same(gradients(lm, through(broken), items()), alone)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_gradient_checkpointing_computes_packed_sequences_as_such_a_second_time(architecture):
    plain, checkpointed = double(architecture), double(architecture, gradient_checkpointing=True)
    plain.model.train()
    checkpointed.model.train()
    assert_same(
        gradients(checkpointed, packed_states, items()),
        gradients(plain, packed_states, items()),
    )


@pytest.mark.parametrize(
    "architecture",
    [
        GPT2 | {"attn_pdrop": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3},
        LLAMA | {"attention_dropout": 0.3},
    ],
    ids=["gpt2", "llama"],
)
def test_the_same_random_state_drops_out_the_same_of_packed_sequences(architecture):
    """Also with gradient checkpointing, which restores the state by itself."""
    lm = double(architecture, dropout=True)
    again = double(architecture, dropout=True, gradient_checkpointing=True)
    found = []
    for model in (lm, lm, again):
        model.model.train()
        torch.manual_seed(5)
        found.append(gradients(model, packed_states, items()))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    with pytest.raises(AssertionError):
        assert_same(found[0], gradients(lm, packed_states, items()))


# -- the choice ----------------------------------------------------------------------------------------------


def test_auto_packs_and_says_why():
    assert str(built(LLAMA).layout) == "packed (auto: no padding, same states)"
    assert str(built(LLAMA, packing=Packing.always).layout) == "packed (asked for)"


def test_never_leaves_the_model_as_it_is():
    lm = built(LLAMA, packing=Packing.never)
    assert str(lm.layout) == "padded (asked for)"
    assert lm.model.config._attn_implementation == attention.PLAIN


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_packed_is_padded_with_the_reason_and_refused_where_it_was_demanded(name):
    architecture, reason = REFUSED[name]
    lm = built(architecture)
    assert not lm.layout.packed
    assert reason in lm.layout.reason
    assert lm.model.config._attn_implementation != attention.NAME
    with pytest.raises(UserError, match="cannot be packed") as refused:
        built(architecture, packing=Packing.always)
    assert reason in str(refused.value)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_a_model_that_mixes_tokens_outside_its_attention_is_padded(strength):
    """However little: a running sum over the row, as no attention makes it."""
    lm = built(LLAMA, packing=Packing.never)

    def mix(module, arguments, output):
        return output + strength * output.cumsum(1)

    lm.model.base_model.layers[0].register_forward_hook(mix)
    layout = choose_layout(lm.model, lm.compute, Packing.auto)
    assert not layout.packed
    assert "relative difference" in layout.reason
    assert lm.model.config._attn_implementation == attention.PLAIN


@pytest.mark.parametrize(
    ("asked", "reason"), [({"softcap": 5.0}, "`softcap`"), ({"is_causal": False}, "not causal")]
)
def test_what_an_attention_asks_for_and_would_not_get_is_refused(asked, reason):
    states = torch.randn(1, 2, 6, 8)
    documents = collate(items(lengths=(2, 4)), packed=True).documents
    with pytest.raises(attention.UnsupportedAttention, match=reason):
        attention.document_attention(
            torch.nn.Module(), states, states, states, None, documents=documents, **asked
        )


def test_a_model_that_was_packed_is_saved_and_answers_as_ever(tmp_path):
    """Padded on the left, with a mask and a cache."""
    packed, plain = built(LLAMA), built(LLAMA, packing=Packing.never)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    answers = [
        lm.model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for lm in (packed, plain)
    ]
    assert torch.equal(*answers)
    packed.save(tmp_path / "checkpoint")
    assert attention.NAME not in json.loads((tmp_path / "checkpoint" / "config.json").read_text()).values()


# -- nobody waits --------------------------------------------------------------------------------------------


class Waiting(TorchDispatchMode):
    """Refuses what needs the value of a tensor to go on: on a GPU the CPU would wait for it."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        boolean = func.overloadpacket is torch.ops.aten.index and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        assert not boolean, "an index of booleans"
        assert func.overloadpacket.__name__ not in self.NAMES, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["gpt2, tied", "llama, untied", "qwen3", "opt", "mistral, all windows"])
def test_nothing_between_tokens_and_gradients_waits_for_a_value(name):
    lm = built(EXACT[name])
    batch = collate(items(), packed=True).to(lm.device)
    with Waiting():
        h_BTD, _ = run_backbone(lm.model, batch.input_ids_BT, documents=batch.documents)
        rows(batch, h_BTD).sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpt2, tied", "llama, untied", "qwen3", "mistral, all windows"])
def test_on_a_gpu_one_kernel_attends_to_all_documents_and_nobody_waits(name):
    exact = built(EXACT[name], device="cuda", precision="float32")
    lm = built(EXACT[name], device="cuda", precision="bfloat16")
    assert lm.layout.packed
    found = []
    for states in (packed_states, padded_states, states_one_by_one):
        lm.model.zero_grad()
        states(lm, items()).float().square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in lm.model.parameters() if p.grad is not None]))
    exact.model.zero_grad()
    states_one_by_one(exact, items()).square().sum().backward()
    truth = torch.cat([p.grad.flatten() for p in exact.model.parameters() if p.grad is not None])
    errors = [float((gradient - truth).norm() / truth.norm()) for gradient in found]
    assert errors[0] < 1.5 * max(errors[1:])

    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.profiler.profile() as profile:
            packed_states(lm, items()).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert any("_varlen_attn" in event.key for event in profile.key_averages())


@pytest.mark.gpu
def test_on_a_gpu_without_the_kernel_documents_are_attended_to_one_length_after_another():
    """In float32, which the kernel does not take."""
    lm = built(LLAMA, device="cuda", precision="float32")
    assert lm.layout.packed
    with torch.no_grad():
        torch.testing.assert_close(
            packed_states(lm, items()), states_one_by_one(lm, items()), rtol=1e-4, atol=1e-4
        )
