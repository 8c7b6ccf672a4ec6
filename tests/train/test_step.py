"""A step's loss and gradient do not depend on how the step is cut, chunked, padded or ordered."""

from dataclasses import replace

import pytest
import torch
from steps import (
    GROUPS,
    LOSSES,
    Bare,
    V,
    gpt2,
    gradients,
    group_of,
    in_one_graph,
    items,
    llama,
    reference_for,
)
from torch.utils._python_dispatch import TorchDispatchMode

from mari_cli.config import Packing
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import check_parity
from mari_cli.losses.mari import PoolingScope
from mari_cli.losses.objective import FINE_TUNING, build
from mari_cli.models.backbone import hidden_states
from mari_cli.train.step import backward


def taken(lm: Bare, config, *, groups=None, seed=3, frozen=None, **settings):
    groups = groups or group_of(config)
    reference = reference_for(config, frozen or type_of(lm)(seed=9), groups)
    lm.model.zero_grad()
    torch.manual_seed(seed)
    terms = backward(lm, groups, build(config), reference=reference, **settings)
    return {name: term.item() for name, term in terms.items()}, gradients(lm)


def type_of(lm: Bare):
    return gpt2 if lm.model.config.model_type == "gpt2" else llama


def assert_same(a, b, rtol=1e-10):
    assert a[0] == pytest.approx(b[0], rel=1e-12)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("config", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("make", [gpt2, llama])
def test_every_layout_gives_the_gradient_of_full_logits_in_one_graph(config, make):
    """GPT-2 has a tied head, this Llama one of its own."""
    lm, groups = make(), group_of(config)
    expected = in_one_graph(lm, config, groups, reference_for(config, make(seed=9), groups))
    for micro_batch, chunk in ((None, 1000), (None, 7), (1, 7), (3, 11), (5, 1000)):
        assert_same(expected, taken(lm, config, micro_batch=micro_batch, chunk=chunk))


@pytest.mark.parametrize("name", ["mari pooled", "mari token", "npo"])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_packed_a_step_is_what_it_is_padded(name, make):
    padded = taken(make(), LOSSES[name])
    for micro_batch in (None, 3):
        assert_same(padded, taken(make(packing=Packing.always), LOSSES[name], micro_batch=micro_batch))


@pytest.mark.parametrize("name", ["mari pooled both", "kl_ga"])
def test_with_dropout_micro_batches_are_the_same_forwards_in_one_graph(name):
    """Where a loss pools over the step, its second pass over the backbone draws the masks of the first."""
    lm, config = gpt2(dropout=0.3), LOSSES[name]
    lm.model.train()
    groups = group_of(config)
    if name == "kl_ga":  # no second pass: the micro-batches of the two roles take turns
        groups = {"forget": groups["forget"][:2], "retain": groups["retain"][:2]}
    accumulated = taken(lm, config, groups=groups, micro_batch=2)
    reference = reference_for(config, gpt2(seed=9), groups)
    torch.manual_seed(3)
    forwards = {role: [part[i : i + 2] for i in range(0, len(part), 2)] for role, part in groups.items()}
    together = in_one_graph(lm, config, groups, reference, forwards)
    assert_same(accumulated, together)


def test_a_step_with_dropout_ends_in_the_random_state_of_its_first_pass():
    """What a resumed run draws next must not depend on how often the backbone ran."""
    lm = gpt2(dropout=0.3)
    lm.model.train()
    taken(lm, LOSSES["mari token"], micro_batch=2)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    with torch.no_grad():
        for group in group_of(LOSSES["mari token"]).values():
            for i in range(0, len(group), 2):
                hidden_states(lm.model, lm.compute, group[i : i + 2])
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mari pooled", "mari token"])
def test_pooling_over_micro_batches_is_another_loss_and_has_to_be_asked_for(name):
    lm = gpt2()
    by_step = taken(lm, LOSSES[name], micro_batch=2)
    config = replace(LOSSES[name], pooling_scope=PoolingScope.micro)
    by_micro_batch = taken(lm, config, micro_batch=2)
    assert by_micro_batch[0]["marginal_information"] > 1.05 * by_step[0]["marginal_information"]
    assert_same(taken(lm, config, micro_batch=None), taken(lm, LOSSES[name], micro_batch=None))


class Narrow(Bare):
    """With weights in bfloat16, and products as they are mixed."""

    dtype = torch.bfloat16

    def __init__(self, lm: Bare):
        self.model = lm.model.to(torch.bfloat16)
        self.compute, self.layout = self, lm.layout

    def autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["mari pooled", "kl_ga", "npo"])
