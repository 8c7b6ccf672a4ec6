"""A loss in anybody's training loop: the loss and gradient of full logits, and the README's example."""

import copy
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
)

from mari_cli.errors import UserError
from mari_cli.lm_head import check_parity
from mari_cli.losses.ascent import KLGA, GradDiff
from mari_cli.losses.call import unlearning_loss
from mari_cli.losses.ceu import CEUConfig
from mari_cli.losses.mari import Estimator, GradientThrough, MariConfig
from mari_cli.losses.pdu import PDUConfig
from mari_cli.losses.preference import DPOConfig, NPOConfig
from mari_cli.losses.repselect import RepSelectConfig
from mari_cli.losses.rmu import RMUConfig
from mari_cli.losses.support import SupportConfig
from mari_cli.losses.task_vector import TaskVectorConfig
from mari_cli.losses.undial import UndialConfig
from mari_cli.losses.wga import WGAConfig

README = Path(__file__).parents[2] / "README.md"
V = 29


def model(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "vocab_size": V}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)).eval()


def batch(seed: int, rows: int = 3) -> dict[str, torch.Tensor]:
    """Prompts of 3 tokens, answers of 2 to 6, padded on the right."""
    ids = torch.randint(2, V, (rows, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(9) < torch.arange(5, 5 + rows)[:, None]
    labels = torch.where(mask & (torch.arange(9) >= 3), ids, -100)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def log_p(lm, of):
    """[S]: of each answer, from full logits."""
    logits = lm(input_ids=of["input_ids"], attention_mask=of["attention_mask"]).logits[:, :-1]
    nll = cross_entropy(logits.transpose(1, 2), of["labels"][:, 1:], reduction="none", ignore_index=-100)
    return -nll.sum(-1)


def gradient_of(loss, lm):
    gradients = torch.autograd.grad(loss, list(lm.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in gradients])


def test_padding_on_the_left_changes_nothing():
    lm, right = model().double(), batch(1)
    lengths = right["attention_mask"].sum(1)
    left = {
        name: torch.stack([row.roll(9 - int(n)) for row, n in zip(rows, lengths, strict=True)])
        for name, rows in right.items()
    }
    config = WGAConfig(name="wga")
    losses = [unlearning_loss(config, lm, of, batch(2)) for of in (right, left)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(*(gradient_of(loss, lm) for loss in losses), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_adapters_of_peft_are_trained_and_the_rest_is_not(saved):
    adapters = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=saved)
    lm, before, forget, retain = get_peft_model(model().double(), adapters), model(5), batch(1), batch(2)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    loss = unlearning_loss(GradDiff(name="grad_diff"), lm, forget, retain, reference=before)
    count = (retain["labels"][:, 1:] != -100).sum()
    forgotten = (forget["labels"][:, 1:] != -100).sum()
    expected = log_p(lm, forget).sum() / forgotten - log_p(lm, retain).sum() / count
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    found, wanted = (torch.autograd.grad(value, trained) for value in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_what_the_head_does_not_hold_and_labels_that_do_not_fit_are_refused():
    of_head = get_peft_model(model(), LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="adapters of the language-model head"):
        unlearning_loss(GradDiff(name="grad_diff"), of_head, batch(1), batch(2))
    cut = {**batch(1), "labels": batch(1)["labels"][:, :-1]}
    for wrong in (cut, {**batch(1), "labels": batch(1)["labels"].double()}):
        with pytest.raises(ValueError, match="labels of `forget` must be whole numbers"):
            unlearning_loss(GradDiff(name="grad_diff"), model(), wrong, batch(2))


def test_it_is_the_loss_of_full_logits_and_so_is_its_gradient():
    lm, before, forget, retain = model().double(), model(5).double(), batch(1), batch(2)
    count = (retain["labels"][:, 1:] != -100).sum()
    log_ratio = log_p(lm, forget) - log_p(before, forget).detach()
    expected = {
        "grad_diff": log_p(lm, forget).sum() / count - log_p(lm, retain).sum() / count,
        "npo": -(2 / 0.5) * logsigmoid(-0.5 * log_ratio).mean(),
    }
    configs = {
        "grad_diff": GradDiff(name="grad_diff"),
        "npo": NPOConfig(name="npo", beta=0.5, retain_loss="none"),
    }
    for name, config in configs.items():
        found = unlearning_loss(config, lm, forget, retain, reference=before, chunk=4)
        assert found.item() == pytest.approx(expected[name].item(), rel=1e-12)
        lm.zero_grad()
        (3 * found).backward()
        of_parameters = torch.cat([p.grad.flatten() for p in lm.parameters()])
        torch.testing.assert_close(of_parameters, 3 * gradient_of(expected[name], lm), rtol=1e-9, atol=1e-12)


def test_logits_are_read_where_they_predict_a_target_and_nowhere_in_prompts_and_padding():
    """Not at the targets themselves, one place further on, where other code has its mask."""
    lm, before, forget, retain = model().double(), model(5).double(), batch(1), batch(2)
    at = forget["labels"][:, 1:] != -100
    labels = forget["labels"][:, 1:][at]

    def z_NV(of):
        given = {name: forget[name] for name in ("input_ids", "attention_mask")}
        return of(**given).logits[:, :-1][at]

    own, theirs = z_NV(lm), z_NV(before).detach()
    lowered = theirs - 2 * torch.nn.functional.one_hot(labels, V)
    p_N = own.softmax(-1).gather(1, labels[:, None])[:, 0]
    expected = [
        (PDUConfig(name="pdu", retain_weight=0), (own.max(-1).values - own.mean(-1)).square().mean()),
        (UndialConfig(name="undial", strength=2.0), cross_entropy(own, lowered.softmax(-1))),
        (WGAConfig(name="wga", retain_loss="none"), (p_N.detach() * p_N.log()).mean()),
        (CEUConfig(name="ceu", skip_first=False), -torch.log1p(-p_N).mean()),
    ]
    for config, value in expected:
        found = unlearning_loss(config, lm, forget, retain, reference=before, chunk=4)
        assert found.item() == pytest.approx(value.item(), rel=1e-10), config.kind
        gradients = gradient_of(found, lm), gradient_of(value, lm)
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "config", [MariConfig(name="mari"), KLGA(name="kl_ga"), RMUConfig(name="rmu"), DPOConfig(name="dpo")]
)
def test_any_loss_of_a_step_can_be_called(config):
    lm = model()
    found = unlearning_loss(config, lm, batch(1), batch(2), reference=model(5), alternative=batch(3), chunk=4)
    found.backward()
    assert found.isfinite()
    assert sum(p.grad.norm() for p in lm.parameters() if p.grad is not None) > 0


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="loss=npo needs `reference`"):
        unlearning_loss(NPOConfig(name="npo"), model(), batch(1), batch(2))
    with pytest.raises(ValueError, match="loss=grad_diff needs `retain`"):
        unlearning_loss(GradDiff(name="grad_diff"), model(), batch(1))
    context = MariConfig(name="mari", estimator=Estimator.context)
    with pytest.raises(ValueError, match="only `mari unlearn` makes"):
        unlearning_loss(context, model(), batch(1), batch(2), reference=model(5))


@pytest.mark.parametrize(
    ("config", "alternative", "vocabulary", "told"),
    [
        (TaskVectorConfig(name="task_vector"), None, V, "as only `mari unlearn` does"),
        (RepSelectConfig(name="repselect"), None, V, "as only `mari unlearn` does"),
        (NPOConfig(name="npo"), None, V + 3, "another vocabulary"),
        (DPOConfig(name="dpo"), batch(3, 2), V, "as many sequences"),
    ],
)
def test_what_would_be_another_method_is_refused(config, alternative, vocabulary, told):
    """A step of a task vector alone would teach the forget data."""
    before = model(5)
    before.resize_token_embeddings(vocabulary)
    with pytest.raises(ValueError, match=told):
        unlearning_loss(config, model(), batch(1), batch(2), reference=before, alternative=alternative)


def test_a_compiled_model_is_taken_as_it_is():
    lm = model().train()
    found = unlearning_loss(GradDiff(name="grad_diff"), torch.compile(lm), batch(1), batch(2))
    assert found.isfinite()


def test_a_batch_without_labels_and_a_sequence_without_any_are_refused():
    bare = {name: value for name, value in batch(1).items() if name != "labels"}
    with pytest.raises(ValueError, match="batch `forget` has no `labels`"):
        unlearning_loss(NPOConfig(name="npo"), model(), bare, batch(2), reference=model(1))
    with pytest.raises(ValueError, match="batch `retain` is empty"):
        unlearning_loss(KLGA(name="kl_ga"), model(), batch(1), batch(2, 0), reference=model(1))
    cut = batch(2)
    cut["labels"][1] = -100
    with pytest.raises(ValueError, match="sequence 1 of `retain` has no label"):
        unlearning_loss(NPOConfig(name="npo"), model(), batch(1), cut, reference=model(1))


@pytest.mark.parametrize(
    ("name", "token", "told"),
    [
        ("labels", V, f"the label {V} of `retain` is no token: the model has {V}"),
        ("labels", -7, "the label -7 of `retain` is no token"),
        ("input_ids", V + 50_000, f"the input {V + 50_000} of `retain` is no token"),
        ("input_ids", -100, "the input -100 of `retain` is no token"),
    ],
)
def test_a_token_that_the_model_does_not_know_is_refused(name, token, told):
    """As of a batch that another tokenizer wrote, or one padded with -100."""
    strange = batch(2)
    strange[name][1, 4] = token
    with pytest.raises(ValueError, match=told):
        unlearning_loss(GradDiff(name="grad_diff"), model(), batch(1), strange)


@pytest.mark.parametrize("chunk", [0, -512])
def test_a_chunk_of_no_position_is_refused(chunk):
    with pytest.raises(ValueError, match=f"`chunk` must be at least 1, got {chunk}"):
        unlearning_loss(GradDiff(name="grad_diff"), model(), batch(1), batch(2), chunk=chunk)


def test_the_first_check_of_a_model_seeds_no_generator(monkeypatch):
    """`torch.manual_seed` would seed every CUDA device, and one of them is restored."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("a generator of the loop is seeded"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", torch.manual_seed)
    check_parity(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16)).train())  # dropout and all


def test_a_model_whose_logits_are_not_its_heads_is_refused_and_dropout_is_no_reason():
    own = BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(UserError, match="logits of `BertLMHeadModel` are not its head"):
        unlearning_loss(WGAConfig(name="wga"), BertLMHeadModel(own), batch(1), batch(2))
    with pytest.raises(ValueError, match="`Linear` is neither a model of transformers nor one of peft"):
        unlearning_loss(WGAConfig(name="wga"), torch.nn.Linear(2, 2), batch(1), batch(2))
    for lm in (model().train(), model().bfloat16()):
        state = torch.random.get_rng_state()
        check_parity(lm)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert unlearning_loss(WGAConfig(name="wga"), lm, batch(1), batch(2)).isfinite()


FAMILIES = {
    "llama4_text": {"intermediate_size_mlp": 16, "num_local_experts": 2},  # is its own `base_model`
    "falcon_h1": {
        "lm_head_multiplier": 0.25,
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
    },
    "recurrent_gemma": {
        "logits_soft_cap": 0.1,
        "lru_width": 16,
        "block_types": ["recurrent", "attention"],
        "attention_window_size": 8,
    },
    "gemma2": {"final_logit_softcapping": 0.1},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1, "output_router_logits": True},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_does_beside_its_head_is_followed(family):
    """It scales or caps its logits, calls its backbone by another name, or has a loss of its own."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 16, "head_dim": 8, "vocab_size": V, "max_position_embeddings": 32}
    config = AutoConfig.for_model(family, **sizes, **FAMILIES[family])
    lm = AutoModelForCausalLM.from_config(config).eval()
    found = unlearning_loss(GradDiff(name="grad_diff"), lm, batch(1), batch(2))
    nll = [-log_p(lm, of).sum() / (of["labels"][:, 1:] != -100).sum() for of in (batch(1), batch(2))]
    torch.testing.assert_close(found, nll[1] - nll[0])
    parameters = [p for p in lm.parameters() if p.requires_grad]
    slopes = [torch.autograd.grad(of, parameters, allow_unused=True) for of in (found, nll[1] - nll[0])]
    for one, other in zip(*slopes, strict=True):
        if other is not None or one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("estimator", list(Estimator))
def test_a_word_chooses_what_its_member_chooses(estimator):
    found = MariConfig(name="mari", estimator=str(estimator))
    assert found == MariConfig(name="mari", estimator=estimator)
    assert found.estimator is estimator
    assert MariConfig(name="mari", gradient_through="both").gradient_through is GradientThrough.both


def test_a_word_that_names_no_member_is_refused():
    with pytest.raises(
        ValueError, match="retain_loss must be one of none, nll, kl, jensen_shannon, states, got klll"
    ):
        NPOConfig(name="npo", retain_loss="klll")
    with pytest.raises(ValueError, match=r"loss\.support\.source must be one of .*, got twin$"):
        SupportConfig(source="twin")


def unlearner(folder: Path, lm, config, **settings):
    """The README's Trainer, on two pairs."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 25
    there: dict = {}
    exec(example, there)
    plain = {"save_strategy": "no", "per_device_train_batch_size": 1, "report_to": [], "use_cpu": True}
    args = TrainingArguments(
        str(folder), remove_unused_columns=False, label_names=["forget", "retain"], **plain, **settings
    )
    pairs = [{"forget": batch(seed), "retain": batch(seed + 1)} for seed in (1, 3)]
    return there["Unlearner"](
        model=lm,
        args=args,
        train_dataset=pairs,
        eval_dataset=pairs[:1],
        data_collator=lambda rows: rows[0],
        loss=config,
    )


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"bf16": True}])
def test_a_step_of_the_trainer_is_the_mean_of_its_batches(tmp_path, settings):
    """Accumulated over two batches, whatever else the Trainer does; in bfloat16 where that is asked for."""
    torch.manual_seed(0)
    lm = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_head=2,
            n_embd=16,
            n_positions=16,
            vocab_size=V,
            embd_pdrop=0,
            attn_pdrop=0,
            resid_pdrop=0,
        )
    )
    config, start = GradDiff(name="grad_diff"), copy.deepcopy(lm)
    sgd = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    trainer = unlearner(tmp_path, lm, config, gradient_accumulation_steps=2, max_steps=1, **sgd, **settings)
    trainer.train()
    for pair in trainer.train_dataset:
        (unlearning_loss(config, start, pair["forget"], pair["retain"]) / 2).backward()
    pairs = zip(lm.parameters(), start.parameters(), strict=True)
    gap = max((now - (then - 0.1 * then.grad)).abs().max().item() for now, then in pairs)
    assert (1e-5 < gap < 1e-2) if "bf16" in settings else gap < 1e-7


def test_the_readmes_example_trains_with_the_trainer_of_transformers(tmp_path):
    lm, config = model(), NPOConfig(name="npo")
    before = log_p(lm, batch(1)).sum().item()
    trainer = unlearner(tmp_path, lm, config, max_steps=3, learning_rate=1e-2)
    at_start = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < at_start
    assert log_p(lm.eval(), batch(1)).sum().item() < before - 0.1
