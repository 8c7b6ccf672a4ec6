"""Checks that refuse a model before training, if the model cannot be built, saved or loaded again."""

import math
import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from mari_cli.errors import UserError, did_you_mean
from mari_cli.models.files import (
    UNREADABLE,
    check_memory,
    check_shapes,
    check_sizes,
    gist,
    system_errors,
    unbuildable,
)
from mari_cli.storage import atomic

if TYPE_CHECKING:  # which imports this file
    from mari_cli.models.load import LanguageModel


def check_buildable(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> None:
    """Raise one of UNREADABLE where no model can be built from ``config`` on this machine."""
    check_sizes(config)
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    check_shapes(shapes)
    check_memory(sum(parameter.numel() for parameter in shapes.parameters()))


def config_of(architecture: dict[str, Any], **ours: Any) -> PreTrainedConfig:
    """The configuration of `model.architecture`, with ``ours`` in place of its values. Raises UserError."""
    values = dict(architecture)
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise UserError("model.architecture has no `model_type`", "for instance `model_type: gpt2`")
    check_fields(model_type, values)
    try:
        return AutoConfig.for_model(model_type, **values | ours)
    except UNREADABLE as error:
        raise unbuildable(model_type, error) from error


def check_fields(model_type: Any, values: dict[str, Any]) -> None:
    """Refuse unknown fields. transformers ignores them, so a typo would go unnoticed."""
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        otherwise = "it is one of transformers' names, as `gpt2` or `llama`"
        raise UserError(
            f"no architecture is called `{model_type}`",
            did_you_mean(str(model_type), CONFIG_MAPPING, otherwise),
        )
    schema: Any = CONFIG_MAPPING[model_type]
    known = {field.name for field in fields(schema)} | set(schema.attribute_map)
    for name in values:
        if name not in known:
            raise UserError(
                f"unknown config key `model.architecture.{name}`: a `{model_type}` has no such field",
                did_you_mean(name, known, "see its configuration class", key="model.architecture."),
            )


def check_finite(model: PreTrainedModel, where: str) -> None:
    """Refuse weights with NaN or an infinity: everything computed with them would be NaN too."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            least, most = (
                float(end) for end in tensor.aminmax()
            )  # both are NaN where the tensor holds a NaN
            if not (math.isfinite(least) and math.isfinite(most)):
                count = int((~tensor.isfinite()).sum())
                raise UserError(
                    f"the weights of `{where}` are damaged: {count} of the {tensor.numel()} numbers of "
                    f"`{name}` {'is' if count == 1 else 'are'} NaN or infinite",
                    "take the weights from their source again, or from an earlier step of their training",
                )


def check_saving(lm: "LanguageModel") -> None:
    """Raise UserError, before training, for a model that could not be loaded again after it is saved.

    The check saves and loads everything except the weights. It compares names, shapes and ties of the weights
    with those of a model without content, made from the saved configuration. ``lm`` has no adapters.
    """
    kind = type(lm.model)
    hint = "mend the files of the model, or load and save it with transformers first"
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            atomic.retold_disk_errors(Path(directory)),
            system_errors(),
        ):
            lm.model.config.save_pretrained(directory)
            config = type(lm.model.config).from_pretrained(directory)
            if lm.model.can_generate():
                lm.model.generation_config.save_pretrained(directory)
                GenerationConfig.from_pretrained(directory)
            lm.tokenizer.save_pretrained(directory)
            again = AutoTokenizer.from_pretrained(directory)
        with torch.device("meta"):
            twin = kind(config)
    except UNREADABLE as error:
        raise UserError(
            f"`{lm.name}` could not be loaded again once it is saved: {gist(error)}", hint
        ) from error
    if again.get_vocab() != lm.tokenizer.get_vocab():
        raise UserError(f"the tokenizer of `{lm.name}` is another once it is saved and loaded again", hint)
    ours, theirs = _shapes(lm.model), _shapes(twin)
    if different := sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    ):
        name = different[0]
        found, wanted = (shapes.get(name, "not there") for shapes in (ours, theirs))
        raise UserError(
            f"`{lm.name}` could not be loaded again once it is saved: `{name}` is {found}, but {wanted} "
            "by its configuration",
            hint,
        )


def _shapes(model: PreTrainedModel) -> dict[str, str]:
    """By name, the shape of each weight, and the name under which a tied weight is saved."""
    first: dict[int, str] = {}
    shapes = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tied = first.setdefault(id(tensor), name)
        shapes[name] = f"{list(tensor.shape)}" + (f" of `{tied}`" if tied != name else "")
    return shapes


def misfit_of(model: PreTrainedModel, info: dict[str, Any]) -> str | None:
    """The contradiction between weights and configuration, in words; None where there is none.

    Weights that the model does not use are ignored, except the weights of further layers.
    """
    if missing := sorted(info["missing_keys"]):
        weights = "1 weight is" if len(missing) == 1 else f"{len(missing)} weights are"
        return f"{weights} missing, `{missing[0]}` among them"
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        return f"`{name}` is {list(found)}, not {list(wanted)}"

    def kind(name: str) -> str:
        return re.sub(r"\d+", "#", name)

    kinds = {kind(name) for name in model.state_dict()}
    if surplus := sorted(name for name in info["unexpected_keys"] if kind(name) in kinds):
        return f"it has more layers than the config says, `{surplus[0]}` in one of them"
    return None
