"""Benchmarks of lm_eval on a model in memory: MMLU, ARC, HellaSwag, WikiText, WMDP, or any other by name.

lm_eval chooses the questions, their wording and how an answer is scored, so the metrics are those of its own
command. Answers are cached task by task, under a hash of everything that determines them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.special import expit, logit
from scipy.stats import norm
from transformers import PreTrainedTokenizerBase

from mari_cli import distributed
from mari_cli.config import MetricsConfig
from mari_cli.errors import UserError
from mari_cli.metrics.estimate import Estimate
from mari_cli.metrics.statistics import How, perplexity_estimate, proportion_estimate, ratio_estimate
from mari_cli.metrics.version import version_of
from mari_cli.progress import Track, say
from mari_cli.storage import hashing, json_cache
from mari_cli.storage.hashing import key_hash
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.lm_metrics import MMLU_SAMPLE, benchmark_name, range_of
from mari_cli.suites.suite import Row

if TYPE_CHECKING:  # lm_eval takes seconds to import, which a run without benchmarks saves
    from lm_eval.api.group import Group

    from mari_cli.suites.lm_tasks import Benchmark, Benchmarks, Questions

CODE = tuple(f"mari_cli.suites.{module}" for module in ("benchmarks", "lm_tasks", "lm_model", "mmlu_sample"))
"""The modules whose code determines an answer, a row or a standard error: a part of every cache key."""
OF_BENCHMARKS = ("benchmarks", "benchmark_limit", "benchmark_root", "benchmark_chat_template", "fewshot")
"""Settings that apply to benchmarks alone."""
RESAMPLES = 200
"""Resamples for the standard error of a metric that is no mean of items (F1, BLEU): enough for two digits."""
ROLLING = {"word_perplexity": "words", "byte_perplexity": "bytes", "bits_per_byte": "bytes"}
"""Metrics of running text, and the unit that each is divided by."""


def check_benchmarks(config: MetricsConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Read every question, so that an unusable benchmark is refused before a model runs. Raises UserError."""
    if not config.benchmarks:
        return
    if config.benchmark_chat_template and tokenizer.chat_template is None:
        raise UserError(
            "`metrics.benchmark_chat_template=true`, and the tokenizer has no chat template",
            "leave it out: the questions are then asked as they are",
        )
    if set(config.benchmarks) != {MMLU_SAMPLE}:  # lm_eval lists its tasks first, which takes seconds
        say(f"benchmarks: {', '.join(config.benchmarks)}")
    _read(config)


def check_without_generation(config: MetricsConfig) -> None:
    """Refuse benchmarks that need generated answers, because weights in shards do not generate."""
    if not config.benchmarks:
        return
    for questions in _read(config).questions.values():
        if questions.task.OUTPUT_TYPE == "generate_until":
            raise UserError(
                f"`{questions.name}` wants generated answers, which are not followed with weights in shards",
                "use `train.parallel=ddp`, or leave it out of `metrics.benchmarks`",
            )


def describe_benchmarks(config: MetricsConfig) -> dict[str, dict[str, Any]]:
    """The questions, for data.json: by benchmark their number and hash, and how they are asked."""
    if not config.benchmarks:
        return {}
    from mari_cli.suites.lm_tasks import VERSION

    read = _read(config)
    described = {}
    for benchmark in read.wanted:
        parts = [read.questions[name] for name in benchmark.parts]
        described[f"benchmark/{benchmark.name}"] = {
            "tasks": len(parts),
            "items": sum(part.count for part in parts),
            "limit": config.benchmark_limit,
            "examples": _one_or_all(part.fewshot for part in parts),
            "version": _one_or_all(part.task.VERSION for part in parts),
            "lm_eval": VERSION,
            "chat_template": config.benchmark_chat_template,
            "sha256": hashing.content_hash([[part.name, part.sha256] for part in parts]),
        }
    return described


def _one_or_all(values: Iterable[Any]) -> Any:
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else different


def _read(config: MetricsConfig) -> "Benchmarks":
    from mari_cli.suites import lm_tasks

    return lm_tasks.read(
        tuple(config.benchmarks),
        root=config.benchmark_root,
        limit=config.benchmark_limit,
        fewshot=config.fewshot,
    )


