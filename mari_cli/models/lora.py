"""Low-rank adapters, added to a model in place: the model keeps its class, its backbone and its head.

peft makes the layers and merges them. Functions import peft where they use it, because the import takes a
second and most runs have no adapters.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mari_cli.config import LoraConfig, Weights
from mari_cli.errors import UserError, counted, did_you_mean, first_line
from mari_cli.models.files import UNREADABLE, gist
from mari_cli.models.locate import ADAPTER_CONFIG, is_adapter
from mari_cli.places import is_there, place

ADAPTER = "default"
"""peft's name for the only adapter of a model."""
PREFIX = "base_model.model."
"""The prefix of a parameter's name in peft's files."""
TENSORS, BASE = "adapter_model.safetensors", "base.json"


def add_adapters(model: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    """Freeze ``model`` and add adapters whose product is zero at first, because one of their factors is zero.

    Without a rank in ``config`` the model is unchanged. Raises UserError where adapters do not fit the model.
    """
    if config.rank is None:
        return
    import peft

    if config.targets is not None:
        _check_targets(model, config.targets)
    _check_rank(model, config.rank)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,  # type: ignore[arg-type] # peft divides, and takes any number
        lora_dropout=config.dropout,
        target_modules=config.targets or "all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        _inject(settings, model)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"peft cannot adapt a `{type(model).__name__}`: {first_line(error).rstrip('.')}",
            "name the layers, as `model.lora.targets=[q_proj,v_proj]`, or train all weights",
        ) from error
    _check_linear(model)
    model.train(model.training)  # sets the mode of the new layers too


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
            listed = "it has " + ", ".join(f"`{word}`" for word in words)
            raise UserError(
                f"model.lora.targets: `{type(model).__name__}` has no linear layer called `{target}`",
                did_you_mean(target, words, did_you_mean(target, linear, listed)),
            )


def _check_rank(model: PreTrainedModel, rank: int) -> None:
    """Refuse a rank above the smaller side of every layer: such a rank adds weights without any effect."""
    kinds = torch.nn.Linear | Conv1D
    sides = [min(module.weight.shape) for module in model.modules() if isinstance(module, kinds)]
    if sides and rank > max(sides):
        raise UserError(
            f"model.lora.rank={rank}, but no layer of a `{type(model).__name__}` has more than {max(sides)} "
            "inputs and outputs",
            "8 to 64 are usual",
        )


def _inject(settings: Any, model: PreTrainedModel) -> None:
    import peft

    with warnings.catch_warnings():  # layouts, which peft corrects, and ties, which `settle_ties` sets
        for settled in (
            "fan_in_fan_out is set to",
            "The following (rank|alpha)_pattern keys",
            "Model has `tie_word_embeddings=True`",
            "You have requested `ensure_weight_tying`",
        ):
            warnings.filterwarnings("ignore", message=settled)
        peft.inject_adapter_in_model(settings, model, ADAPTER)


def _check_linear(model: PreTrainedModel) -> None:
    """Refuse to train adapters of layers other than plain linear ones: for the experts of a mixture, merging
    and equality with the base are not certain."""
    from peft.tuners.lora import Linear

    if not (adapted := list(_adapter_layers(model))):
        raise UserError(
            f"`{type(model).__name__}` has no linear layer to adapt",
            "leave out `model.lora.rank`: train all weights",
        )
    for name, layer in adapted:
        plain = isinstance(layer, Linear) and type(layer.get_base_layer()) in (torch.nn.Linear, Conv1D)
        if not plain:
            raise UserError(
                f"the adapter of `{name}` would be no plain linear one",
                "name linear layers, as `model.lora.targets=[q_proj,v_proj]`",
            )


def _adapter_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    if not hasattr(model, "peft_config"):  # peft sets this attribute on every model that it changes
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def has_adapters(model: torch.nn.Module) -> bool:
    return any(True for _ in _adapter_layers(model))


def describe_adapters(model: torch.nn.Module) -> str:
    """One line for the log: the layers with adapters, and the share of parameters that they train."""
    layers = [name for name, _ in _adapter_layers(model)]
    kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    where = counted(len(layers), "layer")
    return f"adapters in {where} ({kinds}): {trained / 1e6:.2f} M of {whole / 1e6:.1f} M parameters"


@contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """Inside, ``model`` computes as its base; a model without adapters computes as always."""
    layers = [layer for _, layer in _adapter_layers(model)]
    trained = [(p, p.requires_grad) for p in model.parameters()]
    for layer in layers:
        layer.enable_adapters(False)  # this also freezes the adapters
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


# -- merging -------------------------------------------------------------------------------------------------


def _merge_layer(layer: Any) -> torch.nn.Module:
    """The plain layer that computes the same as ``layer``. Merging is in float32 on the CPU, so that merging
    after training and merging after loading give the same bits on every device."""
    twin = copy.deepcopy(layer).to("cpu", torch.float32)
    twin.merge()
    plain: torch.nn.Module = twin.get_base_layer()
    return plain


