"""What the engine costs, in ratios that are measured in one run: `make bench`.

Question:  does the marginal-information loss have to be larger or slower than plain fine-tuning?
Memory and operations are counted on tensors without content, at the true shapes: the same on every machine.
CPU times are processor seconds of one thread, the least of several, of both sides in turn.

Usage: python experiments/engine/bench.py [--only TEXT] [--out DIRECTORY]
With --only the figures of the other sections stay as they are in DIRECTORY/bench.json, with their dates.
"""

import argparse
import datetime
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from mari_cli.config import LoraConfig, Packing, Parallel, UnlearnConfig, Weights
from mari_cli.data.tokenize import Item
from mari_cli.lm_head import Head
from mari_cli.losses.base import LossConfig
from mari_cli.losses.mari import Divergence, Estimator, MariConfig
from mari_cli.losses.objective import FINE_TUNING, build, differentiate
from mari_cli.losses.step import Positions, Rows, Step
from mari_cli.measure import fake
from mari_cli.measure.memory import MemoryTracker
from mari_cli.models.device import Compute
from mari_cli.models.load import LanguageModel
from mari_cli.models.lora import add_adapters
from mari_cli.models.packing import Layout, choose_layout
from mari_cli.models.skeleton import PUBLISHED
from mari_cli.train.forecast import Settings, forecast, forecast_fine_tuning
from mari_cli.train.optim import adamw
from mari_cli.train.step import Recalled, Reference, backward, operand_head

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import naive
from allocated import allocator_peak, held

HERE = Path(__file__).parent
LLAMA_1B, LLAMA_8B = PUBLISHED["meta-llama/Llama-3.2-1B"], PUBLISHED["meta-llama/Llama-3.1-8B"]
STORIES, SMOLLM = PUBLISHED["Xenova/llama2.c-stories15M"], PUBLISHED["HuggingFaceTB/SmolLM2-135M-Instruct"]
LOSSES: dict[str, LossConfig] = {
    estimator: MariConfig(name="mari", estimator=Estimator(estimator))
    for estimator in ("pooled", "token", "context")
} | {
    "twins": MariConfig(
        name="mari", estimator=Estimator.context, divergence=Divergence.jeffreys, pointwise_weight=1.0
    )
}
"""`twins` is what a step of any support costs: Jeffreys to a stored target, and the observed token's."""


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    reach: float | None
    """To be at most; None: no bound."""
    stretch: float | None = None
    """To be at most, if all goes well."""
    unit: str = ""


# -- counted: the loss stage alone ---------------------------------------------------------------------------


class Rounding(Head):
    """As the usual code does it: logits in 16 bits, widened afterwards. Wrong by 3 %, and the leanest way."""

    def __call__(self, h_ND: torch.Tensor) -> torch.Tensor:
        return (h_ND @ self.weight_VD.T).float()


def positions(sequences: int, tokens: int, vocabulary: int) -> Positions:
    count = sequences * tokens
    labels_N = torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(count))
    sequence_N = torch.arange(sequences).repeat_interleave(tokens)
    return Positions(
        labels_N, sequence_N, torch.arange(tokens).repeat(sequences), sequences, count, sequences
    )


def loss_stage(
    tokens: int, *, naively: bool, d: int = 2048, vocabulary: int = 128256, chunk: int = 512
) -> int:
    """Peak bytes beside weights and hidden states, of pooled marginal information and KL: 8 + 8 sequences."""
    objective = build(LOSSES["pooled"])
    where = {role: positions(8, tokens, vocabulary) for role in objective.needs.roles}
    world, bfloat16 = fake.mode(), torch.bfloat16
    head, reference = (
        Head(
            fake.empty((vocabulary, d), bfloat16, world).requires_grad_(trained), dtype=bfloat16, widens=True
        )
        for trained in (True, False)
    )
    with world:
        rows = {
            role: Rows(
                torch.empty(8 * tokens, d, dtype=bfloat16, requires_grad=naively),
                torch.zeros(8 * tokens, dtype=torch.long),
                torch.empty(8 * tokens, d, dtype=bfloat16) if role == "retain" else None,
            )
            for role in where
        }
    given = [head.weight_VD, reference.weight_VD]
    given += [t for r in rows.values() for t in (r.h_ND, r.labels_N, r.reference_ND) if t is not None]
    pools = objective.needs.pooled.pools_of(where)
    tracker = MemoryTracker()
    tracker.watch(given, "given")
    before = tracker.total
    with tracker:
        if naively:
            usual = [Rounding(**vars(side)) for side in (head, reference)]
            read = naive.readings(usual[0], rows, objective.needs, reference=usual[1])
            one = replace(pools, weight_C=torch.ones(1))
            objective.terms(Step(where, {}, one), read)["loss"].backward()
        else:
            differentiate(objective, Step(where, {}, pools), rows, head, chunk=chunk, reference=reference)
    gc.collect()
    return tracker.peak - before


