"""What is forecast is what is measured; and of all ways that fit the cheapest is taken."""

import re
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from allocated import allocator_peak, held
from transformers import AutoConfig, AutoModelForCausalLM

from mari_cli.config import Memory, OptimizerName, Packing, Parallel, UnlearnConfig
from mari_cli.data.tokenize import Item
from mari_cli.errors import UserError
from mari_cli.losses.mari import Estimator, MariConfig, PoolingScope
from mari_cli.losses.objective import FINE_TUNING, build
from mari_cli.losses.preference import NPOConfig
from mari_cli.measure import fake
from mari_cli.models.device import Compute
from mari_cli.models.load import LanguageModel, checkpoint_activations
from mari_cli.models.packing import Layout, choose_layout
from mari_cli.train import planner
from mari_cli.train import step as steps
from mari_cli.train.forecast import (
    GIB,
    Forecast,
    Settings,
    count_step,
    fake_reference,
    forecast,
    forecast_fine_tuning,
)
from mari_cli.train.optim import adamw
from mari_cli.train.step import Recalled, Reference, backward, operand_head
from mari_cli.train.workload import heaviest_step

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 2000,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1500, "n_positions": 256}
POOLED = MariConfig(name="mari", estimator=Estimator.pooled)
TOKEN = MariConfig(name="mari", estimator=Estimator.token)
CONTEXT = MariConfig(name="mari", estimator=Estimator.context)
NPO = NPOConfig(name="npo")


