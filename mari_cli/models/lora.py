"""Low-rank adapters, put into a model in place: it stays the same class, with the same trunk and head.

peft makes the layers and merges them. It is imported where it is used: that takes a second, and most runs
have no adapters.
"""

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mari_cli.config import LoraConfig, Weights
from mari_cli.errors import UserError, nearest

ADAPTER = "default"
"""peft's name for the one adapter that a model of ours has."""
PREFIX = "base_model.model."
"""What peft's files put before a parameter's name."""
CONFIG, TENSORS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"


def add_adapters(model: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    """Freeze ``model`` and put adapters into it that do nothing yet: one factor of each is zero.

    Leaves the model alone where ``config`` asks for none.
    """
    if config.rank is None:
        return
    import peft

    if config.targets is not None:
        _check_targets(model, config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,  # type: ignore[arg-type] # peft divides, and takes any number
        lora_dropout=config.dropout,
        target_modules=config.targets or "all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    _inject(settings, model)
    model.train(model.training)  # the new layers too


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    for target in targets:
        named = [name for name in linear if name == target or name.endswith(f".{target}")]
        if any(model.get_submodule(name) is head for name in named):
            raise UserError(
                f"model.lora.targets: `{target}` is the head, which stays as it is", "leave it out"
            )
        if not named:
            words = dict.fromkeys(name.rpartition(".")[2] for name in linear)
            near = nearest(target, words) or nearest(target, linear)
            listed = ", ".join(f"`{word}`" for word in words)
            raise UserError(
                f"model.lora.targets: `{type(model).__name__}` has no linear layer called `{target}`",
                f"did you mean `{near}`?" if near else f"it has {listed}",
            )


def _inject(settings: Any, model: PreTrainedModel) -> None:
    import peft
    from peft.tuners.lora import Linear

    kind = type(model).__name__
    with _quiet():
        try:
            peft.inject_adapter_in_model(settings, model, ADAPTER)
        except (ValueError, TypeError, NotImplementedError) as error:
            gist = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"peft cannot adapt a `{kind}`: {gist}",
                "name the layers, as `model.lora.targets=[q_proj,v_proj]`, or train all weights",
            ) from error
    if not (adapted := list(_adapted(model))):
        raise UserError(
            f"`{kind}` has no linear layer to adapt", "leave out `model.lora.rank`: train all weights"
        )
    for name, layer in adapted:
        plain = isinstance(layer, Linear) and type(layer.get_base_layer()) in (torch.nn.Linear, Conv1D)
        if not plain:  # a mixture's experts or router: neither merging nor parity is sure
            raise UserError(
                f"the adapter of `{name}` would be no plain linear one",
                "name linear layers, as `model.lora.targets=[q_proj,v_proj]`",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what peft says of layouts that it corrects."""
    with warnings.catch_warnings():
        for corrected in ("fan_in_fan_out is set to", "The following (rank|alpha)_pattern keys"):
            warnings.filterwarnings("ignore", message=corrected)
        yield


def _adapted(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that adapters sit in, by name."""
    if not hasattr(model, "peft_config"):  # which peft leaves where it was
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def has_adapters(model: torch.nn.Module) -> bool:
    return any(True for _ in _adapted(model))


def describe_adapters(model: torch.nn.Module) -> str:
    """One line for the log: where they are, and how much of the model they train."""
    layers = [name for name, _ in _adapted(model)]
    kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    return (
        f"adapters in {len(layers)} layers ({kinds}): {trained / 1e6:.2f} M of {whole / 1e6:.1f} M parameters"
    )


@contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """The base model inside of ``model``; the model itself where it has no adapters."""
    layers = [layer for _, layer in _adapted(model)]
    trained = [(p, p.requires_grad) for p in model.parameters()]
    for layer in layers:
        layer.enable_adapters(False)  # which freezes them, too
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


# -- merging -------------------------------------------------------------------------------------------------


def _merged(layer: Any) -> torch.nn.Module:
    """The plain layer that does what ``layer`` does. In float32 and on the CPU, so that a model merged after
    its training and one merged after its loading are the same to the last bit, wherever that was."""
    twin = copy.deepcopy(layer).to("cpu", torch.float32)
    twin.merge()
    plain: torch.nn.Module = twin.get_base_layer()
    return plain


def merge_adapters(model: PreTrainedModel) -> None:
    """Turn ``model`` into the plain one that it amounts to, all of it trainable again."""
    for name, layer in list(_adapted(model)):
        device = layer.get_base_layer().weight.device
        model.set_submodule(name, _merged(layer).to(device))
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)


def merged_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of the plain model that ``model`` amounts to, under its names; ``model`` stays as it is."""
    adapted = dict(_adapted(model))
    inside = tuple(f"{name}." for name in adapted)
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not inside or not name.startswith(inside)
    }
    for name, layer in adapted.items():
        state |= {f"{name}.{part}": tensor for part, tensor in _merged(layer).state_dict().items()}
    return state


# -- adapters on disk ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to."""

    path: str
    """A hub id, a directory or a .gguf file."""
    revision: str | None = None
    weights: str = Weights.float32.value
    """What they were rounded to while the adapter was trained."""
    sha256: str | None = None
    """Hash of its weights in float32 before that; None for an adapter that mari did not write."""


def write_adapter(model: PreTrainedModel, directory: Path, base: Base) -> None:
    """Adapters as peft reads them, and beside them what must be known of their base."""
    from peft.utils import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    content = {f"{PREFIX}{name}": tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, directory / TENSORS, {"format": "pt"})
    settings: Any = copy.copy(model.peft_config[ADAPTER])  # where peft leaves it
    settings.base_model_name_or_path, settings.revision = base.path, base.revision
    settings.save_pretrained(str(directory))
    (directory / BASE).write_text(json.dumps(asdict(base), indent=2) + "\n")


def is_adapter(directory: Path) -> bool:
    return (directory / CONFIG).is_file() and not (directory / "config.json").is_file()


def read_base(directory: Path) -> Base:
    """The base of the adapter in ``directory``, one of ours or any of peft's."""
    try:
        if (directory / BASE).is_file():
            return Base(**json.loads((directory / BASE).read_text()))
        content = json.loads((directory / CONFIG).read_text())
        path, revision = content["base_model_name_or_path"], content.get("revision")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read the adapter at `{directory}`: {error}",
            f"an adapter directory holds {CONFIG} and {TENSORS}",
        ) from error
    if not path:
        raise UserError(f"the adapter at `{directory}` names no base", f"add it to its {CONFIG}")
    return Base(path, revision)


@torch.no_grad()
def apply_adapter(model: PreTrainedModel, directory: Path, base: Base) -> None:
    """Merge the adapter in ``directory`` into ``model``, its base."""
    import peft
    from peft.utils import set_peft_model_state_dict

    if base.weights == Weights.bfloat16.value:
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    try:
        settings = peft.PeftConfig.from_pretrained(str(directory))
        tensors = load_file(directory / TENSORS)
        _inject(settings, model)
        state = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        outcome: Any = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        gist = str(error).splitlines()[0].rstrip(".:")
        raise UserError(
            f"cannot load the adapter at `{directory}`: {gist}",
            f"it must be whole, and fit its base `{base.path}`",
        ) from error
    missing = [name for name in outcome.missing_keys if ".lora_" in name]
    if strays := [*missing, *outcome.unexpected_keys]:
        raise UserError(
            f"the adapter at `{directory}` does not fit its base `{base.path}`: `{strays[0]}`",
            "adapter and base must belong together",
        )
    merge_adapters(model)