def benchmarks(examiner: Examiner) -> tuple[dict[str, Estimate], list[Row]]:
    """Every benchmark that the examiner's config names: metrics by full name, and a row for each question.

    Several processes share the tasks; all processes get all results.
    """
    if not examiner.config.benchmarks:
        return {}, []
    from mari_cli.suites.lm_tasks import lm_evals_own

    read = _read(examiner.config)
    answered = _answered(examiner, list(read.questions.values()))
    figures: dict[str, Estimate] = {}
    with lm_evals_own():
        for benchmark in read.wanted:
            for name in benchmark.reported:
                figures |= _figures(name, benchmark, answered, examiner)
    return figures, [row for name in read.questions for row in answered[name].rows]


# -- asking --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One metric of a task over all its questions."""

    value: float | None
    """None: the value is not finite."""
    stderr: float | None
    items: int
    proportion: bool
    """Whether each answer is right or wrong, so that the metric is the share of right ones."""


@dataclass(frozen=True)
class Answered:
    """The scores and rows of one model's answers to one task."""

    name: str
    items: int
    judged: dict[str, Judged]
    """By lm_eval's name, as `acc,none`: metric and filter."""
    rows: list[Row]


def _answered(examiner: Examiner, questions: Sequence["Questions"]) -> dict[str, Answered]:
    """Results by task, read from the cache if they are there."""
    paths = {task.name: _path(examiner, task) for task in questions}
    found: dict[str, Any] = {name: json_cache.read(path) if path else None for name, path in paths.items()}
    # the longest first, so that processes wait little for each other
    open_ones = sorted((task for task in questions if found[task.name] is None), key=lambda task: -task.count)
    if open_ones:
        title = f"{examiner.name}: benchmarks"
        with _open_evaluator(examiner) as ask, _Bar(examiner.track, title, open_ones) as bar:
            shared = examiner.lm.in_shards  # all processes gather shards together
            contents = (
                (ask(task, bar) for task in open_ones)
                if shared
                else distributed.map_over_processes(open_ones, lambda task: ask(task, bar))
            )
            for task, content in zip(open_ones, contents, strict=True):
                bar.count_task(task)
                path = paths[task.name]
                found[task.name] = json_cache.write(path, content) if path else content
    return {name: _answered_of(content) for name, content in found.items()}


def _answered_of(content: dict[str, Any]) -> Answered:
    judged = {key: Judged(**of_key) for key, of_key in content["judged"].items()}
    return Answered(content["name"], content["items"], judged, content["rows"])


def _path(examiner: Examiner, task: "Questions") -> Path | None:
    if examiner.cache is None:
        return None
    from mari_cli.suites.lm_tasks import VERSION

    config, tokenizer = examiner.config, examiner.lm.tokenizer
    asked = {
        "lm_eval": VERSION,
        "task": [task.name, task.task.VERSION, task.config_hash, task.sha256],
        "limit": task.limit,
        "fewshot": task.fewshot,
        "chat_template": bool(config.benchmark_chat_template and tokenizer.chat_template),
        "batch_size": config.batch_size,
    }
    key = key_hash(examiner.key("benchmarks", version_of(*CODE), asked))
    return examiner.cache / "benchmarks" / key[:2] / f"{key}.json"


@contextmanager
def _open_evaluator(examiner: Examiner) -> Iterator[Callable[["Questions", "_Bar"], dict[str, Any]]]:
    """A function that asks the model the questions of one task; the model's mode is restored afterwards."""
    from lm_eval import evaluator

    from mari_cli.suites import lm_tasks
    from mari_cli.suites.lm_model import InMemory

    chat = examiner.config.benchmark_chat_template
    was_training = examiner.lm.model.training
    with lm_tasks.lm_evals_own():
        model = InMemory(examiner.lm, batch_size=examiner.config.batch_size)

    def ask(questions: "Questions", bar: "_Bar") -> dict[str, Any]:
        task = lm_tasks.fresh(questions.task)
        model.progress = lambda share: bar.share(questions, share)
        with lm_tasks.lm_evals_own():
            # `simple_evaluate` would reseed every global generator for good
            results = evaluator.evaluate(
                lm=model,
                task_dict={"tasks": {questions.name: task}, "groups": {}},
                limit=questions.limit,
                bootstrap_iters=0,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                system_instruction=examiner.lm.style.system if chat else None,
            )
            return _content(questions.name, task, results)

    try:
        yield ask
    finally:
        examiner.lm.model.train(was_training)