def language_model(architecture=LLAMA, dtype=torch.float32, device="cpu", **changes) -> LanguageModel:
    torch.manual_seed(0)
    values = {**architecture, **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    for module in model.modules():  # as mari does
        for name in ("p", "attn_dropout", "resid_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    compute = Compute(torch.device(device), dtype, "", as_on_cuda=device == "cuda")
    return LanguageModel(model.to(device), None, "tiny", 256, None, compute, Layout(False, ""))


def items(count: int, tokens: int, start: int = 1) -> list[Item]:
    return [Item((1,) * (tokens - i % 3), start, i) for i in range(count)]


GROUPS = {"forget": items(6, 96), "retain": items(6, 96)}


def reference(lm: LanguageModel, *, groups, objective) -> Reference:
    """Something of the right shapes."""
    needs = objective.needs
    head = operand_head(lm).frozen() if needs.beside_reference else None
    width = lm.model.get_output_embeddings().weight.shape[1]
    kind = lm.compute.dtype if lm.compute.dtype.itemsize == 2 else torch.float32

    def recall(role: str, at: range) -> Recalled:
        chosen = [groups[role][i] for i in at]
        size = sum(item.num_targets for item in chosen)
        states = log_p = supported = None
        if role in needs.beside_reference:
            states = torch.randn(size, width, dtype=kind, device=lm.device)
        if role in needs.reference_log_p:
            log_p = torch.full((len(chosen),), -20.0, dtype=torch.float64)
        if needs.stored_tokens is not None and role == "forget":
            ids = torch.arange(65, dtype=torch.int32, device=lm.device).repeat(size, 1)
            supported = ids, torch.full((size, 65), 1 / 80, device=lm.device)
        return Recalled(states, log_p, supported)

    return Reference(recall, head)


def measured(lm, groups, objective, config) -> int:
    """The peak of one whole training step, by the allocator's own account of it."""
    checkpoint_activations(lm.model, config.gradient_checkpointing)
    lm.model.train(config.gradient_checkpointing)
    recalled = reference(lm, groups=groups, objective=objective)
    optimizer = adamw(list(lm.model.parameters()), config)

    def step() -> None:
        backward(
            lm,
            groups,
            objective,
            reference=recalled,
            micro_batch=config.micro_batch,
            chunk=config.chunk,
            keep_logits=config.keep_logits,
        )
        optimizer.step()
        optimizer.zero_grad()

    step()  # from now on the optimiser's state is there
    state = [tensor for moments in optimizer.state.values() for tensor in moments.values()]
    head = [] if recalled.head is None else [recalled.head.weight_VD]
    return held([*lm.model.parameters(), *lm.model.buffers(), *state, *head]) + allocator_peak(step)


CASES = {
    "pooled": (language_model, POOLED, UnlearnConfig(chunk=128, keep_logits=False)),
    "pooled, logits kept": (language_model, POOLED, UnlearnConfig(chunk=128)),
    "checkpointed": (language_model, TOKEN, UnlearnConfig(chunk=64, gradient_checkpointing=True)),
    "two phases": (language_model, POOLED, UnlearnConfig(chunk=64, micro_batch=2)),
    "context, untied": (
        partial(language_model, tie_word_embeddings=False),
        CONTEXT,
        UnlearnConfig(chunk=128),
    ),
    "gpt2, npo": (partial(language_model, GPT2), NPO, UnlearnConfig(chunk=128, micro_batch=3)),
    "bfloat16": (partial(language_model, dtype=torch.bfloat16), TOKEN, UnlearnConfig(chunk=128)),
}


@cache
def forecast_of(case: str) -> Forecast:
    make, loss, config = CASES[case]
    return forecast(make(), GROUPS, build(loss), Settings.of(config), config)


@pytest.mark.parametrize("case", CASES)
def test_the_forecast_is_what_the_allocator_says_within_5_percent(case):
    make, loss, config = CASES[case]
    found = forecast_of(case)
    assert sum(found.parts.values()) == found.peak
    assert found.peak == pytest.approx(measured(make(), GROUPS, build(loss), config), rel=0.05)


def mixed(count: int, longest: int = 139) -> list[Item]:
    sizes = torch.randint(25, longest + 1, (count,), generator=torch.Generator().manual_seed(count)).tolist()
    return [Item((1,) * size, 10, i) for i, size in enumerate(sizes)]


MIXED = {"forget": mixed(7), "retain": mixed(8)}
FEW = {"forget": mixed(4), "retain": mixed(5)}
"""Of several micro-batches and several chunks, too."""


def packed(**changes) -> LanguageModel:
    lm = language_model(**changes)
    return replace(lm, layout=choose_layout(lm.model, lm.compute, Packing.always))


@pytest.mark.parametrize(
    ("make", "loss", "config"),
    [
        (packed, POOLED, UnlearnConfig(chunk=128)),
        (packed, TOKEN, UnlearnConfig(chunk=64, gradient_checkpointing=True)),
        (partial(packed, architecture=GPT2), NPO, UnlearnConfig(chunk=128, micro_batch=3)),
        (partial(packed, dtype=torch.bfloat16), TOKEN, UnlearnConfig(chunk=128)),
    ],
    ids=["pooled", "checkpointed", "gpt2, npo", "bfloat16"],
)
def test_the_forecast_of_a_packed_step_is_what_the_allocator_says_within_5_percent(make, loss, config):
    lm, objective = make(), build(loss)
    found = forecast(lm, MIXED, objective, Settings.of(config), config)
    assert found.peak == pytest.approx(measured(lm, MIXED, objective, config), rel=0.05)
    padded = forecast(replace(lm, layout=Layout(False, "")), MIXED, objective, Settings.of(config), config)
    assert found.peak < 0.9 * padded.peak
    assert found.flops < 0.9 * padded.flops


def test_as_on_a_gpu_one_kernel_attends_over_all_documents_and_holds_its_output_once():
    lm = packed(dtype=torch.bfloat16, num_hidden_layers=2)
    gpu = replace(lm, compute=Compute(torch.device("cpu"), torch.bfloat16, "", as_on_cuda=True))
    config = UnlearnConfig(chunk=128)
    on_gpu, on_cpu = (
        forecast(where, MIXED, build(TOKEN), Settings.of(config), config) for where in (gpu, lm)
    )
    assert on_gpu.flops == on_cpu.flops
    assert on_gpu.parts["activations"] < on_cpu.parts["activations"]


@pytest.mark.parametrize("case", CASES)
def test_a_fake_step_is_counted_as_a_real_one(case):
    make, loss, config = CASES[case]
    lm, objective = make(), build(loss)
    unreal = forecast_of(case)
    told = partial(reference, groups=GROUPS, objective=objective)
    real = count_step(lm, GROUPS, objective, Settings.of(config), config, reference=told)
    assert unreal.flops == real.flops
    assert unreal.peak == pytest.approx(real.peak, rel=0.01)
    assert unreal.parts["activations"] == pytest.approx(real.parts["activations"], rel=0.02, abs=4096)


@pytest.mark.parametrize("case", [*CASES, "packed"])
def test_what_is_remembered_of_operators_changes_no_figure(case):
    in_a_row = partial(packed, dtype=torch.bfloat16), TOKEN, UnlearnConfig(chunk=64)
    make, loss, config = CASES.get(case, in_a_row)
    lm, objective = make(), build(loss)
    found = forecast(lm, FEW, objective, Settings.of(config), config)
    world = fake.mode()
    blank = replace(lm, model=fake.twin(lm.model, world))
    told = partial(fake_reference, groups=FEW, objective=objective, world=world)
    assert found == count_step(blank, FEW, objective, Settings.of(config), config, reference=told)


def test_a_forecast_leaves_the_model_as_it_was():
    lm = language_model()
    lm.model.eval()
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    config = UnlearnConfig(gradient_checkpointing=True)
    forecast(lm, GROUPS, build(POOLED), Settings.of(config), config)
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.model.state_dict().items())
    assert not lm.model.training
    assert all(p.grad is None for p in lm.model.parameters())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in lm.model.modules())


