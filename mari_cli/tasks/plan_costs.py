"""What a planned run costs besides its steps: the models that are asked before step 1, and the disk."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mari_cli.config import UnlearnRun
from mari_cli.losses.support import SupportSource
from mari_cli.models.load import LanguageModel
from mari_cli.suites.standard import Corpus
from mari_cli.suites.states import BYTES as STATES_BYTES
from mari_cli.tasks.attacking import evidence_of, passes_of, plan
from mari_cli.tasks.closing_audit import roles_of
from mari_cli.tasks.forgetting import Draws
from mari_cli.tasks.imagined_items import total_over
from mari_cli.tasks.setting import disk_of_run
from mari_cli.tasks.sources.registry import SOURCES
from mari_cli.tasks.sources.source import SourceCost
from mari_cli.tasks.supporting import source_of


def cost_of_support(config: UnlearnRun, lm: LanguageModel, draws: Draws) -> dict[str, Any]:
    """What is asked and trained before step 1, so that it is known what is supported. Operations: 2 for each
    weight and token, in training 6."""
    source = source_of(config.loss)
    if source is None:
        return {"source": None, "forward_tokens": 0, "training_tokens": 0, "operations": 0.0}
    cost = _of_source(source, config, draws)
    weights = sum(p.numel() for p in lm.model.parameters())
    return {
        "source": source.value,
        "forward_tokens": cost.forward_tokens,
        "training_tokens": cost.training_tokens,
        "operations": weights * (2.0 * cost.forward_tokens + 6.0 * cost.training_tokens),
    }


def _of_source(source: SupportSource, config: UnlearnRun, draws: Draws) -> SourceCost:
    """With the one reading of the forget data that every source begins with."""
    read = {role: total_over(items, lambda item: len(item.input_ids)) for role, items in draws.items.items()}
    tokens = {"holdout": 0, **read}
    if source is SupportSource.neighbours:
        return SourceCost(tokens["forget"] + tokens["retain"])
    cost = SOURCES[source].cost(config, draws.items, tokens)
    return replace(cost, forward_tokens=tokens["forget"] + cost.forward_tokens)


def cost_of_audit(
    config: UnlearnRun, lm: LanguageModel, corpora: Mapping[str, Corpus]
) -> dict[str, Any] | None:
    """What the attacks at the end of the run take; None where there are none, or where lengths stand for the
    corpora."""
    if config.audit is None or not corpora:
        return None
    roles = roles_of(config, second_gold=config.second_gold != "none")
    evidence = evidence_of(corpora, config, lm, roles=roles)
    cases, left_out = plan(config.audit, evidence)
    items = len(evidence.chosen)
    return {
        "cases": len(cases),
        "items": items,
        "models": len(roles),
        "forward_passes": passes_of(cases, evidence, len(roles)),
        "left_out": left_out,
    }


def cost_on_disk(config: UnlearnRun, lm: LanguageModel, draws: Draws, requests: int = 1) -> dict[str, int]:
    """Bytes that the run writes, as models/reference.py, models/context.py, supports/, suites/states.py and
    train/state.py do; without the states of retain items that are kept for validation. Of several
    ``requests`` each writes as much at most, and leaves a model."""
    vocabulary, width = lm.model.get_output_embeddings().weight.shape
    hidden = lm.model.config.get_text_config().hidden_size
    each = 2 if lm.compute.dtype.itemsize == 2 else 4
    items, needs, targets = draws.items, draws.needs, draws.targets
    source = source_of(config.loss)
    contexts = source is SupportSource.neighbours
    reference = sum(targets(role, whole=contexts) * width * each for role in needs.beside_reference)
    reference += sum(8 * draws.count(role) for role in needs.reference_log_p)
    reference += sum(targets(role, whole=False) * hidden * each for role in needs.reference_layer)
    context = support = 0
    if needs.stored_tokens is not None and source is not None:
        stored = min(needs.stored_tokens, vocabulary - 1) + 1
        forget, retain = targets("forget", whole=True), targets("retain", whole=True)
        if contexts:
            context = (forget + retain) * hidden * each + forget * stored * 8
            if "retain" not in needs.beside_reference:
                context += retain * width * each
        else:
            cost = _of_source(source, config, draws)
            support = cost.states * forget * width * each
            drawn = min(cost.drawn_tokens, vocabulary - stored)
            support += forget * (8 * stored + 4 * cost.distributions * (stored + 1 + drawn) + 4 * drawn)
            if cost.holdout_states:
                support += total_over(items.get("holdout", ()), lambda item: item.num_targets) * width * each
            if cost.training_tokens:  # the model that is trained
                support += 4 * sum(p.numel() for p in lm.model.parameters())
    measured = 0
    metrics = draws.config.metrics
    if metrics.marginal:
        for role in ("forget", "retain"):
            asked = items[role] if metrics.max_items is None else items[role][: metrics.max_items]
            measured += total_over(asked, lambda item: item.num_targets) * width * STATES_BYTES
    return {
        "reference": reference * requests,
        "context": context * requests,
        "support": support * requests,
        "measured": measured,
        "run": disk_of_run(lm.model, requests),
    }