def _content(name: str, task: Any, results: Mapping[str, Any]) -> dict[str, Any]:
    """`Answered` as JSON."""
    from lm_eval.api.metrics import mean, mean_stderr

    from mari_cli.suites.lm_tasks import order_metrics

    figures, samples = results["results"][name], results["samples"][name]
    judged: dict[str, dict[str, Any]] = {}
    rows: dict[int, Row] = {}
    ways = list(dict.fromkeys(sample["filter"] for sample in samples))
    for way in ways:
        of_way = [sample for sample in samples if sample["filter"] == way]
        for sample in of_way:
            item = sample["doc_id"]
            row = rows.setdefault(item, {"set": name, "item": item, "key": sample["doc_hash"][:16]})
            for metric in sample["metrics"]:
                row |= _numbers(metric if way == ways[0] else f"{metric}_{way}", sample[metric])
        for metric in order_metrics(task):
            values = [sample[metric] for sample in of_way if metric in sample["metrics"]]
            aggregate = task.aggregation().get(metric, mean)
            stderr = None
            if len(values) > 1 and metric not in ROLLING:
                stderr = mean_stderr(values) if aggregate is mean else _resampled(aggregate, values)
            if values:
                judged[f"{metric},{way}"] = asdict(
                    Judged(
                        value=_finite(figures[f"{metric},{way}"]),
                        stderr=_finite(stderr),
                        items=len(values),
                        proportion=aggregate is mean and all(value in (0, 1) for value in values),
                    )
                )
    return {
        "name": name,
        "items": results["n-samples"][name]["effective"],
        "judged": judged,
        "rows": [rows[item] for item in sorted(rows)],
    }


def _numbers(metric: str, value: Any) -> Row:
    """The numbers of a score, for a row. Generated text and the like are left out."""
    if metric in ROLLING:
        return {"loglikelihood": float(value[0]), ROLLING[metric]: int(value[1])}
    try:
        return {metric.replace("-", "_"): float(value)}
    except (TypeError, ValueError):
        return {}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _resampled(aggregate: Callable[[Sequence[Any]], float], values: Sequence[Any]) -> float:
    """The standard error of ``aggregate`` over resamples of the items."""
    import numpy as np

    generator, n = np.random.default_rng(0), len(values)
    drawn = [aggregate([values[i] for i in generator.integers(n, size=n)]) for _ in range(RESAMPLES)]
    return float(np.std(drawn, ddof=1))


class _Bar:
    """One progress bar over the questions of all tasks."""

    def __init__(self, track: Track, title: str, tasks: Sequence["Questions"]) -> None:
        total = sum(task.count for task in tasks)
        self.before, self.shown = 0, 0
        self.ticks = iter(track(range(total), title, total))

    def __enter__(self) -> "_Bar":
        next(self.ticks, None)
        return self

    def __exit__(self, *error: object) -> None:
        close: Callable[[], None] = getattr(self.ticks, "close", lambda: None)
        close()

    def share(self, task: "Questions", share: float) -> None:
        """Show the answered share of ``task``, which is now running."""
        self._reach(self.before + int(share * task.count))

    def count_task(self, task: "Questions") -> None:
        self.before += task.count
        self._reach(self.before)

    def _reach(self, done: int) -> None:
        while self.shown < done:
            next(self.ticks, None)
            self.shown += 1


# -- figures -------------------------------------------------------------------------------------------------


def _figures(
    name: str, benchmark: "Benchmark", answered: Mapping[str, Answered], examiner: Examiner
) -> dict[str, Estimate]:
    """The metrics of one task or group, under full names."""
    confidence = examiner.config.confidence
    if name in benchmark.groups:
        of_group = _together(benchmark.groups[name], answered)
        names = _full_names(name, list(of_group))
        return {names[key]: estimate(_metric(key), found, confidence) for key, found in of_group.items()}
    task = answered[name]
    names = _full_names(name, list(task.judged))
    return {
        names[key]: _of_text(key, found, task.rows, examiner)
        if _metric(key) in ROLLING and found.value is not None
        else estimate(_metric(key), found, confidence)
        for key, found in task.judged.items()
    }


