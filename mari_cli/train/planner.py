"""The cheapest way to take a step that fits a memory; every way gives the same gradient."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from mari_cli import distributed
from mari_cli.config import LoraConfig, Memory, OptimConfig, OptimizerName, Parallel, Weights
from mari_cli.errors import UserError, size
from mari_cli.losses.objective import Objective
from mari_cli.measure import fake
from mari_cli.models.load import LanguageModel
from mari_cli.models.lora import add_adapters
from mari_cli.train.forecast import Forecast, Settings, forecast
from mari_cli.train.step import KEPT_BYTES, Group, chunk_for, logits_bytes, operand_head

SMALL_CHUNK = 128
"""Positions; of fewer the products with the head would be slow."""
GENEROUS = 1.5
"""How far above the limit a guess may be before its way is not counted."""


class DoesNotFit(UserError):
    """No setting makes a step fit."""


@dataclass(frozen=True)
class Alternative:
    """Settings that change more than the way of taking a step."""

    words: str
    """As a user types them."""
    guess: int
    """Bytes that they need, about: what is far too much is not counted."""
    config: OptimConfig
    processes: int
    rank: int | None = None
    """Of adapters, where they are to be trained alone."""


@dataclass(frozen=True)
class Choice:
    """The cheapest way that fits, or none."""

    chosen: Forecast | None
    configured: Forecast
    tried: list[Forecast]
    """In the order of trying."""
    processes: int
    sequences: dict[str, int]
    """Of a step, by role; none where a micro-batch, and so a process's share, is part of the loss."""
    count: Callable[["Alternative", Settings], int | None]
    """What each process needs with other settings, counted; None where they cannot be."""

    @property
    def nearest(self) -> Forecast:
        return min(self.tried, key=lambda forecast: forecast.needed)


