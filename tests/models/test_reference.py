"""The reference is remembered, not kept: its states are a forward's, and no second model is ever run."""

import json
import math

import pytest
import torch
from tiny import TINY
from tiny_models import GPT2, LLAMA, built

from mari_cli import launch
from mari_cli.config import UnlearnRun
from mari_cli.data.batches import collate
from mari_cli.data.tokenize import Item
from mari_cli.losses.likelihood import kl_from_reference
from mari_cli.losses.objective import build
from mari_cli.models.device import choose_compute
from mari_cli.models.head import head_of
from mari_cli.models.load import load_model
from mari_cli.models.reference import reference_states
from mari_cli.models.trunk import supervised, trunk
from mari_cli.progress import silent
from mari_cli.runs import Run
from mari_cli.tasks.forgetting import alternative_items, context_layer, forget
from mari_cli.tasks.recording import Recording
from mari_cli.tasks.setting import prepare, tokenize_corpora
from mari_cli.tracking import NoTracker


def items() -> list[Item]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(4, 40, (11,), generator=generator).tolist()
    return [
        Item(tuple(torch.randint(2, 250, (n,), generator=generator).tolist()), 1 + i % 3, i)
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_reference_states_are_a_forwards_whatever_the_batch_they_were_computed_in(architecture, batch_size):
    lm = built(architecture)
    states = reference_states(lm, items(), layer=1, batch_size=batch_size, track=silent, name="")
    assert len(states.last) == len(states.layer) == len(items())
    for item, last, layer in zip(items(), states.last, states.layer, strict=True):
        with torch.no_grad():
            fresh, fresh_layer = trunk(lm.model, torch.tensor([item.input_ids]), layer=1)
        asked = slice(item.supervised_from - 1, -1)
        assert last.dtype == torch.float32
        torch.testing.assert_close(last, fresh[0, asked], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer, fresh_layer[0, asked], rtol=1e-5, atol=1e-5)


def test_reference_states_do_not_follow_the_model_when_it_changes():
    lm = built()
    states = reference_states(lm, items(), layer=None, batch_size=4, track=silent, name="")
    before = [tensor.clone() for tensor in states.last]
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(1)
    assert states.layer == []
    assert all(torch.equal(a, b) for a, b in zip(states.last, before, strict=True))


STEPS = 3


def unlearned(loss: str, tmp_path, *overrides: str) -> tuple[list[tuple[int, bool]], list[dict]]:
    """Unlearn an untrained model for some steps: (model, with a graph?) of every forward, and the log."""
    arguments = [*TINY, f"loss={loss}", f"train.steps={STEPS}", f"train.evaluate_every={STEPS}", *overrides]
    experiment = launch.Experiment(
        "unlearn", [*arguments, f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"]
    )
    config = launch.parse(launch.compose(experiment))
    assert isinstance(config, UnlearnRun)
    compute = choose_compute(config.train.device, config.train.precision)
    setting = prepare(config, compute)
    lm = load_model(config.model, setting.tokenizer, compute, seed=0)
    corpora = tokenize_corpora(config, setting, lm)
    objective, needs = build(config.loss)
    alternatives = alternative_items(config, lm, corpora["forget"]) if needs.alternative else []
    layer = context_layer(config, lm) if needs.context_layer else None
    record = Recording(Run.create(tmp_path / "run", "seed: 0\n", command=[]), NoTracker(), 0.0)

    forwards: list[tuple[int, bool]] = []
    trunk_type = type(lm.model.base_model)

    def note(module, *_) -> None:
        if isinstance(module, trunk_type):
            forwards.append((id(module), torch.is_grad_enabled()))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)  # of every module there is
    try:
        forget(config, lm, corpora, alternatives, objective, needs, layer, record)
    finally:
        hook.remove()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    return forwards, [row for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("loss", "roles"),
    [
        ("mari", 2),
        ("mari_context", 2),
        ("grad_ascent", 1),
        ("grad_diff", 2),
        ("kl_ga", 2),
        ("npo", 2),
        ("dpo", 3),
    ],
)
def test_a_step_runs_one_model_once_for_each_role(loss, roles, tmp_path):
    forwards, rows = unlearned(loss, tmp_path)
    assert len(rows) == STEPS
    assert len({model for model, _ in forwards}) == 1
    with_graph = [graph for _, graph in forwards]
    assert with_graph.count(True) == STEPS * roles
    first = with_graph.index(True)
    assert all(with_graph[first : first + STEPS * roles])  # nothing else ran in between


@pytest.mark.parametrize("loss", ["mari", "mari_pooled", "mari_context", "kl_ga", "npo"])
def test_the_first_step_finds_no_distance_to_the_reference(loss, tmp_path):
    """None beyond the rounding of float32, which may be of either sign."""
    _, rows = unlearned(loss, tmp_path, "metrics.batch_size=5", "train.lr=1e-3")
    assert abs(rows[0]["retain_kl"]) < 1e-7
    assert rows[-1]["retain_kl"] > 1e-6
    if loss == "npo":
        assert rows[0]["npo"] == pytest.approx(2 * math.log(2) / 0.1, rel=1e-5)


def test_the_kl_to_the_reference_is_nothing_before_the_first_step():
    """Summed in float64, and though the reference was asked in other batches than a step's."""
    lm = built(LLAMA)
    states = reference_states(lm, items(), layer=None, batch_size=3, track=silent, name="")
    head, step = head_of(lm.model).frozen(), [4, 0, 9, 7]
    batch = collate([items()[i] for i in step])
    h_ND = supervised(batch, trunk(lm.model, batch.input_ids_BT)[0]).h_ND
    kl_N = kl_from_reference(
        head_of(lm.model)(h_ND.double()), head(states.gather(states.last, step, lm.device).double())
    )
    assert len(kl_N) == sum(items()[i].num_targets for i in step)
    assert kl_N.abs().max() < 1e-9