def _together(group: "Group", answered: Mapping[str, Answered]) -> dict[str, Judged]:
    """The metrics of a group, which lm_eval computes from its tasks."""
    members = [answered[task.task_name] for task in group.get_all_tasks()]
    of_tasks: dict[str, dict[str, Any]] = {}
    for member in members:
        of_tasks[member.name] = {"sample_len": member.items}
        for key, judged in member.judged.items():
            of_tasks[member.name][key] = math.nan if judged.value is None else judged.value
            of_tasks[member.name][_stderr(key)] = "N/A" if judged.stderr is None else judged.stderr
    together = group.aggregate(of_tasks)
    found = {}
    for part in group.aggregate_metric_list or []:
        for key in [key for key in together if key.startswith(f"{part.metric},")]:
            stderr = together[_stderr(key)]
            found[key] = Judged(
                value=_finite(together[key]),
                stderr=None if stderr == "N/A" else _finite(stderr),
                items=together["sample_count"][key],
                proportion=part.weight_by_size
                and all(member.judged[key].proportion for member in members if key in member.judged),
            )
    return found


def _stderr(key: str) -> str:
    """lm_eval's name for the standard error of a key like `acc,none`."""
    metric, _, way = key.partition(",")
    return f"{metric}_stderr,{way}"


def _full_names(name: str, keys: Sequence[str]) -> dict[str, str]:
    """Full names by lm_eval's keys of a task or group; a full name omits the first filter."""
    parts = [key.partition(",") for key in keys]
    of_first = [metric for metric, _, way in parts if way == parts[0][2]]
    return {
        key: benchmark_name(name, metric, of_first)
        if way == parts[0][2]
        else f"benchmark/{name}_{metric}_{way.replace('-', '_')}"
        for key, (metric, _, way) in zip(keys, parts, strict=True)
    }


def _metric(key: str) -> str:
    """lm_eval's metric in a key like `acc,none`."""
    return key.partition(",")[0]


def estimate(metric: str, judged: Judged, confidence: float) -> Estimate:
    """An estimate of lm_eval's ``metric`` whose interval stays within the metric's range.

    A share of right answers gets Wilson's interval. For others lm_eval's standard error gives it: on the
    scale of log-odds within the range, or the normal interval where there is no range.
    """
    value, n = judged.value, judged.items
    if value is None:
        return Estimate(value=math.nan, n=n)
    if judged.proportion:
        wilson = proportion_estimate(round(value * n), n, confidence=confidence)
        return Estimate(value=value, n=n, low=wilson.low, high=wilson.high)
    if not judged.stderr:
        return Estimate(value=value, n=n)
    half = float(norm.ppf((1 + confidence) / 2)) * judged.stderr
    least, most = range_of(metric)
    if math.isinf(least):
        return Estimate(value=value, n=n, low=value - half, high=value + half)
    if math.isinf(most):
        return Estimate(value=value, n=n, low=max(least, value - half), high=value + half)
    share = (value - least) / (most - least)
    if not 0 < share < 1:
        return Estimate(value=value, n=n)
    reach = half / (most - least) / (share * (1 - share))
    low, high = (least + (most - least) * float(expit(logit(share) + to)) for to in (-reach, reach))
    return Estimate(value=value, n=n, low=low, high=high)


def _of_text(key: str, judged: Judged, rows: Sequence[Row], examiner: Examiner) -> Estimate:
    """A metric of running text, with a bootstrap over documents: lm_eval gives it no standard error."""
    metric, config = _metric(key), examiner.config
    assert judged.value is not None
    losses = [-row["loglikelihood"] for row in rows]
    amounts = [row[ROLLING[metric]] for row in rows]
    if metric == "bits_per_byte":
        losses = [nats / math.log(2) for nats in losses]
    make = ratio_estimate if metric == "bits_per_byte" else perplexity_estimate
    interval = make(losses, amounts, How(config.bootstrap, config.confidence, examiner.seed))
    return Estimate(value=judged.value, n=len(rows), low=interval.low, high=interval.high)
