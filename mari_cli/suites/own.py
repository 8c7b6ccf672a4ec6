"""A suite of your own: one Python file, and a few lines of YAML that name the file.

The file has a function ``load(config)``, which reads and checks the data and returns an object with the
members of `mari_cli.suites.suite.Suite`. ``config`` has `path` and `settings` from the command line or the
YAML. This example, `capitals.py`, measures which capitals a model knows:

    from mari_cli.data.records import Record
    from mari_cli.metrics.generation import recalled
    from mari_cli.metrics.statistics import mean_estimate
    from mari_cli.suites.suite import Summary


    class Capitals:
        name = "capitals"

        def __init__(self, records, max_new_tokens):
            self.records, self.max_new_tokens = records, max_new_tokens

        def describe(self):
            return {"questions": {"records": len(self.records)}}

        def examine(self, examiner):
            items = examiner.tokenize(self.records, corpus="suite")
            scores = examiner.score(items, "capitals")
            answers = examiner.answers(items, "capitals", max_new_tokens=self.max_new_tokens)
            return [
                {"set": "questions", "item": i, "key": record.key[:16]}
                | {"recalled": float(recalled(said, record.text)), "answer_nll": score.answer_nll}
                for i, (record, score, said) in enumerate(zip(self.records, scores, answers))
            ]

        def summarise(self, rows, gold, how):
            metrics = {
                f"capitals/{name}": mean_estimate([row[name] for row in rows], how)
                for name in ("recalled", "answer_nll")
            }
            return Summary(metrics, [] if gold else ["no gold model was asked"])


    def load(config):
        lines = open(config.path, encoding="utf-8").read().splitlines()
        pairs = [line.split("\\t") for line in lines]
        records = [Record(prompt=f"What is the capital of {c}?", text=city) for c, city in pairs]
        return Capitals(records, config.settings["max_new_tokens"])

and `capitals.yaml` chooses it for `mari evaluate` (for `mari unlearn`, write `unlearn` in its first line):

    defaults: [evaluate, override suite: own, _self_]
    suite:
      name: capitals
      code: capitals.py
      path: capitals.tsv
      settings: {max_new_tokens: 8}

`mari evaluate -c capitals.yaml model.path=DIR gold=GOLD` measures it. The same without YAML: `suite=own
suite.code=capitals.py suite.path=capitals.tsv +suite.settings.max_new_tokens=8`.

The examiner caches answers and scores, so a second evaluation asks only new questions. Rows go to items.jsonl
and must have no text of the data. A metric that needs a missing `gold` is left out, with a note. The file is
run as it is, so choose only files that you trust.
"""

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mari_cli.config import OwnSuite, SuiteConfig
from mari_cli.errors import UserError, nearest
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import How
from mari_cli.places import place
from mari_cli.suites.suite import Row, Suite, Summary

if TYPE_CHECKING:
    from mari_cli.suites.examiner import Examiner

R = TypeVar("R")
MEMBERS = ("name", "describe", "examine", "summarise")
_HINT = "`python -c 'import mari_cli.suites.own as own; help(own)'` shows a whole suite"
_MEND = "mend the suite: its file is run as it is"


def load(config: SuiteConfig) -> Suite:
    """The object that `load` of the user's file returns for ``config``, checked. Raises UserError."""
    assert isinstance(config, OwnSuite)
    if config.code is None:
        raise UserError("there is no suite: `suite.code` is not set", "set `suite.code` to a Python file")
    path = place(config.code)
    if not path.is_file():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        hint = (
            f"did you mean `{path.parent / near}`?"
            if near
            else "`suite.code` is a Python file with a suite in it"
        )
        raise UserError(f"no suite at `suite.code={config.code}`: no such file", hint)
    spec = spec_from_file_location(f"own_suite_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"`suite.code={config.code}` is no Python file", _HINT)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    loader = spec.loader
    _run(config.code, path, lambda: loader.exec_module(module))
    if not callable(getattr(module, "load", None)):
        raise UserError(f"`{config.code}` has no function `load`", _HINT)
    suite: Suite = _run(config.code, path, lambda: module.load(config))
    if missing := [member for member in MEMBERS if not hasattr(suite, member)]:
        listed = ", ".join(f"`{member}`" for member in missing)
        raise UserError(f"what `load` of `{config.code}` gives is no suite: it has no {listed}", _HINT)
    if not isinstance(suite.name, str) or not suite.name.isidentifier():
        raise UserError(
            f"the suite of `{config.code}` has the name {str(suite.name)[:40]!r}",
            "a name is one word: `capitals`",
        )
    return _Guarded(suite.name, suite, config.code, path)


@dataclass
class _Guarded:
    """A user's suite: its errors are reported as the user's, and its return values are checked."""

    name: str
    suite: Suite
    code: str
    path: Path

    def describe(self) -> Mapping[str, Any]:
        found = _run(self.code, self.path, self.suite.describe)
        try:
            json.dumps(found)
        except (TypeError, ValueError) as error:
            raise self._refusal("describe", f"what JSON cannot hold: {error}") from error
        if not isinstance(found, Mapping) or not all(
            isinstance(of_set, Mapping) for of_set in found.values()
        ):
            raise self._refusal("describe", "no mapping of sets, each of them a mapping")
        return found

    def examine(self, examiner: "Examiner") -> list[Row]:
        rows = _run(self.code, self.path, lambda: self.suite.examine(examiner))
        if not isinstance(rows, list):
            raise self._refusal("examine", f"{type(rows).__name__}, no list of rows")
        for number, row in enumerate(rows, start=1):
            if told := _wrong(row):
                raise self._refusal("examine", f"a row {number} {told}")
        return rows

    def summarise(self, rows: Sequence[Row], gold: Sequence[Row] | None, how: How) -> Summary:
        summary = _run(self.code, self.path, lambda: self.suite.summarise(rows, gold, how))
        if not isinstance(summary, Summary) or not all(
            isinstance(name, str) and name.startswith(f"{self.name}/") and isinstance(of, Estimate)
            for name, of in summary.metrics.items()
        ):
            raise self._refusal("summarise", f"no `Summary` of `Estimate`s under names as `{self.name}/…`")
        return summary

    def _refusal(self, member: str, what: str) -> UserError:
        return UserError(f"`{member}` of `{self.code}` gives {what}", _HINT)


def _wrong(row: Any) -> str | None:
    """What is wrong with a row, as text; None if nothing is. Only `set`, `key` and `fact` may be text."""
    if not isinstance(row, dict):
        return "that is no dictionary"
    if not isinstance(row.get("set"), str) or type(row.get("item")) is not int:
        return "without a `set`, its name, or an `item`, its number"
    for name, value in row.items():
        if name in ("set", "key", "fact"):
            if not isinstance(value, str | None):
                return f"whose `{name}` is no text"
        elif not isinstance(value, int | float | None):
            return f"whose `{name}` is no number but {type(value).__name__}"
    return None


def _run(code: str, path: Path, call: Callable[[], R]) -> R:
    """The result of ``call``, which runs the user's file. Raises UserError with the line of any exception."""
    try:
        return call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the code is the user's, so any exception is the file's fault
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
        line = (
            getattr(error, "lineno", None) if isinstance(error, SyntaxError) else lines[-1] if lines else None
        )
        said = next(iter(str(error).splitlines()), "")
        what = f"`{code}`" + (f" line {line}" if line else "")
        told = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise UserError(f"{what} raises {told}", _MEND) from error