def test_the_loss_costs_little_beside_fine_tuning_on_the_same_tokens():
    lm = language_model(vocab_size=20000)
    config = UnlearnConfig(chunk=64, keep_logits=False)
    settings = Settings.of(config)
    own = forecast_fine_tuning(lm, GROUPS, settings, config)
    head = 2 * 20000 * 64 * sum(item.num_targets for of_role in GROUPS.values() for item in of_role)
    pooled = forecast(lm, GROUPS, build(POOLED), settings, config)
    token = forecast(lm, GROUPS, build(TOKEN), settings, config)
    # pooled: every logit twice, and the reference's on the retain half; token: only these
    assert pooled.flops - own.flops == pytest.approx(1.5 * head, rel=0.1)
    assert token.flops - own.flops == pytest.approx(0.5 * head, rel=0.3)


# -- the choice ----------------------------------------------------------------------------------------------


def tried(loss, limit, config=None, groups=GROUPS, lm=None):
    config = config or UnlearnConfig(chunk=128)
    return planner.choose(lm or language_model(), groups, build(loss), config, limit=limit)


def test_without_a_limit_nothing_is_changed():
    choice = tried(POOLED, None)
    assert choice.chosen is choice.configured
    assert len(choice.tried) == 1


def test_a_pooled_loss_checkpoints_before_it_runs_twice_over_the_backbone():
    config = UnlearnConfig(chunk=128, keep_logits=False)
    groups = {"forget": items(4, 60), "retain": items(4, 60)}
    free, lm = tried(POOLED, None, config, groups).chosen, language_model()
    first = tried(POOLED, int(0.8 * free.needed), config, groups, lm).chosen
    assert first.settings == Settings.of(replace(config, gradient_checkpointing=True))
    second = tried(POOLED, int(0.95 * first.needed), config, groups, lm).chosen
    assert second.settings.micro_batch is not None
    assert free.flops < first.flops < second.flops


def test_a_loss_that_is_a_sum_takes_smaller_micro_batches_which_cost_nothing():
    free = tried(NPO, None).chosen
    chosen = tried(NPO, int(0.8 * free.needed)).chosen
    assert chosen.settings.micro_batch == 3
    assert not chosen.settings.gradient_checkpointing
    assert chosen.flops == pytest.approx(free.flops, rel=0.01)


def test_smaller_chunks_of_logits_come_first_where_they_are_enough():
    lm = language_model(num_hidden_layers=1, vocab_size=8000)
    config = UnlearnConfig(chunk=1200)
    free = tried(TOKEN, None, config, lm=lm).chosen
    chosen = tried(TOKEN, int(0.8 * free.needed), config, lm=lm).chosen
    assert chosen.settings == Settings(chunk=planner.SMALL_CHUNK)


def test_where_micro_batches_are_part_of_the_loss_they_stay():
    loss = replace(TOKEN, pooling_scope=PoolingScope.micro)
    config = UnlearnConfig(chunk=128, micro_batch=6)
    assert {way.micro_batch for way in planner.ways(language_model(), 6, build(loss), config)} == {6}