def loss_stage_figures() -> list[Figure]:
    ours, theirs = (loss_stage(512, naively=way) for way in (False, True))
    longer = loss_stage(1024, naively=False)
    return [
        Figure("loss-stage peak, pooled + KL, N=8192 V=128256 d=2048", ours / 2**30, None, unit="GiB"),
        Figure("  / full logits", ours / theirs, 1 / 10, 1 / 17),
        Figure("  its growth per further token / 2d bytes", (longer - ours) / 8192 / (2 * 2048), 1.1),
    ]


# -- counted: a whole step -----------------------------------------------------------------------------------


def language_model(
    architecture: dict, *, dtype: torch.dtype = torch.float32, sixteen: bool = True, lora: int | None = None
) -> LanguageModel:
    values = dict(architecture)
    with torch.device("meta"):
        shapes = AutoConfig.for_model(values.pop("model_type"), **values)
        model = AutoModelForCausalLM.from_config(shapes, dtype=dtype)
        if lora:
            add_adapters(model, LoraConfig(rank=lora), seed=0)
    compute = Compute(
        torch.device("cpu"), torch.bfloat16 if sixteen else torch.float32, "", as_on_cuda=sixteen
    )
    return LanguageModel(model, None, "", 1024, None, compute, Layout(False, "counted at one length"))


def groups_of(sequences: int, tokens: int) -> dict[str, list[Item]]:
    items = [Item((0,) * (tokens + 1), 1, i) for i in range(sequences)]  # tokens targets each
    return {"forget": items, "retain": items}


def step_figures() -> list[Figure]:
    figures, groups, config = [], groups_of(8, 512), UnlearnConfig()
    lm = language_model(LLAMA_1B)
    settings = Settings(chunk=512, keep_logits=False)
    plain = forecast_fine_tuning(lm, groups, settings, config)
    for name, reach in (("pooled", 1.11), ("token", 1.04), ("context", 1.08), ("twins", 1.14)):
        step = forecast(lm, groups, build(LOSSES[name]), settings, config)
        figures.append(
            Figure(f"step operations / fine-tuning, 1B, {name} + KL", step.flops / plain.flops, reach)
        )
        figures.append(
            Figure(f"step peak / fine-tuning, 1B, {name} + KL", step.peak / plain.peak, 1.10, 1.05)
        )
    narrow = language_model(LLAMA_1B, dtype=torch.bfloat16)
    lean = forecast(
        narrow,
        groups,
        build(LOSSES["pooled"]),
        Settings(chunk=512, keep_logits=False, gradient_checkpointing=True),
        config,
        optimizer=False,
    )
    figures.append(
        Figure("step peak, 1B, pooled + KL, checkpointed, no optimiser", lean.peak / 1e9, 6.9, 6.4, "GB")
    )
    adapters = language_model(LLAMA_8B, dtype=torch.bfloat16, lora=16)
    with_adapters = forecast(
        adapters,
        groups_of(2, 1024),
        build(LOSSES["token"]),
        Settings(chunk=512, keep_logits=False, gradient_checkpointing=True),
        UnlearnConfig(weights=Weights.bfloat16),
    )
    needed = with_adapters.needed / 2**30
    figures.append(
        Figure("8B with LoRA, 2x1024 + 2x1024 tokens, checkpointed, forecast", needed, 40, unit="GiB")
    )
    return figures


