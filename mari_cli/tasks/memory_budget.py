"""Before step 1: does a step fit, and if not, what makes it fit."""

from collections.abc import Callable
from typing import TypeVar

import torch

from mari_cli import distributed
from mari_cli.config import Memory, OptimConfig, bytes_of
from mari_cli.losses.objective import Objective
from mari_cli.models.load import LanguageModel, checkpoint_activations
from mari_cli.progress import say
from mari_cli.train import planner
from mari_cli.train.forecast import Unforeseeable
from mari_cli.train.step import Group
from mari_cli.train.workload import heaviest_step

C = TypeVar("C", bound=OptimConfig)


def fit_to_memory(
    lm: LanguageModel, config: C, objective: Objective, items_at: Callable[[int], Group], steps: int
) -> C:
    """``config`` with the cheapest settings that fit its memory, and ``lm`` ready for them. Says what was
    chosen.

    Of several processes the one with the least memory decides, or they would take steps of different kinds
    and wait for each other. Raises UserError where nothing fits, or where the settings are not to be changed.
    """
    limit = distributed.all_reduce_min(limit_of(config, lm.device))
    if config.memory is Memory.unchecked or limit is None:
        return config
    groups = heaviest_step(items_at, steps, packed=lm.layout.packed)
    try:
        choice = planner.choose(lm, groups, objective, config, limit=limit, processes=distributed.size())
    except Unforeseeable as error:
        say(f"memory: as configured ({error})")
        return config
    planner.require(choice, config, limit=limit)
    assert choice.chosen is not None
    say(f"memory: {planner.describe(choice, config, limit=limit)}")
    settings = distributed.broadcast(choice.chosen.settings)
    if settings.gradient_checkpointing and not config.gradient_checkpointing:
        checkpoint_activations(lm.model)
    return settings.into(config)


def limit_of(config: OptimConfig, device: torch.device) -> int | None:
    """In bytes; None: no limit."""
    if config.memory_limit is not None:
        return bytes_of(config.memory_limit, "train.memory_limit")
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)  # what this process holds already is its own to use
