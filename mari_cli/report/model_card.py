"""The card of a model that a run made: README.md of its checkpoint, in the form of the Hugging Face hub.

It is meant to be published. So it holds counts, hashes and numbers, and no word of the data; a place on this
machine is cut to its last name, and the note on a request is left out.
"""

import os
import re
import shlex
from collections.abc import Iterator
from math import isfinite

from mari_cli.docs import pages
from mari_cli.errors import counted, one_line
from mari_cli.metrics.corpora import suite_of
from mari_cli.metrics.estimate import Estimate
from mari_cli.report.comparison import comparison_rows, metric_of, results
from mari_cli.report.format import interval, listed, number
from mari_cli.report.gold_distance import in_short
from mari_cli.report.narrative import confidence, summarise
from mari_cli.report.read import RunData
from mari_cli.search.aim import BESIDE, OURS
from mari_cli.suites.registry import headlines

CARD = "README.md"
ADAPTER = "adapter_config.json"
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
PRIVATE = ("request.note", "request.key")
"""Settings that are left out of the command: a note may name a person, a key is nobody's business."""


def model_card(run: RunData) -> str:
    """The card of the model that ``run`` made: YAML for the hub, then Markdown for people."""
    head = [f"# {_plain(_title(run))}", _plain(summarise([run]).headline)]
    # its headings are one level deeper here
    proof = re.sub(r"^#", "##", pages.find(pages.WHAT_IT_PROVES).text, flags=re.MULTILINE).strip()
    parts = [*head, *_request(run), *_numbers(run), proof, *_use(run), *_origin(run)]
    return f"---\n{_front_matter(run)}\n---\n\n" + "\n\n".join(parts) + "\n"


# -- for the hub ---------------------------------------------------------------------------------------------


def _front_matter(run: RunData) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = base_in_hub(run)
    adapter = _is_adapter(run)
    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=_dataset(name).replace(" ", "-"),
            dataset_name=_dataset(name),
            metric_type=name,
            metric_name=metric_of(name).label,
            metric_value=estimate.value,
            metric_args={"n": estimate.n, "low": estimate.low, "high": estimate.high},
        )
        for name, estimate in _headlines(run)
        if isfinite(estimate.value)
    ]
    data = ModelCardData(
        model_name=_title(run),
        base_model=base,
        base_model_relation="adapter" if adapter and base else "finetune" if base else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["mari", *(["machine-unlearning", run.loss] if run.task == "unlearn" and run.loss else [])],
        eval_results=found or None,
    )
    return str(data.to_yaml()).strip()


def base_in_hub(run: RunData) -> str | None:
    """The model of a hub that the run began with; None: it lay on this machine, or was made here."""
    path = run.setting("model.path")
    return path if path and HUB_ID.fullmatch(path) and not os.path.exists(path) else None


def _dataset(metric: str) -> str:
    """What a metric is of: a benchmark, a suite, or the corpora of the run."""
    group, _, name = metric.partition("/")
    return name if group == "benchmark" else suite_of(metric) or "own corpora"


def _is_adapter(run: RunData) -> bool:
    return (run.path / "checkpoint" / ADAPTER).is_file()


def _headlines(run: RunData) -> Iterator[tuple[str, Estimate]]:
    """What was measured of the model itself: the metrics of a short table."""
    metrics = next(run.models[role].metrics for role in OURS if role in run.models)
    benchmarks = [name for name in metrics if name.startswith("benchmark/")]
    for name in dict.fromkeys([*headlines("terminal"), *benchmarks]):
        if name in metrics:
            yield name, metrics[name]


# -- for people ----------------------------------------------------------------------------------------------


def _title(run: RunData) -> str:
    done = f"unlearned by {run.loss}" if run.task == "unlearn" else "fine-tuned"
    return one_line(f"{run.setting('model.name') or 'a model'}, {done}")