def shard_figures() -> list[Figure]:
    """All weights of 8B, on two devices of 80 GB."""
    config = UnlearnConfig(weights=Weights.bfloat16, parallel=Parallel.fsdp)
    settings = Settings(chunk=512, keep_logits=False, gradient_checkpointing=True)
    lm, groups = language_model(LLAMA_8B), groups_of(2, 1024)
    each = forecast(lm, groups, build(LOSSES["token"]), settings, config, processes=2)
    name = "8B, all weights, 2 processes with shards, 2x1024 + 2x1024 tokens, checkpointed, forecast of each"
    return [Figure(name, each.needed / 1e9, None, 80, "GB")]


# -- counted beside measured, on a CPU -----------------------------------------------------------------------


def measured_peak(lm: LanguageModel, groups: dict[str, list[Item]], reference: Reference) -> int:
    """Of one whole step after the first, by the account of torch's allocator."""
    objective, optimizer = build(LOSSES["token"]), adamw(list(lm.model.parameters()), UnlearnConfig())
    lm.model.eval()

    def step() -> None:
        backward(lm, groups, objective, reference=reference, chunk=512)
        optimizer.step()
        optimizer.zero_grad()

    step()
    moments = [moment for state in optimizer.state.values() for moment in state.values()]
    there = [*lm.model.parameters(), *lm.model.buffers(), *moments, reference.head.weight_VD]
    return held(there) + allocator_peak(step)


