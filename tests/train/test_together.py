"""Two processes take the steps of one: the same terms, gradients and weights, however weights are kept; and
go on where another number of processes has stopped."""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from steps import LOSSES, Bare, V, gpt2, group_of, items, llama, reference_for
from together import together

from mari_cli import distributed
from mari_cli.config import OptimConfig, Parallel
from mari_cli.data.tokenize import Item
from mari_cli.losses.marginal import own_pools, pools_by_index
from mari_cli.losses.objective import FINE_TUNING, build
from mari_cli.models.packing import Layout
from mari_cli.progress import silent
from mari_cli.storage import json_cache
from mari_cli.suites.scores import score
from mari_cli.train.loop import Job, fit
from mari_cli.train.sharding import sharded
from mari_cli.train.step import backward
from mari_cli.train.stop import Verdict

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_models import built

KEPT = ("whole", "sharded")
"""How each process keeps the weights: DDP's way or FSDP's."""
UNEVEN = {"forget": 1, "retain": 7, "alternative": 1}
"""Of two processes one has nothing to forget."""


@dataclass
class Model:
    """What `sharded` replaces."""

    model: torch.nn.Module
    compute: Bare
    layout: Layout
    device = torch.device("cpu")


def one_step(config, make, groups, kept, **settings):
    """``config`` of a loss; None: of fine-tuning."""
    lm = Model((bare := make()).model, bare, bare.layout)
    objective = build(config) if config else FINE_TUNING
    reference = reference_for(config, make(seed=9), groups) if config else None
    with sharded(lm) if kept == "sharded" else nullcontext(lm) as trained:
        terms = backward(trained, groups, objective, reference=reference, **settings)
        gradients = {
            name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone()
            for name, p in trained.model.named_parameters()
            if p.grad is not None
        }
    return {name: float(term) for name, term in terms.items()}, gradients


CASES = [(name, gpt2, 2) for name in LOSSES]
CASES += [(name, llama, None) for name in ("mari pooled both", "mari token", "dpo")]
CASES += [(name, gpt2, "uneven") for name in LOSSES]
"""Loss, model (GPT-2 has a tied head), sequences in a micro-batch."""


def steps_of(kinds):
    found = {}
    for kept in kinds:
        for name, make, cut in CASES:
            if cut == "uneven" and kept == "sharded" and name in ("mari pooled", "kl_ga", "dpo"):
                continue  # enough is as good
            groups = group_of(LOSSES[name])
            if cut == "uneven":
                groups = {role: group[: UNEVEN[role]] for role, group in groups.items()}
            micro_batch = 3 if cut == "uneven" else cut
            found[name, make.__name__, cut, kept] = one_step(
                LOSSES[name], make, groups, kept, micro_batch=micro_batch, chunk=7
            )
        for name in WAYS if kept == "whole" else WAYS[:2]:
            found["way", name, "", kept] = way(name, kept)
    return found


WAYS = ("mari pooled", "mari token", "npo")


def way(name, kept, micro_batch: int | None = None, steps: int = 20):
    """Losses and weights over so many steps of 32 sequences."""
    config, losses = LOSSES[name], []
    lm = Model((bare := gpt2()).model, bare, bare.layout)
    with sharded(lm) if kept == "sharded" else nullcontext(lm) as trained:
        optimizer = torch.optim.AdamW(trained.model.parameters(), lr=1e-3)
        for step in range(steps):
            groups = {"forget": items(16, 2 * step), "retain": items(16, 2 * step + 1)}
            reference = reference_for(config, gpt2(seed=9), groups)
            terms = backward(trained, groups, build(config), reference=reference, micro_batch=micro_batch)
            torch.nn.utils.clip_grad_norm_(trained.model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(terms["loss"]))
    return {str(i): loss for i, loss in enumerate(losses)}, {
        name: p.detach().clone() for name, p in lm.model.named_parameters()
    }


