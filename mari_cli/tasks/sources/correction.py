"""Corrections: q is the model before step 1, changed by what other models say, times a weight."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from mari_cli.models.context import Targets
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import LanguageModel
from mari_cli.supports.asked import Asked, combined_mistakes
from mari_cli.supports.calibrate import Calibrated, calibrated
from mari_cli.tasks.sources.asking import Asking, calibrate_by_holdout, make_targets, of_calibration, tell

MOST_WEIGHT = 16.0
"""Where the weight of a correction is looked for."""


def apply_correction(
    asking: Asking,
    lm: LanguageModel,
    others: Sequence[Asked],
    combine: Callable[..., Tensor],
    *,
    said: Callable[[Asked, slice], Tensor] = Asked.log_p,
) -> tuple[Targets, list[str]]:
    """The targets that ``combine`` makes of ``lm``, which is the model before, and of ``others``, with the
    weight of the configuration, or with that which the holdout chooses."""
    before = weights_hash(lm.model)
    unseen, notes = asking.unseen(lm, before)
    models = [asking.of(lm, "forget", weights=before), *others]
    weight = asking.prepared.config.weight
    if weight is None:
        vocabulary = min(len(model.head.weight_VD) for model in models)
        cut, keys = [model.cut(vocabulary) for model in models], [model.remembered.key for model in models]

        def loss(weight: float) -> float:
            q = partial(combine, weight=weight)
            chunk = asking.chunk(vocabulary)
            return combined_mistakes(cut, q, chunk=chunk, said=said, harder=unseen.harder).loss

        found = calibrate_by_holdout(
            asking,
            Calibrated,
            lambda wanted: calibrated(loss, wanted.loss, least=0.0, most=MOST_WEIGHT),
            unseen,
            {"models": keys, "combined": combine.__name__, "before": before, "most": MOST_WEIGHT},
        )
        weight = found.value
        remedy = "give a holdout more like the forget data, or another source (`loss=mari_twins`)"
        setting = f"a correction of weight {weight:.4g}"
        notes += tell(of_calibration(found, setting, remedy, whose=unseen.answers))
    return make_targets(asking, asking.combined(models, combine, said=said, weight=weight), unseen, notes)
