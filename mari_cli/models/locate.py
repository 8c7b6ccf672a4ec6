"""Where a model lies: a directory, a run, a `.gguf` file or a name on the hub. torch is not loaded."""

from pathlib import Path

from mari_cli import hub
from mari_cli.config import ModelConfig
from mari_cli.errors import UserError
from mari_cli.places import place
from mari_cli.storage.layout import RUN
from mari_cli.storage.run import Run, without_model

ADAPTER_CONFIG = "adapter_config.json"


def find_model(path: str) -> str:
    """The directory or file at ``path`` (of a run: its checkpoint), or ``path`` as a name on the hub. Raises
    UserError for a path that does not exist."""
    local = place(path)
    if (local / "checkpoint").is_dir():
        return str(local / "checkpoint")
    if (local / RUN).is_file():
        raise without_model(Run(local))
    if local.is_file() and local.suffix != ".gguf":
        raise UserError(
            f"`{path}` is a file, but a model is a directory",
            "give the directory with its config.json, or a .gguf file",
        )
    if local.exists():
        return str(local)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or local.suffix == ".gguf":
        raise UserError(f"no model at `{path}`: no such file or directory", "check `model.path`")
    hub.settle()
    return path


def require_named(config: ModelConfig) -> None:
    """Raise UserError where ``config`` names no model."""
    if config.path is None and config.architecture is None:
        raise UserError(
            "no model is named",
            "`model.path=` takes a directory, a run or a name on the hub, as the first word of "
            "`mari audit` and of `mari evaluate` does",
        )


def require_model(path: str) -> None:
    """Raise UserError where ``path`` names no model: a user sees a typo before torch is loaded."""
    hub.require_model(path)
    refuse_other_formats(path, Path(find_model(path)))


def is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER_CONFIG).is_file() and not (directory / "config.json").is_file()


def refuse_other_formats(path: str, place: Path) -> None:
    """Refuse formats other than safetensors, above all pickles, because loading a pickle runs its code."""
    if not place.is_dir() or is_adapter(place):
        return
    if not (place / "config.json").is_file():
        raise UserError(
            f"no model in `{path}`: it has no config.json",
            "a model directory holds config.json, *.safetensors and tokenizer.json",
        )
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in place.glob(pattern))
    if pickles and not any(place.glob("*.safetensors")):
        raise UserError(
            f"the weights in `{path}` are pickled (`{pickles[0]}`), and a pickle can run any code",
            "where you trust it, load it with transformers and `save_pretrained` it: that writes safetensors",
        )