def forecast_figures() -> list[Figure]:
    """stories15m, answers of 25 to 139 tokens as those of questions about authors."""
    sizes = torch.randint(25, 140, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    items = [Item((1,) * size, 10, i) for i, size in enumerate(sizes)]
    groups, figures = {"forget": items[:12], "retain": items[12:]}, []
    for packing in (Packing.never, Packing.always):
        lm = timed_model(STORIES)
        lm = replace(lm, layout=choose_layout(lm.model, lm.compute, packing))
        width, head = lm.model.get_input_embeddings().weight.shape[1], operand_head(lm).frozen()
        targets = [item.num_targets for item in groups["retain"]]

        def recall(role: str, at: range, width: int = width, targets: list[int] = targets) -> Recalled:
            return Recalled(torch.randn(sum(targets[i] for i in at), width) if role == "retain" else None)

        config = UnlearnConfig(chunk=512)
        found = forecast(lm, groups, build(LOSSES["token"]), Settings.of(config), config)
        ratio = found.peak / measured_peak(lm, groups, Reference(recall, head))
        layout = "packed" if lm.layout.packed else "padded"
        figures.append(Figure(f"forecast / measured peak, CPU, {layout}, off by", abs(ratio - 1), 0.1, 0.05))
    return figures


# -- timed, on a CPU -----------------------------------------------------------------------------------------


def least_seconds(*ways: Callable[[], object], times: int) -> list[float]:
    """Processor seconds of each, the ways taking turns; the first round is not counted."""
    best = [float("inf")] * len(ways)
    for turn in range(times + 1):
        for i, way in enumerate(ways):
            started = time.process_time()
            way()
            if turn:
                best[i] = min(best[i], time.process_time() - started)
    return best


def timed_model(architecture: dict) -> LanguageModel:
    torch.manual_seed(0)
    values = dict(architecture)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    compute = Compute(torch.device("cpu"), torch.float32, "")
    return LanguageModel(model.eval(), None, "", 1024, None, compute, Layout(False, "one length"))


def step_seconds(name: str, architecture: dict, *, sequences: int, tokens: int, times: int) -> list[Figure]:
    lm, groups = timed_model(architecture), groups_of(sequences, tokens)
    together = {"retain": [*groups["forget"], *groups["retain"]]}
    width, head = lm.model.get_input_embeddings().weight.shape[1], operand_head(lm).frozen()
    states_ND = torch.randn(sequences * tokens, width, generator=torch.Generator().manual_seed(0))
    recalled = Recalled(states_ND=states_ND)
    reference = Reference(lambda role, at: recalled if role == "retain" else Recalled(), head)

    def mari(estimator: str) -> Callable[[], object]:
        objective = build(LOSSES[estimator])
        return lambda: backward(lm, groups, objective, reference=reference)

    ways = [lambda: backward(lm, together, FINE_TUNING), mari("token"), mari("pooled")]
    plain, token, pooled = least_seconds(*ways, times=times)
    return [
        Figure(f"CPU step time / fine-tuning, {name}, token + KL", token / plain, 1.35, 1.2),
        Figure(f"CPU step time / fine-tuning, {name}, pooled + KL", pooled / plain, 1.35, 1.2),
    ]


def stage_seconds(*, sequences: int = 16, tokens: int = 40, times: int = 5) -> list[Figure]:
    figures, d, vocabulary = [], STORIES["hidden_size"], STORIES["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    head, reference = (Head(torch.randn(vocabulary, d, generator=generator).mul_(0.05)) for _ in range(2))
    head.weight_VD.requires_grad_()
    for name in ("token", "pooled"):
        objective = build(LOSSES[name])
        where = {role: positions(sequences, tokens, vocabulary) for role in objective.needs.roles}
        rows = {
            role: Rows(
                torch.randn(sequences * tokens, d, generator=generator),
                at.labels_N,
                torch.randn(sequences * tokens, d, generator=generator) if role == "retain" else None,
            )
            for role, at in where.items()
        }
        pools = objective.needs.pooled.pools_of(where)

        def engine(objective=objective, where=where, rows=rows, pools=pools) -> None:
            differentiate(objective, Step(where, {}, pools), rows, head, chunk=1048, reference=reference)

        def full(objective=objective, where=where, rows=rows, pools=pools) -> None:
            leaves = {role: replace(r, h_ND=r.h_ND.clone().requires_grad_()) for role, r in rows.items()}
            index_N = {role: at.index_N for role, at in where.items()}
            read = naive.readings(head, leaves, objective.needs, reference=reference, index_N=index_N)
            one = replace(pools, weight_C=torch.ones(1))
            objective.terms(Step(where, {}, one), read)["loss"].backward()
            head.weight_VD.grad = None

        ours, theirs = least_seconds(engine, full, times=times)
        figures.append(
            Figure(f"CPU loss-stage time / full logits, stories15m, {name} + KL", ours / theirs, 1.25, 1.0)
        )
    return figures


SECTIONS: dict[str, Callable[[], list[Figure]]] = {
    "loss stage": loss_stage_figures,
    "step": step_figures,
    "shards": shard_figures,
    "forecast": forecast_figures,
    "cpu stage": stage_seconds,
    "cpu stories15m": lambda: step_seconds("stories15m", STORIES, sequences=16, tokens=64, times=3),
    "cpu smollm2_135m": lambda: step_seconds("smollm2_135m", SMOLLM, sequences=2, tokens=64, times=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="sections whose name contains this")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path, today = asked.out / "bench.json", datetime.date.today().isoformat()
    console = Console()
    kept = json.loads(path.read_text())["figures"] if asked.only and path.exists() else []
    figures: list[dict] = []
    for name, section in SECTIONS.items():
        if asked.only in name:
            with console.status(name):
                figures += [{"section": name, "date": today, **vars(figure)} for figure in section()]
        else:
            figures += [figure for figure in kept if figure["section"] == name]
    table = Table("figure", "value", "to reach", "", "stretch", "", "date")
    for figure in figures:
        cells = [figure["name"], f"{figure['value']:.3f} {figure['unit']}"]
        for bound in (figure["reach"], figure["stretch"]):
            met = "" if bound is None else ("yes" if figure["value"] <= bound else "NO")
            cells += ["" if bound is None else f"<= {bound:.3g} {figure['unit']}", met]
        table.add_row(*cells, figure["date"])
    console.print(table)
    record = {
        "command": "make bench",
        "hardware": f"{platform.machine()} CPU, {os.cpu_count()} cores; times of one thread",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "figures": figures,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"written: {path}")


if __name__ == "__main__":
    main()
