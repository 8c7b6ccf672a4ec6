"""A suite of your own: one Python file, and a few lines of YAML to choose it.

The file has a function ``load(config)``, which reads and checks the data and gives an object with the members
of `mari_cli.suites.suite.Suite`. ``config`` has `path` and `settings` from the command line or the YAML.
Which capitals does a model know? `capitals.py`:

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
            interval = {"resamples": how.resamples, "confidence": how.confidence, "seed": how.seed}
            metrics = {
                f"capitals/{name}": mean_estimate([row[name] for row in rows], **interval)
                for name in ("recalled", "answer_nll")
            }
            return Summary(metrics, [] if gold else ["no gold model was asked"])


    def load(config):
        lines = open(config.path, encoding="utf-8").read().splitlines()
        pairs = [line.split("\\t") for line in lines]
        records = [Record(prompt=f"What is the capital of {c}?", text=city) for c, city in pairs]
        return Capitals(records, config.settings["max_new_tokens"])

and `capitals.yaml`, for `mari evaluate` (for `mari unlearn`, write that in its first line):

    defaults: [evaluate, override suite: own, _self_]
    suite:
      name: capitals
      code: capitals.py
      path: capitals.tsv
      settings: {max_new_tokens: 8}

Then `mari evaluate -c capitals.yaml model.path=DIR gold=GOLD`. The same without YAML: `suite=own
suite.code=capitals.py suite.path=capitals.tsv +suite.settings.max_new_tokens=8`.

What the examiner is asked is kept: a second evaluation asks only what is new. Rows go to items.jsonl and hold
no word of the data; a metric that needs `gold` and has none is left out, with a note. The file is run as it
is: choose one that you would run yourself.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location

from mari_cli.config import OwnSuite, SuiteConfig
from mari_cli.errors import UserError, nearest
from mari_cli.places import place
from mari_cli.suites.suite import Suite

MEMBERS = ("name", "describe", "examine", "summarise")


def load(config: SuiteConfig) -> Suite:
    """What the `load` of the user's file gives for ``config``."""
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
    hint = "`python -c 'import mari_cli.suites.own as own; help(own)'` shows a whole suite"
    spec = spec_from_file_location(f"own_suite_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"`suite.code={config.code}` is no Python file", hint)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if not callable(getattr(module, "load", None)):
        raise UserError(f"`{config.code}` has no function `load`", hint)
    suite: Suite = module.load(config)
    if missing := [member for member in MEMBERS if not hasattr(suite, member)]:
        listed = ", ".join(f"`{member}`" for member in missing)
        raise UserError(f"what `load` of `{config.code}` gives is no suite: it has no {listed}", hint)
    return suite