def merge_adapters(model: PreTrainedModel) -> None:
    """Merge all adapters into ``model``, and make all its weights trainable again."""
    _replace_adapters(model, lambda layer: _merge_layer(layer).to(layer.get_base_layer().weight.device))


def _replace_adapters(model: PreTrainedModel, plain: Callable[[Any], torch.nn.Module]) -> None:
    """Put the ``plain`` layer of each layer with adapters in its place; all weights are trainable again."""
    for name, layer in list(_adapter_layers(model)):
        model.set_submodule(name, plain(layer))
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)


def settle_ties(model: PreTrainedModel) -> None:
    """Make the configuration and the weights of ``model`` agree whether the head is tied to the embeddings.

    If the configuration tied a head with other weights, saving or loading would lose these weights.
    """
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    configs = {id(config): config for config in (model.config, model.config.get_text_config())}.values()
    if head is None or not any(getattr(config, "tie_word_embeddings", False) for config in configs):
        return
    without_content = head.weight.is_meta
    if not without_content and torch.equal(head.weight, embeddings.weight):
        head.weight = embeddings.weight
    if head.weight is not embeddings.weight:
        for config in configs:
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=False)


def merged_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of ``model`` with merged adapters, under the base's names. ``model`` does not change."""
    adapted = dict(_adapter_layers(model))
    inside = tuple(f"{name}." for name in adapted)
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not inside or not name.startswith(inside)
    }
    for name, layer in adapted.items():
        state |= {f"{name}.{part}": tensor for part, tensor in _merge_layer(layer).state_dict().items()}
    return state


# -- adapters on disk ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to."""

    path: str
    """A hub id, a directory or a .gguf file."""
    revision: str | None = None
    weights: str = Weights.float32.value
    """The type to which the base's weights were rounded while the adapter was trained."""
    sha256: str | None = None
    """Hash of the base's float32 weights before rounding; None for an adapter that mari did not write."""


def write_adapter(model: PreTrainedModel, directory: Path, base: Base) -> None:
    """Write the adapters as peft reads them, and a file that names their base."""
    from peft.utils import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    content = {f"{PREFIX}{name}": tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, directory / TENSORS, {"format": "pt"})
    settings: Any = copy.copy(model.peft_config[ADAPTER])
    settings.base_model_name_or_path, settings.revision = base.path, base.revision
    settings.save_pretrained(str(directory))
    (directory / BASE).write_text(json.dumps(asdict(base), indent=2) + "\n")


def read_base(directory: Path) -> Base:
    """The base of the adapter in ``directory``, which mari or peft wrote. Raises UserError without a base."""
    base = _named_base(directory)
    seen, there = {directory.resolve()}, _directory_of(base)
    while is_adapter(there):  # an adapter on top of another one
        if there in seen:
            raise UserError(
                f"the adapter at `{directory}` is its own base", f"name its base in its {ADAPTER_CONFIG}"
            )
        seen.add(there)
        there = _directory_of(_named_base(there))
    return base


def require_base(directory: Path) -> Base:
    """As `read_base`, and UserError is raised where the base, a local one, is gone."""
    base = read_base(directory)
    if base.path.startswith(("/", ".", "~")) and not is_there(base.path):
        raise UserError(
            f"the base of the adapter at `{directory}` is gone: no `{base.path}`",
            "put it back; `model.lora.merge=true` leaves models that need no base",
        )
    return base


def _directory_of(base: Base) -> Path:
    """The directory of ``base``, if it is one; of a run, its checkpoint."""
    there = place(base.path).resolve()
    return there / "checkpoint" if (there / "checkpoint").is_dir() else there


def _named_base(directory: Path) -> Base:
    ours = directory / BASE
    try:
        content = json.loads((ours if ours.is_file() else directory / ADAPTER_CONFIG).read_text())
        if not ours.is_file():  # peft wrote the adapter
            content = {"path": content.get("base_model_name_or_path"), "revision": content.get("revision")}
        base = Base(**content)
        if not all(isinstance(value, str | None) for value in asdict(base).values()):
            raise ValueError("its base is no text")
        _directory_of(base)  # raises where the text is no possible path
    except UNREADABLE as error:
        raise UserError(
            f"cannot read the adapter at `{directory}`: {gist(error)}",
            f"an adapter directory holds {ADAPTER_CONFIG} and {TENSORS}",
        ) from error
    if not base.path:
        raise UserError(f"the adapter at `{directory}` names no base", f"add it to its {ADAPTER_CONFIG}")
    return base


@torch.no_grad()
def apply_adapter(model: PreTrainedModel, directory: Path, base: Base) -> None:
    """Merge the adapter in ``directory`` into ``model``, its base: low-rank layers, modules that were trained
    whole (`modules_to_save`), and single tokens (`trainable_token_indices`).

    A head that differs from the embeddings after merging is no longer tied to them. Raises UserError for an
    adapter that is unreadable or does not fit ``model``.
    """
    if base.weights == Weights.bfloat16.value:
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    try:
        _inject_saved(model, directory, base)
        _fill(model, load_file(directory / TENSORS), directory, base)
        _unwrap(model)
        merge_adapters(model)
    except UNREADABLE as error:
        raise _unreadable(directory, base, error) from error
    settle_ties(model)