def test_with_bfloat16_weights_many_micro_batches_are_as_near_to_the_gradient_as_one(name):
    """Their gradients are added up in float32: in bfloat16 the sum of 32 was a third further away."""
    config, groups = LOSSES[name], {"forget": items(16, 1), "retain": items(16, 2)}
    reference = reference_for(config, gpt2(seed=9), groups)
    rounded = Narrow(gpt2())
    exact = gpt2()
    exact.model.load_state_dict(rounded.model.state_dict())
    expected = in_one_graph(exact, config, groups, reference)[1]

    def distance(micro_batch):
        rounded.model.zero_grad()
        backward(rounded, groups, build(config), reference=reference, micro_batch=micro_batch)
        found = gradients(rounded)
        assert all(gradient.dtype == torch.bfloat16 for gradient in found.values())
        gap = torch.cat([(found[key].double() - x).flatten() for key, x in expected.items()])
        return float(gap.norm() / torch.cat([x.flatten() for x in expected.values()]).norm())

    whole = distance(None)
    assert whole < 6e-3
    assert distance(1) < 1.1 * whole


class Forwards:
    """How often a model's backbone runs."""

    def __init__(self, lm):
        self.count = 0
        lm.model.base_model.register_forward_hook(self.seen)

    def seen(self, *_):
        self.count += 1


def test_the_backbone_runs_once_a_micro_batch_and_twice_only_where_the_loss_pools_over_the_step():
    for name, passes in (("kl_ga", 1), ("npo", 1), ("mari context", 1), ("mari token", 2)):
        lm, frozen = gpt2(), gpt2(seed=9)
        forwards = Forwards(lm)
        taken(lm, LOSSES[name], frozen=frozen, micro_batch=4)
        assert forwards.count == passes * (2 + 2)  # 5 forget and 8 retain sequences, 4 at a time
        taken(lm, LOSSES[name], frozen=frozen, micro_batch=None)
        assert forwards.count == passes * 4 + 2


class Largest(TorchDispatchMode):
    def __init__(self):
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor) and V in x.shape:
                self.entries = max(self.entries, x.numel())
        return out


@pytest.mark.parametrize("cut", ["whole", "micro-batches", "packed"])
@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("config", LOSSES.values(), ids=LOSSES)
def test_in_a_whole_step_no_logits_of_more_than_a_chunk_exist(config, make, cut):
    lm, groups = make(packing=Packing.always if cut == "packed" else Packing.never), group_of(config)
    reference = reference_for(config, make(seed=9), groups)
    recalled = {
        (role, i): reference.recall(role, range(i, i + 1))
        for role in groups
        for i in range(len(groups[role]))
    }

    def recall(role, at):
        parts = [recalled[role, i] for i in at]
        return type(parts[0])(
            *(
                None
                if part is None
                else tuple(torch.cat(side) for side in zip(*(vars(p)[field] for p in parts), strict=True))
                if isinstance(part, tuple)
                else torch.cat([vars(p)[field] for p in parts])
                for field, part in vars(parts[0]).items()
            )
        )

    chunk = 24  # above the hidden size, so that the head's own weight is no larger
    with Largest() as seen:
        backward(
            lm,
            groups,
            build(config),
            reference=replace(reference, recall=recall),
            micro_batch=2 if cut == "micro-batches" else None,
            chunk=chunk,
        )
    assert 0 < seen.entries <= chunk * V


def test_padding_changes_nothing():
    """One more, very long sequence pads all the others."""
    lm = gpt2()
    short = items(3, 1)
    with torch.no_grad():
        alone, _ = hidden_states(lm.model, lm.compute, short)
        padded, _ = hidden_states(lm.model, lm.compute, [*short, Item(tuple([2] * 32), 3, 9)])
    torch.testing.assert_close(alone, padded[: len(alone)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mari pooled both", "mari token", "mari context", "kl_ga", "npo"])
def test_the_order_in_the_batch_changes_nothing(name):
    lm, config = gpt2(), LOSSES[name]
    groups = group_of(config)
    turned = {role: group[::-1] for role, group in groups.items()}
    a, b = (taken(lm, config, groups=g) for g in (groups, turned))
    assert a[0] == pytest.approx(b[0], rel=1e-11)
    for key in a[1]:
        torch.testing.assert_close(a[1][key], b[1][key], rtol=1e-9, atol=1e-13)


def test_fine_tuning_averages_over_the_tokens_of_the_step_not_over_sequences():
    lm, group = gpt2(), GROUPS["retain"]
    losses = [
        torch.nn.functional.cross_entropy(
            lm.model(input_ids=torch.tensor([item.input_ids])).logits[0, item.supervised_from - 1 : -1],
            torch.tensor(item.input_ids[item.supervised_from :]),
            reduction="sum",
        )
        for item in group
    ]
    expected = sum(losses) / sum(item.num_targets for item in group)
    for size in (None, 1):
        terms = backward(lm, {"retain": group}, FINE_TUNING, micro_batch=size)
        assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_frozen_head_is_left_alone_and_the_backbone_is_not():
    lm, config = llama(), LOSSES["mari token"]
    expected = taken(lm, config)
    lm.model.lm_head.weight.requires_grad_(False)
    lm.model.lm_head.weight.grad = None
    found = taken(lm, config)
    assert expected[1].keys() - found[1].keys() == {"lm_head.weight"}
    assert_same(found, (expected[0], {k: g for k, g in expected[1].items() if k in found[1]}))


@pytest.mark.parametrize("make", [gpt2, llama])
def test_head_of_backbone_are_the_models_own_logits(make):
    check_parity(make().model)
