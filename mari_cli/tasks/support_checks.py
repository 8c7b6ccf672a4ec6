"""What is refused of `loss.support` by the configuration alone, before torch is loaded."""

from mari_cli.config import UnlearnRun
from mari_cli.errors import UserError
from mari_cli.losses.support import SETTINGS
from mari_cli.report.format import listed
from mari_cli.search.space import written

MODELS = {
    "model": "the path of a model that never saw the forget data",
    "retain_model": "the path of a small model trained on the retain data",
    "both_model": "the path of a small model trained on retain and forget data",
}


def check_support(config: UnlearnRun) -> None:
    """Raise UserError for a setting that the source needs and nobody gives, and for one that the holdout is
    to choose where there is none."""
    if (request := config.loss.support_request) is None:
        return
    asked = request.support
    source, settings = f"`loss.support.source={asked.source}`", SETTINGS[asked.source]
    for name in settings.given:
        if getattr(asked, name) is None:
            raise UserError(f"{source} needs `loss.support.{name}`", f"give {MODELS[name]}")
    if settings.tunes_own_model and asked.model is None and not config.finetunes_target:
        raise UserError(
            f"{source} needs the model before its fine-tuning, and this run does not fine-tune its target",
            "give it (`loss.support.model=PATH`), or take a source that needs none (`loss=mari_twins`)",
        )
    if asked.keys is not None:
        from mari_cli.supports.keys import read_keys  # which loads transformers

        read_keys(asked.keys)
    if not config.holdout.is_given:
        missing = {name: value for name, value in settings.by_holdout.items() if getattr(asked, name) is None}
        missing |= {name: False for name in ("quantiles", "difficulty") if getattr(asked, name)}
        if not missing:
            return
        names = listed([f"`loss.support.{name}`" for name in missing])
        values = " ".join(f"loss.support.{name}={written(value)}" for name, value in missing.items())
        chosen = "is chosen" if len(missing) == 1 else "are chosen"
        raise UserError(
            f"{names} {chosen} by the holdout, and there is none",
            "set `holdout` to data like the forget data that no model has seen, say it yourself, as "
            f"`{values}`, or take a loss that needs none (`loss=mari`)",
        )
