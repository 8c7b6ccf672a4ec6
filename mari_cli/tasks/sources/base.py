"""Base: q is the sharpened prediction of the model before fine-tuning, tuned a little on the retain data
alone.

The tuning is a part of a retraining, and with too little tuning the predictions are too flat. So q is p^β,
normalised, with the β at which that model's loss on the holdout data equals that of the model before step 1.
(This method is not from the paper.) q depends on nothing that the model before step 1 has memorised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from mari_cli.config import UnlearnRun
from mari_cli.data.tokenize import Item
from mari_cli.models.context import Targets
from mari_cli.models.fingerprint import weights_hash
from mari_cli.supports.asked import combined_mistakes
from mari_cli.supports.calibrate import LEAST_POWER, MOST_POWER, Calibrated, calibrated
from mari_cli.tasks.sources.asking import (
    Asking,
    calibrate_by_holdout,
    make_targets,
    of_calibration,
    tell,
    tokens_of,
)
from mari_cli.tasks.sources.prepared import (
    Prepared,
    Preparing,
    asked_of,
    epochs_of_share,
    model_before_fine_tuning,
)
from mari_cli.tasks.sources.source import SourceCost


def sharpened(log_p: Tensor, power: float) -> Tensor:
    """log q [c, V], of p to ``power``."""
    return (power * log_p).log_softmax(-1)


def prepare(here: Preparing, known: Prepared) -> Prepared:
    return replace(known, given={"base": model_before_fine_tuning(here)})


def make(asking: Asking) -> tuple[Targets, list[str]]:
    config = asking.prepared.config
    lm = asking.load(asking.target)
    before, most = weights_hash(lm.model), tokens_of(lm)
    unseen, notes = asking.unseen(lm, before)
    del lm
    tuned = asking.tuned(
        "base", asking.prepared.given["base"], asking.corpora["retain"].items, epochs_of_share(asking.config)
    )
    lm = asking.load(tuned)
    weights = weights_hash(lm.model)
    model = asking.of(lm, "forget", weights=weights)
    power = config.sharpen
    if power is None:
        on_holdout = asking.of(lm, "holdout", weights=weights)
        chunk = asking.chunk(len(model.head.weight_VD))
        found = calibrate_by_holdout(
            asking,
            Calibrated,
            lambda wanted: calibrated(
                lambda power: (
                    combined_mistakes([on_holdout], partial(sharpened, power=power), chunk=chunk).loss
                ),
                wanted.loss,
                least=LEAST_POWER,
                most=MOST_POWER,
            ),
            unseen,
            {"of": on_holdout.remembered.key, "before": before, "between": [LEAST_POWER, MOST_POWER]},
        )
        power = found.value
        setting = f"predictions to the power {power:.4g}"
        remedy = "tune its model for more or fewer epochs (`loss.support.share`), or give another holdout"
        notes += tell(of_calibration(found, setting, remedy, whose="holdout answers"))
    del lm
    return make_targets(asking, asking.combined([model], sharpened, most=most, power=power), unseen, notes)


def cost(config: UnlearnRun, items: Mapping[str, Sequence[Item]], tokens: Mapping[str, int]) -> SourceCost:
    by_holdout = asked_of(config).sharpen is None
    return SourceCost(
        tokens["holdout"] * (2 if by_holdout else 1),
        training_tokens=epochs_of_share(config) * tokens["retain"],
        holdout_states=by_holdout,
    )