def choose(
    lm: LanguageModel,
    groups: Group,
    objective: Objective,
    config: OptimConfig,
    *,
    limit: int | None,
    processes: int = 1,
    tell: Callable[[str], None] = lambda message: None,
) -> Choice:
    """Try ways to take a step, from the cheapest on, until one needs no more than ``limit`` bytes of each of
    ``processes``; without a limit that is the one that is configured. ``tell`` is told what is tried."""
    tried: list[Forecast] = []
    apart = objective.needs.coupling == "micro"
    sequences = {} if apart else {role: len(items) for role, items in groups.items()}

    def chosen(forecast: Forecast | None) -> Choice:
        return Choice(forecast, configured, tried, processes, sequences, count)

    def count(other: Alternative, settings: Settings) -> int | None:
        tell(f"a step with {other.words}")
        try:
            model = lm if other.rank is None else _with_adapters(lm, other.rank)
            return forecast(
                model, groups, objective, settings, other.config, processes=other.processes
            ).needed
        except UserError:  # no adapters fit the model, or nothing can be foreseen of it
            return None

    def attempt(settings: Settings) -> Forecast:
        tell(f"a step {settings.beyond(first) or 'as configured'}")
        found = forecast(lm, groups, objective, settings, config, processes=processes)
        tried.append(found)
        return found

    first = Settings.of(config)
    configured = attempt(first)
    if limit is None:
        return chosen(configured)
    if configured.needed <= limit:
        with distributed.simulate_rank(processes, 0):
            once = _logits_once(lm, groups, objective, config)
        kept = once and attempt(once)
        return chosen(kept if kept and kept.needed <= limit else configured)
    if configured.fixed > limit:  # no way of taking a step spares that; say how near the leanest comes
        if not first.gradient_checkpointing and lm.model.supports_gradient_checkpointing:
            attempt(replace(first, gradient_checkpointing=True))
        return chosen(None)
    chunk = first.chunk or chunk_for(len(operand_head(lm).weight_VD))
    largest = max(-(-len(items) // processes) for items in groups.values())
    for settings in ways(lm, largest, objective, config):
        if settings != first:
            if _is_hopeless(settings, configured, largest, limit):
                continue
            found = attempt(settings)
            if found.needed <= limit:
                return chosen(found)
        else:
            found = configured
        if chunk > SMALL_CHUNK and found.needed - found.parts["loss stage"] <= limit:
            smaller = attempt(replace(settings, chunk=SMALL_CHUNK))
            if smaller.needed <= limit:
                return chosen(smaller)
    return chosen(None)


def _logits_once(
    lm: LanguageModel, groups: Group, objective: Objective, config: OptimConfig
) -> Settings | None:
    """Cheaper than as configured: with room for the logits of a whole pool they need not be made again."""
    size = logits_bytes(groups, len(operand_head(lm).weight_VD))
    pays = config.memory is Memory.auto and config.keep_logits is None and size > KEPT_BYTES
    pays = pays and objective.needs.holds_logits
    return replace(Settings.of(config), keep_logits=True) if pays else None


def ways(lm: LanguageModel, largest: int, objective: Objective, config: OptimConfig) -> Iterator[Settings]:
    """From the fewest operations to the most, each with its logits in chunks as configured; but for the first
    they are not held. ``largest``: sequences of a role that a process has in a step.

    For a loss that is a sum over sequences smaller micro-batches come first: they cost nothing. One that
    pools over the step has to run twice over the backbone for them, which is a little more than to make
    activations twice.
    """
    first = asked = Settings.of(config)
    if objective.needs.holds_logits and asked.keep_logits is not False:
        asked = replace(asked, keep_logits=False)
    largest = min(asked.micro_batch or largest, largest)
    cuts = dict.fromkeys(math.ceil(largest / 2**k) for k in range(1, largest.bit_length() + 1))
    if objective.needs.coupling == "micro":
        cuts = {}  # there a micro-batch is part of the loss
    cut_up = [replace(asked, micro_batch=cut) for cut in cuts if cut < largest]
    can = lm.model.supports_gradient_checkpointing and not asked.gradient_checkpointing
    again = [replace(asked, gradient_checkpointing=True)] if can else []
    yield from dict.fromkeys((first, asked))
    yield from [*again, *cut_up] if objective.needs.couples else [*cut_up, *again]
    if again:
        yield from (replace(settings, gradient_checkpointing=True) for settings in cut_up)


def _is_hopeless(settings: Settings, configured: Forecast, largest: int, limit: int) -> bool:
    """Whether it is plain without a try that micro-batches of this size are too large."""
    if settings.gradient_checkpointing or settings.micro_batch is None:
        return False
    whole = min(configured.settings.micro_batch or largest, largest)
    left = 0.8 * settings.micro_batch / whole  # of one whose sequences are short
    spared = configured.parts["activations"] * (1 - min(1.0, left)) + configured.parts["loss stage"]
    return configured.needed - spared > limit


def require(choice: Choice, config: OptimConfig, *, limit: int) -> None:
    """Refuse what does not fit; with what would, where the settings are not to be changed."""
    first, chosen = Settings.of(config), choice.chosen
    if chosen is None:
        raise _refusal(choice, config, limit=limit)
    if config.memory is not Memory.auto and chosen.settings != first:
        more = _more_processes(choice, choice.configured, config)
        raise DoesNotFit(
            f"a step as configured needs {size(choice.configured.needed)}, more than {size(limit)}",
            "; ".join(
                [
                    f"`{chosen.settings.beyond(first)}` needs {size(chosen.needed)}",
                    *_count_fitting(choice, more, first, limit=limit, most=1),
                    "`train.memory=auto` chooses by itself",
                ]
            ),
        )


def _refusal(choice: Choice, config: OptimConfig, *, limit: int) -> DoesNotFit:
    """Where nothing fits: what came nearest, and what would change more than the way of taking a step."""
    near = choice.nearest
    asked = near.settings.beyond(Settings.of(config))
    needed, optimizer = near.needed, near.parts["optimizer"]
    adapters = needed - near.parts["gradients"] - optimizer
    now, ways = choice.processes, []
    sharded = now > 1 and config.parallel is Parallel.fsdp
    if not sharded and config.optimizer is not OptimizerName.adamw_8bit:
        eight = replace(config, optimizer=OptimizerName.adamw_8bit)
        ways.append(Alternative("train.optimizer=adamw_8bit", needed - optimizer * 3 // 4, eight, now))
    if near.gradients >= near.parts["weights"] // 2:  # all weights are trained
        halved = replace(config, weights=Weights.bfloat16)
        half, lora = adapters - near.parts["weights"] // 2, "model.lora.rank=16"
        ways.append(Alternative(lora, adapters, config, now, rank=16))
        ways.append(Alternative(f"{lora} train.weights=bfloat16", half, halved, now, rank=16))
    ways += _more_processes(choice, near, config)
    fitting = _count_fitting(choice, ways, near.settings, limit=limit, most=3)
    smaller = "a model with fewer parameters"
    if near.fixed <= limit:
        smaller += ", shorter sequences or fewer of them a step"
    return DoesNotFit(
        f"a step does not fit {size(limit)}: "
        + (f"with `{asked}` it still needs {size(needed)}" if asked else f"it needs {size(needed)}")
        + (f", {size(near.fixed)} of it whatever the batch" if near.fixed > limit else ""),
        f"{f'with `{asked}` ' if asked else ''}{'; '.join(fitting)}"
        if fitting
        else f"no other setting makes it fit; {smaller} would",
    )


def _count_fitting(
    choice: Choice, ways: Sequence[Alternative], settings: Settings, *, limit: int, most: int
) -> list[str]:
    """At most ``most`` of ``ways`` that fit, each with what it needs: counted, as a run would count it."""
    found: list[str] = []
    for way in ways:
        if len(found) < most and way.guess <= GENEROUS * limit:
            need = choice.count(way, settings)
            if need is not None and need <= limit:
                found.append(f"`{way.words}` needs {size(need)}")
    return found


def _with_adapters(lm: LanguageModel, rank: int) -> LanguageModel:
    """``lm`` without content, and with adapters of ``rank`` alone to be trained."""
    meta = torch.device("meta")
    model = fake.twin(lm.model, meta)
    with meta:
        add_adapters(model, LoraConfig(rank=rank), seed=0)
    return replace(lm, model=model)


def _more_processes(choice: Choice, near: Forecast, config: OptimConfig) -> list[Alternative]:
    """More processes: each takes its share of the sequences, and with shards of weights, gradients and
    optimiser states as well. Only so many as have equal shares."""
    now, sharded = choice.processes, choice.processes > 1 and config.parallel is Parallel.fsdp
    if not choice.sequences:
        return []
    cut = sum(near.parts[part] for part in ("weights", "gradients", "optimizer"))
    in_shards = replace(config, parallel=Parallel.fsdp)
    found = []
    for processes in (now * 2**k for k in range(4)):
        if any(count % processes for count in choice.sequences.values()):
            continue
        at_once, share = (max(count // n for count in choice.sequences.values()) for n in (now, processes))
        at_once = min(near.settings.micro_batch or at_once, at_once)
        spared = round(near.parts["activations"] * (1 - min(1.0, share / at_once)))
        less = near.needed - spared - round(cut * (1 - (now if sharded else 1) / processes))
        words = f"--nproc {processes}"
        if processes > now and not sharded and spared:
            found.append(Alternative(words, near.needed - spared, config, processes))
        shards_go = config.optimizer is not OptimizerName.adamw_8bit
        if shards_go and (processes > now or (processes > 1 and not sharded)):
            found.append(Alternative(f"{words} train.parallel=fsdp", less, in_shards, processes))
    return found


def reason(choice: Choice, *, limit: int | None) -> str:
    """Why the chosen way was chosen, for the log."""
    chosen, configured = choice.chosen, choice.configured
    assert chosen is not None
    if limit is None:
        return f"{size(chosen.needed)}, no limit"
    why = "fits"
    if chosen.needed > configured.needed:
        why = "logits are made once: there is room for them"
    elif chosen is not configured:
        more = chosen.flops / configured.flops - 1
        why = f"as configured it is {size(configured.needed)}; {more:.0%} more operations"
    return f"{size(chosen.needed)} of {size(limit)}: {why}"


def describe(choice: Choice, config: OptimConfig, *, limit: int) -> str:
    """One line for the log: what was chosen, and why."""
    assert choice.chosen is not None
    change = choice.chosen.settings.beyond(Settings.of(config)) or "as configured"
    return f"{change} ({reason(choice, limit=limit)})"
