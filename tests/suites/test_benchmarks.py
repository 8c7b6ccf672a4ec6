"""Benchmarks on a model in memory: figures, rows, what is kept, what is refused before a model is asked."""

import logging
import math
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmark_cases import SUBJECTS, choices, dataset, examiner, model, says_b, write_folder

from mari_cli.config import MetricsConfig
from mari_cli.data.tokenize import PromptStyle
from mari_cli.errors import UserError
from mari_cli.suites import lm_tasks
from mari_cli.suites.benchmarks import (
    Judged,
    _Bar,
    benchmarks,
    check_benchmarks,
    describe_benchmarks,
    estimate,
)
from mari_cli.suites.lm_metrics import range_of
from mari_cli.suites.lm_model import InMemory
from mari_cli.suites.lm_names import refuse_unknown

WMDP = ["wmdp_bio", "wmdp_cyber", "wmdp_chem"]
ALL = sum(SUBJECTS.values())


@pytest.fixture(scope="module")
def lm():
    return model()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("root")))


def forwards(lm, ask):
    """What ``ask`` returns, and how often the backbone ran for it."""
    count = []
    handle = lm.model.base_model.register_forward_pre_hook(lambda *_: count.append(1))
    try:
        return ask(), len(count)
    finally:
        handle.remove()


