"""The reference is remembered, not kept: its states are a forward's, and no second model is ever run."""

import json
import math
from functools import partial

import pytest
import torch
from naive import neighbour_weights, token_nll
from tiny import TINY
from tiny_models import LLAMA, built

from mari_cli import launch
from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import head_of
from mari_cli.losses.objective import build
from mari_cli.models.backbone import run_backbone
from mari_cli.models.context import context_targets
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import load_model
from mari_cli.models.reference import store_reference
from mari_cli.storage.run import Run
from mari_cli.tasks.alternatives import alternative_items
from mari_cli.tasks.forgetting import draws_of, forgetting_job
from mari_cli.tasks.manifest import NOWHERE
from mari_cli.tasks.record import RunRecord
from mari_cli.tasks.setting import read_setting, tokenize_corpora
from mari_cli.tracking import Tracker
from mari_cli.train.loop import fit


def items() -> list[Item]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(4, 40, (11,), generator=generator).tolist()
    return [
        Item(tuple(torch.randint(2, 250, (n,), generator=generator).tolist()), 1 + i % 3, i)
        for i, n in enumerate(lengths)
    ]


STEPS = 3


def unlearned(loss: str, tmp_path, *overrides: str) -> tuple[list[tuple[int, bool]], list[dict]]:
    """Unlearn an untrained model for some steps: (model, with a graph?) of every forward, and the log."""
    arguments = [*TINY, f"loss={loss}", f"train.steps={STEPS}", f"train.evaluate_every={STEPS}", *overrides]
    arguments.append("train.stop.at_holdout=false")  # an untrained model is there before the first step
    experiment = launch.Experiment(
        "unlearn", [*arguments, f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"]
    )
    config = launch.parse(launch.compose(experiment))
    assert isinstance(config, UnlearnRun)
    compute = choose_compute(config.train.device, config.train.precision)
    setting = read_setting(config, compute)
    lm = load_model(config.model, setting.tokenizer, compute, seed=0)
    corpora = tokenize_corpora(config, setting, lm)
    objective = build(config.loss)
    needs = objective.needs
    alternatives = alternative_items(config, lm, corpora["forget"]) if "alternative" in needs.roles else []
    run = Run.create(tmp_path / "run", "seed: 0\n", command=[])
    record = RunRecord(run, config, NOWHERE, Tracker(), 0.0)

    forwards: list[tuple[int, bool]] = []
    backbone_type = type(lm.model.base_model)

    def note(module, *_) -> None:
        if isinstance(module, backbone_type):
            forwards.append((id(module), torch.is_grad_enabled()))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)  # of every module there is
    try:
        drawn = draws_of(config, corpora, alternatives, needs)
        job = forgetting_job(config, lm, corpora, drawn, objective, target_hash="")
        state_dir = record.run.path / "state"
        fit(lm, job, config.train, state_dir=state_dir, log=record.log, description="")
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
def test_a_step_runs_one_model_at_most_once_for_each_role(loss, roles, tmp_path):
    forwards, rows = unlearned(loss, tmp_path)
    assert len(rows) == STEPS
    assert len({model for model, _ in forwards}) == 1
    with_graph = [graph for _, graph in forwards]
    count = with_graph.count(True)
    assert STEPS <= count <= STEPS * roles  # roles of one length share a pass
    first = with_graph.index(True)
    assert all(with_graph[first : first + count])  # nothing else ran in between


@pytest.mark.parametrize("loss", ["mari", "mari_pooled", "mari_context", "kl_ga", "npo"])
def test_the_first_step_finds_no_distance_to_the_reference(loss, tmp_path):
    """None beyond the rounding of float32, which may be of either sign."""
    _, rows = unlearned(loss, tmp_path, "metrics.batch_size=5", "train.lr=1e-3")
    assert abs(rows[0]["retain_kl"]) < 1e-7
    assert rows[-1]["retain_kl"] > 1e-6
    if loss == "npo":
        assert rows[0]["npo"] == pytest.approx(2 * math.log(2) / 0.1, rel=1e-5)


# -- on disk -------------------------------------------------------------------------------------------------