def test_with_room_for_all_logits_they_are_made_once(monkeypatch):
    monkeypatch.setattr(planner, "KEPT_BYTES", 2**10)
    monkeypatch.setattr(steps, "KEPT_BYTES", 2**10)
    choice = tried(POOLED, 64 * GIB, UnlearnConfig(chunk=128))
    assert choice.chosen.settings == Settings(chunk=128, keep_logits=True)
    assert choice.chosen.flops < choice.configured.flops


def test_logits_are_made_again_before_anything_else_is():
    config = UnlearnConfig(chunk=128)
    free = tried(POOLED, None, config).chosen
    chosen = tried(POOLED, int(0.95 * free.needed), config).chosen
    assert chosen.settings == Settings(chunk=128, keep_logits=False)
    assert chosen.flops > free.flops


def test_what_cannot_fit_is_refused_with_what_comes_nearest():
    config = UnlearnConfig(chunk=128)
    limit = 2**20
    choice = tried(POOLED, limit, config)
    assert choice.chosen is None
    with pytest.raises(
        UserError, match=r"does not fit 1\.0 MiB.*gradient_checkpointing.*whatever the batch"
    ) as refused:
        planner.require(choice, config, limit=limit)
    assert refused.value.hint == "no other setting makes it fit; a model with fewer parameters would"


@pytest.fixture(scope="module")
def each_step_once():
    """A step that several limits ask for is forecast once: a forecast looks at no limit, nor at `memory`."""
    known = {}

    def once(lm, groups, objective, settings, config, **more):
        trained = tuple(n for n, p in lm.model.named_parameters() if p.requires_grad)
        key = (trained, settings, repr(replace(config, memory=Memory.auto)), *more.items())
        if key not in known:
            known[key] = forecast(lm, groups, objective, settings, config, **more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "forecast", once)
        yield


@pytest.mark.usefixtures("each_step_once")
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("memory", [Memory.auto, Memory.as_configured])
def test_what_a_refusal_offers_fits_when_it_is_planned(share, memory):
    """Each offer is planned again as if a user had typed it."""
    config = UnlearnConfig(chunk=128, memory=memory, gradient_checkpointing=True, keep_logits=False)
    lm, groups = language_model(), {role: items(4, 30) for role in ("forget", "retain")}
    limit = int(share * planner.choose(lm, groups, build(TOKEN), config, limit=None).chosen.needed)
    choice = planner.choose(lm, groups, build(TOKEN), config, limit=limit)
    if choice.chosen is not None and memory is Memory.auto:
        return
    with pytest.raises(UserError) as refused:
        planner.require(choice, config, limit=limit)
    ways = re.findall(r"`([^`]*)` needs", refused.value.hint)
    assert ways or "no other setting makes it fit" in refused.value.hint
    for words in ways:
        typed = dict(part.split("=") for part in words.split() if "=" in part)
        with_it = replace(
            config,
            memory=Memory.auto,
            parallel=Parallel(typed.get("train.parallel", "ddp")),
            optimizer=OptimizerName(typed.get("train.optimizer", "adamw")),
        )
        if "model.lora.rank" in typed:
            continue  # its own test
        processes = int(words.partition("--nproc ")[2].split(" ")[0] or 1)
        again = planner.choose(lm, groups, build(TOKEN), with_it, limit=limit, processes=processes)
        assert again.chosen is not None, words


def test_adapters_are_offered_where_a_step_with_them_fits():
    config = UnlearnConfig(chunk=128)
    lm, groups = language_model(), {role: items(4, 30) for role in ("forget", "retain")}
    adapted = planner._with_adapters(lm, 16)
    needed = planner.choose(adapted, groups, build(TOKEN), config, limit=None).chosen.needed
    assert not any(p.requires_grad for n, p in adapted.model.named_parameters() if "lora_" not in n)
    assert needed < planner.choose(lm, groups, build(TOKEN), config, limit=None).chosen.needed


