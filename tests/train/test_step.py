"""A step's loss and gradient do not depend on how the step is cut, padded or ordered."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mari_cli.config import AscentConfig, Estimator, GradientThrough, MariConfig, NPOConfig, RetainLoss
from mari_cli.data.batches import collate
from mari_cli.data.tokenize import Item
from mari_cli.losses.objective import Positions, Reference, Step, build, nll_objective
from mari_cli.models.head import check_parity, head_of
from mari_cli.models.trunk import supervised, trunk
from mari_cli.train.step import NonFiniteLoss, backward

CPU = torch.device("cpu")


class Bare:
    """As much of a language model as a step needs: a float64 network without autocast."""

    device = CPU

    def __init__(self, model):
        self.model = model.double()
        self.compute = self

    def autocast(self):
        return torch.autocast("cpu", enabled=False)


def gpt2(dropout: float = 0.0) -> Bare:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        n_positions=32,
        vocab_size=23,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=1,
    )
    return Bare(GPT2LMHeadModel(config))


def llama() -> Bare:
    torch.manual_seed(0)
    return Bare(
        LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                hidden_size=16,
                intermediate_size=24,
                vocab_size=23,
                max_position_embeddings=32,
                tie_word_embeddings=False,
            )
        )
    )


def items(count: int, seed: int) -> list[Item]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        length = int(torch.randint(6, 14, (1,), generator=generator))
        ids = torch.randint(2, 23, (length,), generator=generator).tolist()
        made.append(Item(tuple(ids), 3, i))
    return made


GROUPS = {"forget": items(5, 1), "retain": items(8, 2)}
CONFIGS = {
    "mari pooled": MariConfig(name="mari", estimator=Estimator.pooled, gradient_through=GradientThrough.both),
    "mari token": MariConfig(name="mari", estimator=Estimator.token),
    "mari context": MariConfig(name="mari", estimator=Estimator.context),
    "kl_ga": AscentConfig(name="kl_ga"),
    "npo": NPOConfig(name="npo", retain_loss=RetainLoss.kl),
}


def objective_of(lm, config):
    """The loss against a reference of random logits, the same however the step is cut."""
    objective, _ = build(config)

    def compute(states):
        positions = {
            role: Positions(head_of(lm.model)(s.h_ND), s.labels_N, s.sequence_N, s.index_N, s.sequences)
            for role, s in states.items()
        }
        generator = torch.Generator().manual_seed(5)
        reference = {
            role: torch.randn(p.logits_NV.shape, generator=generator, dtype=torch.float64)
            for role, p in sorted(positions.items())
        }
        f, r = positions["forget"], positions["retain"]
        forget = Positions(reference["forget"], f.labels_N, f.sequence_N, f.index_N, f.sequences)
        return objective(
            Step(
                f,
                r,
                None,
                Reference(reference["retain"], forget, None, reference["retain"], reference["forget"]),
            )
        )

    return compute


def gradients(lm, config, *, micro_batch, groups=GROUPS):
    lm.model.zero_grad()
    torch.manual_seed(3)
    terms = backward(lm, groups, objective_of(lm, config), micro_batch=micro_batch)
    return terms, {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}


def assert_same(a, b, rtol=1e-10):
    assert a[0] == pytest.approx(b[0], rel=1e-12)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("make", [gpt2, llama])
def test_micro_batches_change_neither_loss_nor_gradient(config, make):
    lm = make()
    whole = gradients(lm, config, micro_batch=None)
    for size in (1, 3, 5):
        assert_same(whole, gradients(lm, config, micro_batch=size))


def test_with_dropout_the_second_pass_draws_the_masks_of_the_first():
    """Micro-batches of one step against the same forwards in one graph, drawn in the same order."""
    lm = gpt2(dropout=0.3)
    lm.model.train()
    config = CONFIGS["mari pooled"]
    accumulated = gradients(lm, config, micro_batch=2)

    lm.model.zero_grad()
    torch.manual_seed(3)
    from mari_cli.models.trunk import States

    states = {}
    for role, group in GROUPS.items():
        parts = []
        for start in range(0, len(group), 2):
            batch = collate(group[start : start + 2])
            parts.append(supervised(batch, trunk(lm.model, batch.input_ids_BT)[0]))
        states[role] = States.concatenate(parts)
    terms = objective_of(lm, config)(states)
    terms["loss"].backward()
    together = {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}
    assert_same(accumulated, ({name: t.item() for name, t in terms.items()}, together))


def test_padding_changes_nothing():
    """One more, very long sequence pads all the others; its own labels are the only difference."""
    lm = gpt2()
    short = items(3, 1)
    alone = collate(short)
    long = Item(tuple([2] * 32), 3, 9)
    padded = collate([*short, long])
    with torch.no_grad():
        a = supervised(alone, trunk(lm.model, alone.input_ids_BT)[0])
        b = supervised(padded, trunk(lm.model, padded.input_ids_BT)[0])
    torch.testing.assert_close(a.h_ND, b.h_ND[: len(a.h_ND)], rtol=1e-12, atol=1e-12)
    assert a.labels_N.tolist() == b.labels_N[: len(a.labels_N)].tolist()


@pytest.mark.parametrize("config", [CONFIGS["mari pooled"], CONFIGS["mari token"], CONFIGS["kl_ga"]])
def test_the_order_in_the_batch_changes_nothing(config):
    """Without a reference that depends on the order: the retain term off."""
    config = type(config)(**{**vars(config), "retain_weight": 0.0})
    lm = gpt2()
    turned = {role: group[::-1] for role, group in GROUPS.items()}
    a, b = (gradients(lm, config, micro_batch=None, groups=groups) for groups in (GROUPS, turned))
    assert a[0]["loss"] == pytest.approx(b[0]["loss"], rel=1e-12)
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=1e-9, atol=1e-13)


def test_fine_tuning_averages_over_the_tokens_of_the_step_not_over_sequences():
    lm = gpt2()

    def objective(states):
        s = states["retain"]
        positions = Positions(head_of(lm.model)(s.h_ND), s.labels_N, s.sequence_N, s.index_N, s.sequences)
        return nll_objective(Step(retain=positions))

    for size in (None, 1):
        terms = backward(lm, {"retain": GROUPS["retain"]}, objective, micro_batch=size)
        batch = collate(GROUPS["retain"])
        logits = lm.model(input_ids=batch.input_ids_BT).logits
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten())
        assert terms["loss"] == pytest.approx(expected.item(), rel=1e-12)


def test_a_loss_that_is_not_finite_is_refused_before_any_gradient():
    lm = gpt2()

    def objective(states):
        return {"loss": states["retain"].h_ND.sum() * float("nan")}

    with pytest.raises(NonFiniteLoss, match="loss not finite"):
        backward(lm, {"retain": GROUPS["retain"]}, objective, micro_batch=None)
    assert all(p.grad is None for p in lm.model.parameters())


@pytest.mark.parametrize("make", [gpt2, llama])
def test_head_of_trunk_are_the_models_own_logits(make):
    check_parity(make().model)