WANTED = [0, 2, 3, 8]


def log_probability(lm):
    """In chunks of rows, as a loss's engine would."""
    head = head_of(lm.model)

    def of(h_ND, labels_N):
        parts = zip(h_ND.split(7), labels_N.split(7), strict=True)
        return torch.cat([-token_nll(head(h_ND), labels_N) for h_ND, labels_N in parts])

    return of


def remembered(lm, tmp_path, wanted=WANTED, *, data=None, **changed):
    options = {
        "states": True, "layer": 1, "log_probability": log_probability(lm), "directory": tmp_path,
        "weights": weights_hash(lm.model), "batch_size": 3, "name": "retain",
    }  # fmt: skip
    return store_reference(lm, data or items(), wanted, **{**options, **changed})


def in_float64():
    lm = built(LLAMA)
    lm.model.double()
    return lm


@torch.no_grad()
def asked_directly(lm, item, layer=1):
    with lm.compute.autocast():
        h_TD, layer_TD = (
            states[0] for states in run_backbone(lm.model, torch.tensor([item.input_ids]), layer=layer)
        )
    predicting = slice(item.supervised_from - 1, -1)
    return h_TD[predicting], layer_TD[predicting], torch.tensor(item.input_ids[item.supervised_from :])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_what_is_remembered_is_what_a_forward_says(batch_size, tmp_path):
    lm = in_float64()
    reference = remembered(lm, tmp_path, batch_size=batch_size)
    for i in WANTED:
        h_ND, layer_ND, labels_N = asked_directly(lm, items()[i])
        log_p = -token_nll(head_of(lm.model)(h_ND), labels_N).sum().unsqueeze(0)
        torch.testing.assert_close(reference.states([i]), h_ND, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(reference.layer([i]), layer_ND, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(reference.log_p([i]), log_p.detach(), rtol=1e-12, atol=1e-12)


def test_rows_come_item_by_item_in_the_order_asked_for(tmp_path):
    reference = remembered(in_float64(), tmp_path)
    order = [8, 0, 3, 0]
    assert torch.equal(reference.states(order), torch.cat([reference.states([i]) for i in order]))
    assert torch.equal(reference.layer(order), torch.cat([reference.layer([i]) for i in order]))
    assert torch.equal(reference.log_p(order), torch.cat([reference.log_p([i]) for i in order]))
    assert reference.log_p(order).dtype == torch.float64


@pytest.mark.parametrize(
    ("precision", "dtype", "layer_dtype"),
    [("float32", torch.float32, torch.float32), ("bfloat16", torch.bfloat16, torch.bfloat16)],
)
def test_states_are_kept_in_the_precision_they_are_computed_in(precision, dtype, layer_dtype, tmp_path):
    lm = built(LLAMA, precision=precision)
    reference = remembered(lm, tmp_path, batch_size=1)
    assert reference.last_ND.dtype == dtype
    assert reference.layer_ND.dtype == layer_dtype
    h_ND, layer_ND, _ = asked_directly(lm, items()[3])
    assert torch.equal(reference.states([3]), h_ND.to(dtype))
    assert torch.equal(reference.layer([3]), layer_ND.to(layer_dtype))


def kept_bytes(reference) -> int:
    tensors = (reference.last_ND, reference.layer_ND, reference.log_p_S)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def test_a_token_costs_two_bytes_a_dimension_and_eight(tmp_path):
    lm = built(LLAMA, precision="bfloat16")
    reference = remembered(lm, tmp_path, layer=None)
    tokens = sum(items()[i].num_targets for i in WANTED)
    assert kept_bytes(reference) <= tokens * (2 * 32 + 8)
    on_disk = sum(file.stat().st_size for file in tmp_path.rglob("*.bin"))
    assert on_disk == kept_bytes(reference) == tokens * 2 * 32 + len(WANTED) * 8


def forwards(lm, asked) -> int:
    """Trunk forwards of any model while ``asked`` runs."""
    backbone_type, calls = type(lm.model.base_model), []

    def note(module, *_) -> None:
        if isinstance(module, backbone_type):
            calls.append(module)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        asked()
    finally:
        hook.remove()
    assert all(module is lm.model.base_model for module in calls)  # no second model
    return len(calls)


def test_the_model_is_asked_once_and_never_again(tmp_path):
    lm = built()
    assert forwards(lm, lambda: remembered(lm, tmp_path)) == 2  # four items in batches of three
    reference = remembered(lm, tmp_path)
    assert forwards(lm, lambda: remembered(lm, tmp_path)) == 0
    assert forwards(lm, lambda: (reference.states([3, 0]), reference.layer([2]), reference.log_p([8]))) == 0


def test_only_what_was_asked_for_is_kept(tmp_path):
    reference = remembered(built(), tmp_path, states=False, layer=None)
    assert reference.last_ND is None
    assert reference.layer_ND is None
    assert kept_bytes(reference) == len(WANTED) * 8


def test_what_another_model_layer_dtype_or_data_left_is_not_used(tmp_path):
    lm = built(LLAMA)
    remembered(lm, tmp_path)
    others = items()
    others[3] = Item((9, *others[3].input_ids[1:]), others[3].supervised_from, 3)
    prompt = items()
    prompt[3] = Item(prompt[3].input_ids, prompt[3].supervised_from + 1, 3)
    other_tokens = [Item(tuple(250 - i for i in item.input_ids), item.supervised_from, 0) for item in items()]
    changes = [
        (built(LLAMA, seed=1), {}),
        (built({**LLAMA, "rms_norm_eps": 1e-4}), {}),  # the same weights
        (built(LLAMA, precision="bfloat16"), {}),
        (in_float64(), {}),
        (lm, {"layer": 2}),
        (lm, {"layer": None}),
        (lm, {"log_probability": None}),
        (lm, {"wanted": [0, 2, 3]}),
        (lm, {"wanted": None}),
        (lm, {"data": others}),
        (lm, {"data": prompt}),
        (lm, {"data": other_tokens}),  # as another tokenizer would have cut them
    ]
    for other, changed in changes:
        ask = partial(remembered, other, tmp_path, **changed)
        assert forwards(other, ask) > 0, changed
    assert forwards(lm, lambda: remembered(lm, tmp_path)) == 0
    elsewhere = items()[:9] + items()[:2]  # what is not drawn does not matter
    assert forwards(lm, lambda: remembered(lm, tmp_path, data=elsewhere)) == 0


def test_the_memory_does_not_follow_the_model(tmp_path):
    lm = built()
    reference = remembered(lm, tmp_path)
    before = reference.states(WANTED).clone()
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(1)
    assert torch.equal(reference.states(WANTED), before)


def test_an_interrupted_remembering_leaves_nothing(tmp_path, monkeypatch):
    lm = built()

    def interrupted(things, *_):
        yield next(iter(things))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mari_cli.models.reference.track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remembered(lm, tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    assert forwards(lm, lambda: remembered(lm, tmp_path)) == 2


def test_context_targets_come_from_what_was_remembered(tmp_path):
    """From tokens to targets, against the formula over forwards of single items."""
    lm = in_float64()
    head, retain, forget = head_of(lm.model), items()[:6], items()[6:]
    options = {"layer": 1, "log_probability": None}
    targets = context_targets(
        remembered(lm, tmp_path, None, data=retain, **options),
        remembered(lm, tmp_path, None, data=forget, states=False, **options),
        head, temperature=0.2, neighbours=4, stored_tokens=8, chunk=16, directory=tmp_path,
    )  # fmt: skip
    r_ND, rl_ND, _ = (torch.cat(part) for part in zip(*(asked_directly(lm, i) for i in retain), strict=True))
    for i, item in enumerate(forget):
        _, layer_nD, labels_n = asked_directly(lm, item)
        weights_nN = neighbour_weights(rl_ND, layer_nD, temperature=0.2, neighbours=4)
        q_nV = weights_nN @ head(r_ND).softmax(-1)
        ids, q = targets.of([i])
        assert torch.equal(ids[:, 0].long(), labels_n)
        torch.testing.assert_close(q, q_nV.gather(1, ids.long()).float().detach())
