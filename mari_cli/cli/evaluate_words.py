"""What the words of `mari evaluate` mean: a model, logs of evaluations that others have run, or KEY=VALUE."""

from collections.abc import Sequence
from pathlib import Path

from mari_cli.errors import UserError


def read_words(
    model: str | None, overrides: Sequence[str], logs: Sequence[Path], **others: Path | None
) -> tuple[str | None, list[str]]:
    """The model and how it is evaluated. ``model`` is the first word, ``overrides`` are the words after it.
    ``logs`` come from `--from-log`; with that option the words are logs too. ``others`` are further logs by
    their key, as `gold_log`."""
    if logs:
        words = [*([model] if model else []), *overrides]
        more = [word for word in words if Path(word).exists()]
        logs, words = [*logs, *map(Path, more)], [word for word in words if word not in more]
        model, overrides = (words[0], words[1:]) if words and "=" not in words[0] else (None, words)
    if model is not None and "=" in model and not Path(model).exists():  # no model, but the first KEY=VALUE
        overrides, model = [model, *overrides], None
    return model, [*_of_logs(model, logs, **others), *overrides]


def _of_logs(model: str | None, logs: Sequence[Path], **others: Path | None) -> list[str]:
    """The overrides that `--from-log`, `--gold-log` and `--target-log` stand for."""
    beside = [f"{name}={_text(path)}" for name, path in others.items() if path is not None]
    if not logs:
        return beside
    if model is not None:
        raise UserError(
            f"`{model}` and `--from-log` at once: the numbers come from a model or from a log",
            f"leave out one of them; a further log must be there, and there is no file `{model}`",
        )
    [first, *more] = logs
    paths = [_text(log) for log in logs]
    name = f"{len(paths)} logs" if more else first.stem if first.suffix else first.name
    listed = f"[{','.join(paths)}]" if more else paths[0]
    return [f"from_log={listed}", f"model.name={_text(name)}", *beside]


def _text(path: Path | str) -> str:
    """``path`` quoted for Hydra, so that a path like `7` or `null` stays text."""
    from mari_cli.launch.typed import quote

    quoted = quote(str(path))
    return quoted if quoted.startswith("'") else f"'{quoted}'"