def fitted(directory: Path, steps: int, kept: str):
    """What a tiny model's training logs, and its weights after ``steps``; it goes on from ``directory``."""
    lm = built(seed=1)
    lm.model.double()
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(2, 300, (12, 16), generator=generator).tolist()
    made = [Item(tuple(ids), 1, i) for i, ids in enumerate(tokens)]
    logged = []
    job = Job(
        steps=steps,
        items_at=lambda step: {"retain": [made[(4 * step + i) % 12] for i in range(4)]},
        objective=FINE_TUNING,
        reference_at=lambda step: None,
        evaluate=lambda lm, step: looked_at(lm, made),
        judge=lambda history: Verdict(history[-1]["step"], None),
        evaluate_every=3,
    )
    parallel = Parallel.fsdp if kept == "sharded" else Parallel.ddp
    config = OptimConfig(lr=1e-2, parallel=parallel, max_grad_norm=0.5)
    fit(lm, job, config, state_dir=directory, log=logged.append, description="")
    return logged, {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def looked_at(lm, made):
    scores = score(lm, made, batch_size=5, min_k=0.4, track=silent, description="")
    return {"nll": sum(scores.column("answer_nll")) / len(made)}


def numbers_exchanged():
    """How many numbers each all-reduce of a pooled step sums, those of the gradient apart."""
    counts, reduce = [], torch.distributed.all_reduce

    def counted(tensor, *arguments, **keywords):
        counts.append(tensor.numel())
        return reduce(tensor, *arguments, **keywords)

    lm, groups = gpt2(), group_of(LOSSES["mari pooled"])
    reference = reference_for(LOSSES["mari pooled"], gpt2(seed=9), groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", counted)
        backward(lm, groups, build(LOSSES["mari pooled"]), reference=reference)
    counts.remove(sum(p.numel() for p in lm.model.parameters()))
    return counts


class Narrow(Bare):
    """Float32 weights, matrix products in bfloat16."""

    dtype = torch.bfloat16

    def __init__(self, model):
        super().__init__(model)
        self.model = model.float()

    def autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16)


def in_16_bits(kept):
    """The gradient of a fine-tuning step's head, which is not tied."""
    _, gradients = one_step(None, lambda: Narrow(llama().model), {"retain": items(8, 2)}, kept)
    return gradients["lm_head.weight"]


def messages(make, **settings):
    """Of a step whose gradients go in small messages: how many numbers each sums, and whether the last
    backward pass was still at work when it went; and the gradients."""
    sent, reduce = [], torch.distributed.all_reduce

    def told(tensor, *arguments, **keywords):
        sent.append((tensor.numel(), torch._C._current_graph_task_id() != -1))
        return reduce(tensor, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", told)
        patch.setattr(distributed, "BUCKET_BYTES", 4000)
        name = "mari pooled"
        _, gradients = one_step(LOSSES[name], make, group_of(LOSSES[name]), "whole", chunk=7, **settings)
    return sent, gradients


def kept_and_damaged(path: Path):
    """What was kept, and what is read once it is damaged; each process would keep another thing."""
    kept = json_cache.write(path, {"rank": distributed.rank()})
    distributed.barrier()
    if distributed.is_rank_zero():
        path.write_text(path.read_text().replace("0", "1"))
    distributed.barrier()
    return kept, json_cache.read(path)


PASSES = {
    "one": (llama, {}),
    "tied": (gpt2, {}),
    "two phases": (llama, {"micro_batch": 2}),
    "two phases, tied": (gpt2, {"micro_batch": 2}),
}


def in_two_processes(directory: Path):
    """Steps; and, each way to keep weights, a run from the start and one from a single process's state."""
    found = steps_of(KEPT)
    for kept in KEPT:
        found["16 bits", kept] = in_16_bits(kept)
    for way, (make, settings) in PASSES.items():
        found["messages", way] = messages(make, **settings)
    found["exchanged"], found["kept"] = numbers_exchanged(), kept_and_damaged(directory / "kept.json")
    for kept in KEPT:
        found["first half", kept] = fitted(directory / f"two {kept}", 3, kept)
        found["second half", kept] = fitted(directory / f"one for {kept}", 6, kept)
    return found


@pytest.fixture(scope="module")
def alone():
    return steps_of(["whole"])


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """States of three steps, made by one process."""
    directory = tmp_path_factory.mktemp("states")
    for kept in KEPT:
        fitted(directory / f"one for {kept}", 3, kept)
    return directory


@pytest.fixture(scope="module")
def both(states):
    return together(2, in_two_processes, states)


@pytest.mark.parametrize("kept", KEPT)
def test_two_processes_take_the_step_of_one(kept, alone, both):
    for key, (terms, gradients) in alone.items():
        if key[0] == "way":
            continue
        for of_process in both:
            if (*key[:3], kept) not in of_process:
                continue
            found_terms, found = of_process[*key[:3], kept]
            assert found_terms == pytest.approx(terms, rel=1e-11), key
            assert found.keys() == gradients.keys()
            for name in found:
                torch.testing.assert_close(found[name], gradients[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("way", PASSES)
def test_gradients_are_summed_while_others_are_being_made_in_one_order_in_all_processes(way, both):
    make, settings = PASSES[way]
    _, alone = one_step(
        LOSSES["mari pooled"], make, group_of(LOSSES["mari pooled"]), "whole", chunk=7, **settings
    )
    (sent, gradients), (sent_by_other, others) = (of_process["messages", way] for of_process in both)
    assert [size for size, _ in sent] == [size for size, _ in sent_by_other]
    in_backward = [size for size, early in sent if early]
    assert len(in_backward) > 3
    assert sum(in_backward) > sum(p.numel() for p in alone.values()) / 2
    for name, gradient in alone.items():
        assert torch.equal(gradients[name], others[name])
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kept", KEPT)
def test_the_gradient_of_a_head_in_16_bits_is_summed_over_processes_before_it_is_rounded(kept, both):
    whole = in_16_bits("whole")
    for of_process in both:
        gap = (of_process["16 bits", kept] - whole).norm() / whole.norm()
        assert gap < 1e-5  # rounded to bfloat16 it is 1.6e-3


@pytest.mark.parametrize("name", WAYS)
def test_32_at_once_four_times_8_and_two_processes_go_one_way_over_twenty_steps(name, alone, both):
    losses, weights = alone["way", name, "", "whole"]
    others = {"four times 8": way(name, "whole", micro_batch=4)}  # 4 of each of the two roles
    for kept in KEPT if name in WAYS[:2] else KEPT[:1]:
        others |= {f"{kept}, {k}": both[k]["way", name, "", kept] for k in (0, 1)}
    for which, (found_losses, found) in others.items():
        assert found_losses == pytest.approx(losses, rel=1e-9), which
        for key in weights:
            torch.testing.assert_close(found[key], weights[key], rtol=1e-8, atol=1e-10, msg=which)


def test_a_pooled_step_exchanges_two_vocabulary_vectors_and_its_terms(both):
    for of_process in both:
        assert 2 * V <= sum(of_process["exchanged"]) <= 2 * V + 8


@pytest.mark.parametrize("kept", KEPT)
def test_a_run_goes_on_in_another_number_of_processes(kept, states, both, tmp_path):
    logged, weights = fitted(tmp_path, 6, "whole")
    for name, weight in both[1]["second half", kept][1].items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-8, atol=1e-9)
    goes_on, found = fitted(states / f"two {kept}", 6, kept)
    for name, weight in found.items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-8, atol=1e-9)
    first, second = both[0]["first half", kept][0], both[0]["second half", kept][0]
    assert [row["step"] for row in first + goes_on] == [row["step"] for row in logged]
    assert both[1]["first half", kept][0] == []  # only the first process writes
    evaluations = [[row["nll"] for row in rows if row["kind"] == "eval"] for rows in (logged, first + second)]
    assert evaluations[1] == pytest.approx(evaluations[0], rel=1e-9)


def test_what_is_kept_is_the_same_in_both_and_if_damaged_in_neither(both):
    for of_process in both:
        assert of_process["kept"] == ({"rank": 0}, None)


def test_every_pool_and_every_position_falls_to_one_process():
    generator = torch.Generator().manual_seed(0)
    index_r_N, index_u_M = (torch.randint(0, 9, (n,), generator=generator) for n in (40, 17))
    pools = pools_by_index(index_r_N, index_u_M, prior=0.5, share=0.3)
    parts = [own_pools(pools, processes=3, process=k) for k in range(3)]
    for role, count in (("retain", 40), ("forget", 17)):
        assert torch.cat([at[role] for _, at in parts]).sort().values.tolist() == list(range(count))
    assert sum(len(own) for own, _ in parts) == len(pools)
    assert sum(float(own.weight_C.sum()) for own, _ in parts) == pytest.approx(float(pools.weight_C.sum()))
    loads = [sum(len(index) for index in at.values()) for _, at in parts]
    assert max(loads) - min(loads) <= 5
    for own, at in parts:
        assert torch.equal(
            torch.bincount(own.retain_N[own.retain_N >= 0], minlength=len(own)).double(), own.retain_count_C
        )
        assert len(own.forget_M) == len(at["forget"])