def contexts(asking) -> list[str]:
    """What comes before the answers that are scored."""
    asked = []

    class Listening(InMemory):
        def loglikelihood(self, requests, **options):
            asked.extend(request.args[0] for request in requests)
            return super().loglikelihood(requests, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mari_cli.suites.lm_model.InMemory", Listening)
        benchmarks(asking)
    return asked


def refused(lm, **config) -> UserError:
    with pytest.raises(UserError) as error:
        check_benchmarks(MetricsConfig(**config), lm.tokenizer)
    return error.value


# -- figures -------------------------------------------------------------------------------------------------


def test_a_model_that_always_says_b_scores_the_share_of_b(lm, root):
    figures, _ = benchmarks(examiner(says_b(lm), benchmarks=[*WMDP, "mmlu_sample"], benchmark_root=root))
    answers = {subject: [i % 3 for i in range(count)] for subject, count in SUBJECTS.items()}
    for subject, of_subject in answers.items():
        found = figures[f"benchmark/wmdp_{subject}"]
        assert (found.value, found.n) == (of_subject.count(1) / len(of_subject), len(of_subject))
    assert figures["benchmark/mmlu_sample"].n == 281


def test_a_group_is_put_together_from_its_tasks_by_their_size_and_shows_its_members(lm, root):
    figures, rows = benchmarks(examiner(says_b(lm), benchmarks=["wmdp"], benchmark_root=root))
    assert list(figures) == [
        "benchmark/wmdp",
        *(f"benchmark/wmdp_{subject}" for subject in ("bio", "chem", "cyber")),
    ]
    right = sum(i % 3 == 1 for count in SUBJECTS.values() for i in range(count))
    assert (figures["benchmark/wmdp"].value, figures["benchmark/wmdp"].n) == (pytest.approx(right / ALL), ALL)
    assert len(rows) == ALL


def test_a_group_without_a_figure_of_its_own_shows_those_of_its_members():
    def group(*members, together):
        return SimpleNamespace(child_names=members, has_aggregation=together)

    groups = {
        "all": group("a", "b", "task", together=False),
        "a": group("a1", "a2", together=True),
        "b": group("b1", "b2", together=False),
        "b2": group("b21", together=True),
    }
    assert lm_tasks._reported("all", groups) == ["a", "a1", "a2", "b1", "b2", "b21", "task"]
    assert lm_tasks._reported("a", groups) == ["a", "a1", "a2"]


def test_rows_hold_numbers_and_a_hash_by_which_two_models_are_paired(lm, root):
    asked = {"benchmarks": ["piqa", "wikitext"], "benchmark_root": root}
    one, other = (benchmarks(examiner(of, **asked))[1] for of in (lm, model(seed=1)))
    assert Counter(row["set"] for row in one) == {"piqa": 6, "wikitext": 3}
    for a, b in zip(one, other, strict=True):
        assert [a[name] for name in ("set", "item", "key")] == [b[name] for name in ("set", "item", "key")]
        assert len(a["key"]) == 16
        assert all(isinstance(value, int | float) for name, value in a.items() if name not in ("set", "key"))
    assert len({row["key"] for row in one}) == len(one)
    assert set(one[0]) == {"set", "item", "key", "acc", "acc_norm"}
    assert set(one[-1]) == {"set", "item", "key", "loglikelihood", "words", "bytes"}


def test_a_figure_is_the_mean_of_its_rows(lm, root):
    figures, rows = benchmarks(examiner(lm, benchmarks=["piqa"], benchmark_root=root))
    for name, metric in (("benchmark/piqa", "acc"), ("benchmark/piqa_acc_norm", "acc_norm")):
        assert figures[name].value == pytest.approx(sum(row[metric] for row in rows) / 6)


def test_running_text_has_an_interval_over_documents(lm, root):
    figures, rows = benchmarks(examiner(lm, benchmarks=["wikitext"], benchmark_root=root))
    found = figures["benchmark/wikitext"]
    words = math.exp(-sum(r["loglikelihood"] for r in rows) / sum(r["words"] for r in rows))
    assert found.value == pytest.approx(words)
    assert found.n == 3
    assert found.low < found.value < found.high
    bits = figures["benchmark/wikitext_bits_per_byte"]
    assert bits.value == pytest.approx(math.log2(figures["benchmark/wikitext_byte_perplexity"].value))
    assert bits.low < bits.value < bits.high


def test_a_loss_past_what_exp_can_hold_is_no_number_and_no_crash(lm, root, tmp_path):
    broken = model()
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.mul_(1e5)
    asking = examiner(broken, tmp_path, benchmarks=["wikitext"], benchmark_root=root)
    for _ in range(2):  # asked, and kept
        figures, rows = benchmarks(asking)
        assert math.isnan(figures["benchmark/wikitext"].value)
        assert all(row["loglikelihood"] < -1e4 for row in rows)


@pytest.mark.parametrize("value", [0.0, 0.01, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("metric", ["acc", "exact_match", "f1", "bleu", "mcc", "brier_score", "perplexity"])
@pytest.mark.parametrize("proportion", [True, False])
def test_no_interval_leaves_its_metrics_range(metric, value, proportion):
    """Not that of four items, nor of a task of which nothing is known but its name."""
    least, most = range_of(metric)
    judged = Judged(value=value, stderr=0.4 * min(most, 1.0), items=4, proportion=proportion)
    found = estimate(metric, judged, 0.95)
    if found.low is not None:
        assert least <= found.low <= value <= found.high <= most
    assert (found.low is not None) == (proportion or value not in (least, most) or math.isinf(most))


def test_the_interval_is_wilsons_of_a_share_and_of_log_odds_else():
    for value in (0.0, 1.0):
        for stderr in (0.0, None):
            judged = Judged(value=value, stderr=stderr, items=10, proportion=True)
            agreed = estimate("acc", judged, 0.95)
            assert agreed.high - agreed.low == pytest.approx(0.2775328)  # 3.8416 / 13.8416
            assert agreed.low <= value <= agreed.high
    half = estimate("some_custom_score", Judged(value=0.5, stderr=0.1, items=26, proportion=True), 0.95)
    assert half.low == pytest.approx(0.5 - 0.179394, abs=1e-6)  # 1.96 sqrt(26/4 + 1.96**2/4) / (26 + 1.96**2)
    one = estimate("acc", Judged(value=1.0, stderr=None, items=1, proportion=True), 0.95)
    assert (one.low, one.high) == (None, None)
    mean = estimate("f1", Judged(value=0.3, stderr=None, items=9, proportion=False), 0.95)
    assert (mean.low, mean.high) == (None, None)
    narrow = estimate("f1", Judged(value=0.3, stderr=0.001, items=900, proportion=False), 0.95)
    assert narrow.low == pytest.approx(0.3 - 0.00196, abs=1e-5)
    assert narrow.high == pytest.approx(0.3 + 0.00196, abs=1e-5)


def test_a_limit_is_of_each_task(lm, root):
    asking = examiner(lm, benchmarks=["wmdp", "mmlu_sample"], benchmark_root=root, benchmark_limit=2)
    figures, _ = benchmarks(asking)
    assert figures["benchmark/wmdp"].n == 6
    assert figures["benchmark/mmlu_sample"].n == 114
    described = describe_benchmarks(asking.config)
    assert [described[f"benchmark/{name}"]["items"] for name in ("wmdp", "mmlu_sample")] == [6, 114]


def test_the_batch_size_does_not_change_a_figure(lm, root):
    one, many = (
        benchmarks(examiner(lm, benchmarks=["wmdp", "piqa"], benchmark_root=root, batch_size=size))[0]
        for size in (1, 32)
    )
    assert one == many


def test_no_benchmark_is_no_figure_and_reads_nothing(lm, monkeypatch):
    monkeypatch.setattr(lm_tasks, "read", None)
    check_benchmarks(MetricsConfig(benchmarks=[]), lm.tokenizer)
    assert benchmarks(examiner(lm, benchmarks=[])) == ({}, [])
    assert describe_benchmarks(MetricsConfig(benchmarks=[])) == {}


# -- examples before a question ------------------------------------------------------------------------------


def test_examples_come_from_a_split_of_their_own_and_are_the_same_for_every_model(lm, root):
    asking = examiner(lm, benchmarks=["piqa"], benchmark_root=root, fewshot=2)
    first = contexts(asking)
    assert [re.findall(r"count to (\d+)", context)[-1] for context in first[::2]] == list("012345")
    for context in first:
        before = re.findall(r"count to (\d+)", context)[:-1]
        assert len(before) == 2
        assert all(int(number) >= 100 for number in before)
    assert contexts(asking) == first == contexts(replace(asking, lm=model(seed=1)))
    assert describe_benchmarks(asking.config)["benchmark/piqa"]["examples"] == 2


def test_a_task_that_says_none_keeps_to_it_and_running_text_has_none(lm, root):
    config = MetricsConfig(benchmarks=["wmdp_bio", "wikitext"], benchmark_root=root, fewshot=2)
    described = describe_benchmarks(config)
    assert [described[f"benchmark/{name}"]["examples"] for name in ("wmdp_bio", "wikitext")] == [0, 0]


def test_examples_that_are_the_questions_under_another_name_are_refused(lm, tmp_path):
    folder = str(write_folder(tmp_path, own_train=False))
    check_benchmarks(MetricsConfig(benchmarks=["piqa"], benchmark_root=folder), lm.tokenizer)
    error = refused(lm, benchmarks=["piqa"], benchmark_root=folder, fewshot=1)
    assert str(error) == (
        f"the examples of `piqa` come from `train`, which is `validation` under another name in `{folder}`"
    )
    assert error.hint.startswith("use `metrics.fewshot=0`")


# -- what is kept --------------------------------------------------------------------------------------------


def test_nobody_asks_twice_and_what_is_kept_is_what_was_found(lm, root, tmp_path):
    asking = examiner(lm, tmp_path, benchmarks=["wmdp", "piqa", "wikitext"], benchmark_root=root)
    first, asked = forwards(lm, lambda: benchmarks(asking))
    again, more = forwards(lm, lambda: benchmarks(asking))
    assert asked > 0
    assert more == 0
    assert again == first == benchmarks(replace(asking, cache=None))


@pytest.mark.parametrize(
    "change",
    [{"benchmark_limit": 3}, {"fewshot": 1}, {"batch_size": 2}],
    ids=lambda change: next(iter(change)),
)
def test_another_way_of_asking_is_asked_anew(change, lm, root, tmp_path):
    settings = {"benchmarks": ["piqa"], "benchmark_root": root}
    benchmarks(examiner(lm, tmp_path, **settings))
    _, asked = forwards(lm, lambda: benchmarks(examiner(lm, tmp_path, **settings | change)))
    assert asked > 0


def test_other_weights_are_asked_anew(root, tmp_path):
    settings = {"benchmarks": ["piqa"], "benchmark_root": root}
    benchmarks(examiner(model(), tmp_path, **settings))
    other = model(seed=1)
    assert forwards(other, lambda: benchmarks(examiner(other, tmp_path, **settings)))[1] > 0


def test_questions_count_by_what_they_say_and_not_by_where_they_lie(lm, root, tmp_path):
    benchmarks(examiner(lm, tmp_path / "cache", benchmarks=["wmdp_bio"], benchmark_root=root))
    elsewhere = write_folder(tmp_path / "elsewhere")
    moved = examiner(lm, tmp_path / "cache", benchmarks=["wmdp_bio"], benchmark_root=str(elsewhere))
    assert forwards(lm, lambda: benchmarks(moved))[1] == 0
    file = elsewhere / "cais" / "wmdp" / "wmdp-bio-test.jsonl"
    file.write_text(file.read_text().replace('"answer": 2', '"answer": 3'))
    assert forwards(lm, lambda: benchmarks(moved))[1] == 0  # one process reads them once
    lm_tasks.read.cache_clear()
    assert forwards(lm, lambda: benchmarks(moved))[1] > 0


def test_how_a_task_asks_is_told_in_the_same_words_in_every_process(lm, root):
    read = lm_tasks.read(("hellaswag",), root=root, limit=None, fewshot=None)
    words = lm_tasks.settings_of(read.questions["hellaswag"].task)
    assert "lm_eval.tasks.hellaswag.utils.process_docs" in words
    assert " at 0x" not in words
    assert root not in words


def test_what_was_cut_off_goes_on_with_the_next_task(lm, root, tmp_path, monkeypatch):
    asking = examiner(lm, tmp_path, benchmarks=[*WMDP], benchmark_root=root)
    ask, calls = InMemory.loglikelihood, []

    def dies_at_the_third(self, requests, **options):
        calls.append(len(requests))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask(self, requests, **options)

    monkeypatch.setattr(InMemory, "loglikelihood", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        benchmarks(asking)
    figures, _ = benchmarks(asking)
    assert calls == [4 * count for count in (6, 4, 3, 3)]  # the longest first
    assert len(figures) == 3


# -- memory --------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_until_it_does(lm, root, monkeypatch):
    settings = {"benchmarks": ["piqa", "wikitext"], "benchmark_root": root, "batch_size": 8}
    whole = benchmarks(examiner(lm, **settings))
    forward, sizes = InMemory._model_call, []

    def small(self, inps, *rest):
        sizes.append(len(inps))
        if len(inps) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, inps, *rest)

    monkeypatch.setattr(InMemory, "_model_call", small)
    cut = benchmarks(examiner(lm, **settings))
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[3:]) == 2
    for name, found in whole[0].items():
        assert cut[0][name].value == pytest.approx(found.value, rel=1e-5)


def test_a_single_sequence_that_does_not_fit_is_told(lm, root, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(InMemory, "_model_call", never)
    with pytest.raises(UserError, match="out of memory with a single sequence"):
        benchmarks(examiner(lm, benchmarks=["piqa"], benchmark_root=root))


def test_a_batch_is_no_larger_than_memory_holds_its_logits_for(lm, monkeypatch):
    asked = InMemory(lm, batch_size=64)
    assert asked._largest_batch(10) == 64
    monkeypatch.setattr("mari_cli.suites.lm_model.CPU_BYTES", 8 * 100 * lm.model.config.vocab_size * 5)
    assert asked._largest_batch(100) == 5
    assert asked._largest_batch(100_000) == 1


def test_in_16_bits_the_head_stays_in_32(root):
    narrow, wide = model(precision="bfloat16"), model()
    tokens = torch.arange(40).view(2, 20)
    logits = InMemory(narrow, batch_size=2)._model_call(tokens)
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16()).float().mean() > 0.9
    assert torch.allclose(logits, InMemory(wide, batch_size=2)._model_call(tokens), atol=0.02)


# -- surroundings --------------------------------------------------------------------------------------------


def test_model_tokenizer_generators_loggers_and_terminal_are_left_as_they_were(lm, root, capfd):
    lm.model.train()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    level = logging.getLogger("lm_eval").level
    try:
        benchmarks(examiner(lm, benchmarks=["piqa", "wikitext"], benchmark_root=root))
        assert lm.model.training
    finally:
        lm.model.eval()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert lm.tokenizer.pad_token is None
    assert logging.getLogger("lm_eval").level == level
    assert capfd.readouterr() == ("", "")


def test_one_bar_runs_over_the_questions_of_all_tasks(lm, root):
    seen = []

    def track(items, description, total, done=0):
        for item in items:
            seen.append((description, total, item))
            yield item
        seen.append("done")

    reached: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _Bar, "_reach", lambda bar, done, reach=_Bar._reach: reached.append(done) or reach(bar, done)
        )
        benchmarks(examiner(lm, track=track, benchmarks=["wmdp", "piqa", "wikitext"], benchmark_root=root))
    total = ALL + 6 + 3
    assert seen == [("model: benchmarks", total, i) for i in range(total)] + ["done"]
    assert max(reached) == total
    assert reached == sorted(reached)


def test_the_bar_moves_while_running_text_is_read(lm, root):
    asked, seen = InMemory(lm, batch_size=2), []
    asked.progress = seen.append
    asked.loglikelihood_rolling([SimpleNamespace(args=("four three one two " * 300,))])
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


# -- refusals ------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_the_nearest_ones(lm):
    error = refused(lm, benchmarks=["helaswag"])
    assert str(error) == "unknown benchmark `helaswag`"
    assert "`hellaswag`" in error.hint
    assert "lm_eval ls tasks" in refused(lm, benchmarks=["qqqqqqqq"]).hint


def test_an_unknown_name_is_told_from_the_files_alone():
    """Names of groups and tags are known too, and those that only an included file holds."""
    named = [
        "arc_easy",
        "mmlu",
        "mmlu_stem",
        "ai2_arc",
        "acp_bench_hard",
        "flores_afr-eng",
        "truthfulqa_multi",
    ]
    refuse_unknown([*named, "mmlu_sample"])
    for name in ("arc_nope", "arc_eas", "rc_easy"):
        with pytest.raises(UserError, match=f"unknown benchmark `{name}`"):
            refuse_unknown([*named, name])
    typed = ["metrics.benchmarks=[arc_nope]", "out=nowhere"]
    program = (
        "import sys; from mari_cli import launch; from mari_cli.errors import UserError\n"
        "from mari_cli.options import RunOptions; from mari_cli.tasks.early_checks import check_early\n"
        f"config = launch.configured(launch.Experiment('unlearn', {typed}))\n"
        "try: check_early([config], RunOptions([]))\n"
        "except UserError as error: print(error, 'lm_eval' in sys.modules, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "unknown benchmark `arc_nope` False False\n"


def test_a_data_set_that_is_not_in_the_folder_is_named_with_the_way_to_fetch_it(lm, root):
    error = refused(lm, benchmarks=["arc_easy"], benchmark_root=root)
    assert str(error) == f"no data for `arc_easy`: there is no folder `allenai/ai2_arc` in `{root}`"
    assert error.hint == (
        f"`hf download --repo-type dataset allenai/ai2_arc --local-dir {root}/allenai/ai2_arc` fetches it"
    )


def test_a_folder_without_the_questions_of_a_task_is_refused(lm, tmp_path):
    dataset(tmp_path / "cais" / "wmdp", {"wmdp-bio": {"test": choices("bio", 2)}})
    error = refused(lm, benchmarks=["wmdp_chem"], benchmark_root=str(tmp_path))
    assert str(error).startswith(
        "cannot read the questions of `wmdp_chem`: BuilderConfig 'wmdp-chem' not found"
    )


def test_a_folder_that_is_not_there_is_refused(lm, tmp_path):
    assert "no such folder" in str(refused(lm, benchmarks=["piqa"], benchmark_root=str(tmp_path / "x")))


def test_without_a_network_the_ways_out_are_told(lm):
    error = refused(lm, benchmarks=["wmdp_bio"])
    assert str(error).startswith("cannot read the questions of `wmdp_bio`: ")
    assert "metrics.benchmark_root=DIR" in error.hint
    assert "mmlu_sample" in error.hint


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"UNSAFE_CODE": True}, "`x` runs code that the model writes"),
        ({"MULTIMODAL": True}, "`x` asks about more than text"),
        ({"higher_is_better": lambda: {"age_bias": False}}, "`x` has no figure of which"),
    ],
)
def test_what_cannot_be_asked_is_refused(traits, words):
    task = SimpleNamespace(task_name="x", **{"higher_is_better": lambda: {"acc": True}} | traits)
    with pytest.raises(UserError, match=words):
        lm_tasks._refuse_what_cannot_be_asked(task)