def test_settings_that_are_not_to_be_changed_are_refused_with_those_that_fit():
    config = UnlearnConfig(chunk=128, keep_logits=False, memory=Memory.as_configured)
    limit = int(0.8 * tried(POOLED, None, config).chosen.needed)
    choice = tried(POOLED, limit, config)
    with pytest.raises(UserError, match="a step as configured needs") as refused:
        planner.require(choice, config, limit=limit)
    assert "`train.gradient_checkpointing=true` needs" in refused.value.hint
    assert "`--nproc 2` needs" in refused.value.hint


def test_of_several_processes_more_are_named_of_those_that_share_evenly():
    config = UnlearnConfig(chunk=128, parallel=Parallel.fsdp)
    lm, groups = language_model(num_hidden_layers=4), {role: items(4, 30) for role in ("forget", "retain")}
    leanest = replace(config, micro_batch=1, gradient_checkpointing=True, keep_logits=False)
    of_four = planner.choose(lm, groups, build(TOKEN), leanest, limit=None, processes=4).chosen
    limit = int(1.05 * of_four.needed)
    choice = planner.choose(lm, groups, build(TOKEN), config, limit=limit, processes=2)
    with pytest.raises(UserError) as refused:
        planner.require(choice, config, limit=limit)
    assert "`--nproc 4 train.parallel=fsdp`" in refused.value.hint
    assert "adamw_8bit" not in refused.value.hint  # which takes no shards
    assert "--nproc 2 " not in refused.value.hint


def test_every_way_gives_the_same_gradient():
    lm = language_model()
    lm.model.double()
    config, objective = UnlearnConfig(chunk=50), build(TOKEN)
    torch.manual_seed(1)
    whole = reference(lm, groups=GROUPS, objective=objective)
    states = {
        role: torch.randn(sum(i.num_targets for i in GROUPS[role]), 64, dtype=torch.float64)
        for role in GROUPS
    }
    counts = {role: [i.num_targets for i in GROUPS[role]] for role in GROUPS}

    def recall(role: str, at: range) -> Recalled:
        parts = states[role].split(counts[role])
        return Recalled(torch.cat([parts[i] for i in at]) if role == "retain" else None)

    def gradient(settings: Settings) -> torch.Tensor:
        lm.model.zero_grad()
        checkpoint_activations(lm.model, settings.gradient_checkpointing)
        lm.model.train(settings.gradient_checkpointing)
        how = {"micro_batch": settings.micro_batch, "chunk": settings.chunk}
        backward(lm, GROUPS, objective, reference=Reference(recall, whole.head), **how)
        return torch.cat([p.grad.flatten() for p in lm.model.parameters()])

    expected = gradient(Settings.of(config))
    for settings in planner.ways(lm, 6, objective, config):
        assert torch.allclose(
            gradient(settings), expected, rtol=0, atol=1e-12 + 1e-9 * float(expected.abs().max())
        )


def test_the_heaviest_step_counts_its_padding():
    steps = [
        {"retain": items(2, 10)},
        {"retain": [*items(1, 12), *items(1, 3)]},
        {"retain": items(2, 11)},
    ]
    assert heaviest_step(lambda step: steps[step], 3, packed=False) is steps[1]
    assert heaviest_step(lambda step: steps[step], 3, packed=True) is steps[2]


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_forecast_is_what_a_gpu_takes_within_10_percent(checkpointing):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 32000}
    lm = language_model(dtype=torch.bfloat16, device="cuda", **sizes)
    groups = {role: [Item((1,) * 256, 1, i) for i in range(8)] for role in ("forget", "retain")}
    config = UnlearnConfig(gradient_checkpointing=checkpointing)
    lm.model.train(checkpointing)
    if checkpointing:
        checkpoint_activations(lm.model)
    for objective in (build(POOLED), build(TOKEN), FINE_TUNING):
        seen = groups if objective is not FINE_TUNING else {"retain": groups["retain"]}
        planned = forecast(lm, seen, objective, Settings.of(config), config, optimizer=False)
        told = reference(lm, groups=seen, objective=objective)
        for _ in range(2):
            lm.model.zero_grad(set_to_none=True)
            torch.cuda.reset_peak_memory_stats()
            backward(lm, seen, objective, reference=told)
        assert planned.peak == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
        del told