def shape_adapter(model: PreTrainedModel, directory: Path, base: Base) -> None:
    """Change the shapes of a ``model`` without content as `apply_adapter` does: untie the head if needed.
    Raises UserError for an adapter whose names or shapes do not fit ``model``."""
    try:
        with torch.device("meta"):
            shapes = _inject_saved(model, directory, base)
            _fill(model, {name: torch.empty(shape) for name, shape in shapes.items()}, directory, base)
        _unwrap(model)
    except UNREADABLE as error:
        raise _unreadable(directory, base, error) from error
    _replace_adapters(model, lambda layer: copy.deepcopy(layer.get_base_layer()))
    settle_ties(model)


def _unreadable(directory: Path, base: Base, error: Exception) -> UserError:
    return UserError(
        f"cannot load the adapter at `{directory}`: {gist(error)}",
        f"it must be whole, and fit its base `{base.path}`",
    )


def _inject_saved(model: PreTrainedModel, directory: Path, base: Base) -> dict[str, list[int]]:
    """Add the layers of the adapter in ``directory`` to ``model``, without their saved weights. Returns the
    shapes of these weights by their names in the file."""
    import peft

    settings = peft.PeftConfig.from_pretrained(str(directory))
    with safe_open(directory / TENSORS, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    bare = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    _check_vocabulary(model, bare, directory, base)
    _inject(settings, model)
    _check_mergeable(model, directory)
    return shapes


def _fill(model: PreTrainedModel, tensors: Mapping[str, Tensor], directory: Path, base: Base) -> None:
    """Put ``tensors``, by their names in the file, into the layers of `_inject_saved`."""
    from peft.utils import set_peft_model_state_dict

    state = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    outcome: Any = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    absent = _missing_names(model, outcome.missing_keys)
    if strays := [*absent, *outcome.unexpected_keys]:
        raise UserError(
            f"the adapter at `{directory}` does not fit its base `{base.path}`: `{strays[0]}`",
            "adapter and base must belong together",
        )


def _check_vocabulary(
    model: PreTrainedModel, shapes: Mapping[str, Sequence[int]], directory: Path, base: Base
) -> None:
    """Refuse an adapter that was trained with another size of the base's vocabulary."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    for name, module in model.named_modules():
        if not any(module is end for end in ends):
            continue
        whole = [f"{name}{part}.weight" for part in ("", ".base_layer", ".lora_B")]
        found = [shapes[key][0] for key in whole if key in shapes]
        found += [shapes[key][-1] for key in (f"{name}.lora_embedding_A",) if key in shapes]
        size = module.weight.shape[0]
        if other := [rows for rows in found if rows != size]:
            raise UserError(
                f"the adapter at `{directory}` has {counted(other[0], 'token')}, "
                f"its base `{base.path}` {size}",
                f"resize the base as for the training (`resize_token_embeddings({other[0]})`), save it, and "
                f"name it in {ADAPTER_CONFIG}",
            )


def _check_mergeable(model: PreTrainedModel, directory: Path) -> None:
    from peft.tuners.lora import Embedding, Linear
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    adapted = list(_adapter_layers(model))
    if not (adapted or any(_wrappers(model))):
        raise UserError(
            f"the adapter at `{directory}` adapts no layer of a `{type(model).__name__}`",
            "adapter and base must belong together",
        )
    for name, layer in adapted:
        if not isinstance(layer, Linear | Embedding | TrainableTokensLayer):
            raise UserError(
                f"the adapter at `{directory}` adapts `{name}` by a `{type(layer).__name__}`",
                "only low-rank adapters of plain layers are merged: merge it with peft (`merge_and_unload`)",
            )


def _wrappers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """By name, the modules that peft wraps to train all of a module or some of its rows."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            yield name, module


def _missing_names(model: torch.nn.Module, missing: list[str]) -> list[str]:
    """The names in ``missing`` that the adapter's file should have: tensors of the adapter that are not tied
    to a tensor in the file."""
    own = (".lora_", ".modules_to_save.", ".trainable_tokens_delta.")
    everything = model.state_dict(keep_vars=True)  # a tied tensor is the same object under each of its names
    given = {id(tensor) for name, tensor in everything.items() if name not in missing}
    return [
        name for name in missing if any(part in name for part in own) and id(everything[name]) not in given
    ]


def _unwrap(model: PreTrainedModel) -> None:
    """Replace each wrapped module by its trained module, or by its base with the trained rows. The weights
    change in place, so that tied weights stay tied."""
    from peft.utils.other import ModulesToSaveWrapper

    for name, wrapper in list(_wrappers(model)):
        if isinstance(wrapper, ModulesToSaveWrapper):
            model.set_submodule(name, wrapper.modules_to_save[ADAPTER])
        else:
            wrapper.token_adapter.merge()
            model.set_submodule(name, wrapper.token_adapter.get_base_layer())