def test_a_chat_template_that_is_not_there_is_refused(lm, root):
    error = refused(lm, benchmarks=["piqa"], benchmark_root=root, benchmark_chat_template=True)
    assert "no chat template" in str(error)


def test_a_chat_template_is_used_where_it_is_asked_for(lm, root):
    settings = {"benchmarks": ["piqa"], "benchmark_root": root}
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %} model:"
    try:
        chatting = examiner(lm, benchmark_chat_template=True, **settings)
        check_benchmarks(chatting.config, lm.tokenizer)
        assert contexts(chatting)[0] == "user: Question: count to 0\nAnswer: model:"
        assert contexts(examiner(lm, **settings))[0] == "Question: count to 0\nAnswer:"
    finally:
        lm.tokenizer.chat_template = None


def test_a_chat_template_is_told_the_date_the_arguments_and_the_system_prompt_of_the_run(lm, root):
    style = lm.style
    lm.tokenizer.chat_template = (
        "{{ strftime_now('%d %b %Y') }} {{ mood }} {% for m in messages %}{{ m.role }}: {{ m.content }} "
        "{% endfor %}"
    )
    lm.style = PromptStyle("", True, {"mood": "calm"}, system="Be brief.")
    try:
        chatting = examiner(lm, benchmark_chat_template=True, benchmarks=["piqa"], benchmark_root=root)
        asked = contexts(chatting)[0]
        assert asked == "26 Jul 2024 calm system: Be brief. user: Question: count to 0\nAnswer: "
    finally:
        lm.tokenizer.chat_template, lm.style = None, style


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"benchmarks": ["piqa", "piqa"]}, "metrics.benchmarks names piqa twice"),
        ({"benchmark_limit": 0}, "metrics.benchmark_limit must be > 0"),
        ({"fewshot": -1}, "metrics.fewshot must be >= 0"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        MetricsConfig(**settings)