def _request(run: RunData) -> list[str]:
    records = {
        role: of["records"] for role, of in run.data.items() if role in ("forget", "retain", "holdout")
    }
    sizes = listed([f"{counted(count, 'record')} of the {role} corpus" for role, count in records.items()])
    if run.task != "unlearn":
        learned = {"both": "the forget and the retain corpus", "retain": "the retain corpus alone"}
        on = learned.get(str(run.setting("corpora")), f"the {run.setting('corpora')} corpus")
        return ["## What it learned", f"It was trained on {on}. The data: {sizes}. Nothing was forgotten."]
    request = run.setting("request.id")
    ids = [part.strip() for part in str(request).split(",")] if request is not None else []
    told = (
        f"Asked for by {listed([_code(i) for i in dict.fromkeys(ids)])}." if ids else "No request is named."
    )
    gone = f"{counted(records['forget'], 'record')} were to be forgotten" if "forget" in records else ""
    return [
        "## What was to be forgotten",
        f"{gone or 'Data of a suite was to be forgotten'}. {told} No word of the data stands here; "
        "`manifest.json` of the run holds the SHA-256 of each record.",
        f"What was used: {sizes}." if sizes else "The sizes of the data stand in the run's `data.json`.",
    ]


def _numbers(run: RunData) -> list[str]:
    roles = [role for role in BESIDE if role in run.models]
    header = ["metric", *(BESIDE[role] for role in roles), "n"]
    lines = [header, ["---"] * len(header)]
    for name, estimate in _headlines(run):
        cells = [_cell(run.models[role].metrics.get(name)) for role in roles]
        lines.append([_plain(metric_of(name).label), *cells, str(estimate.n)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    [row] = results(comparison_rows([run]))
    far = in_short(row) or "The distance to gold is not known: no gold model was measured, or none of before."
    gold = "*Gold* never saw the forget data. " if "gold" in run.models else ""
    before = "*Before* is the model that the run began to unlearn. " if "target" in run.models else ""
    return [
        "## What was measured",
        f"{before}{gold}In brackets: {confidence([run])} intervals over n items. Every metric is defined by "
        "`mari metrics NAME`.",
        table,
        "## How far from gold",
        _plain(far),
    ]


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    between = interval(estimate.low, estimate.high)
    return f"{number(estimate.value)} [{between}]" if between else number(estimate.value)


def _use(run: RunData) -> list[str]:
    if _is_adapter(run):
        base = base_in_hub(run) or "BASE"
        lines = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'base = AutoModelForCausalLM.from_pretrained("{base}")',
            'model = PeftModel.from_pretrained(base, "PLACE")',
            'tokenizer = AutoTokenizer.from_pretrained("PLACE")',
        ]
        about = "These are adapters alone; `base.json` holds the hash of the weights that they belong to."
    else:
        lines = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("PLACE")',
            'tokenizer = AutoTokenizer.from_pretrained("PLACE")',
        ]
        about = "`PLACE` is this repository, or the folder of this file."
    return ["## How to load it", about, "\n".join(["```python", *lines, "```"])]


def _origin(run: RunData) -> list[str]:
    packages = run.environment.get("packages") or {}
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "transformers") if packages.get(name)
    )
    steps = run.training.steps if run.training else None
    told = [
        f"seed {run.seed}",
        *([counted(steps, "step")] if steps is not None else []),
        f"begun {run.created}",
    ]
    return [
        "## How it was made",
        f"    {one_line(shlex.join(_publishable(run.command)))}",
        _plain(f"By mari, {', '.join(told)}{f'; {versions}' if versions else ''}.")
        + " A place on the machine that made it is cut to its last name.",
    ]


def _publishable(command: list[str]) -> list[str]:
    """``command`` without what is private, and without where things lay."""
    return [
        re.sub(r"(^|[=,'\"\[{ ])[~/][^,'\"\[\]{}]*/", r"\1…/", word)
        for word in command
        if word.partition("=")[0] not in PRIVATE
    ]


def _plain(text: str) -> str:
    """``text`` as Markdown shows it, whatever signs it has."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", one_line(text))


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{one_line(text)}{fence}"
