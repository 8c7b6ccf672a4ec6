"""Settings that nothing reads are refused: each with what it needs, and with that it is taken."""

import json
from pathlib import Path

import pytest

from mari_cli import launch
from mari_cli.config import RunConfig, to_yaml
from mari_cli.errors import UserError
from mari_cli.launch.experiment import Experiment
from mari_cli.launch.run import prepare


def configured(task: str, words: str, file: Path | None = None) -> RunConfig:
    return launch.configured(Experiment(task, words.split(), file))


UNREAD = {
    "loss.retain_weight": ("unlearn loss=grad_ascent loss.retain_weight=5", "loss=grad_diff"),
    "loss.retain_weight of none": ("unlearn loss=undial loss.retain_weight=2", "loss.retain_loss=kl"),
    "loss.prior": ("unlearn loss=mari_twins loss.prior=0.3", "loss.divergence=jensen_shannon"),
    "loss.pooling_scope": ("unlearn loss=mari_context loss.pooling_scope=micro", "loss=mari"),
    "loss.context.temperature": ("unlearn loss=mari loss.context.temperature=1", "loss=mari_context"),
    "loss.context.layer": ("unlearn loss=mari_twins loss.context.layer=1", "loss=mari_context"),
    "loss.support.twins": ("unlearn loss=mari loss.support.twins=3", "loss=mari_twins"),
    "loss.support.difficulty": (
        "unlearn loss=mari_siblings loss.support.weight=1 loss.support.difficulty=true",
        "loss.support.quantiles=true",
    ),
    "loss.support.quantiles": ("unlearn loss=mari_context loss.support.quantiles=true", "loss=mari_auto"),
    "loss.support.weight": (
        "unlearn loss=mari_twins loss.support.weight=3",
        "loss=mari_gold loss.support.source=assistant",
    ),
    "loss.temperature": ("unlearn loss=altpo loss.path=a.jsonl loss.temperature=2", "loss.path=null"),
    "loss.prompt_field": (
        "unlearn loss=altpo loss.prompt_field=a loss.completion_field=b",
        "loss.path=a.jsonl",
    ),
    "model.tokenizer_vocab_size": (
        "finetune model.tokenizer=DIR model.tokenizer_vocab_size=999",
        "model.tokenizer=train",
    ),
    "model.lora.dropout": ("finetune model.lora.rank=2 model.lora.dropout=0.1", "train.dropout=true"),
    "metrics.fewshot": ("unlearn metrics=fast metrics.fewshot=3", "metrics.benchmarks=[arc_easy]"),
    "metrics.seeds": ("evaluate suite=tofu metrics.seeds=[1,2]", "metrics.max_items=3"),
    "metrics.seeds of nothing drawn": ("unlearn metrics=fast metrics.seeds=[1,2]", "metrics.max_items=3"),
    "metrics.gradnorm": ("unlearn holdout=jsonl metrics.gradnorm=true", "holdout=fictional"),
    "train.evaluate_benchmarks": (
        "unlearn metrics.benchmarks=[] train.evaluate_benchmarks=true",
        "metrics.benchmarks=[arc_easy]",
    ),
    "holdout.limit": ("unlearn holdout=jsonl holdout.limit=3", "holdout.path=a.jsonl"),
    "forget.fraction_seed": ("unlearn forget=jsonl forget.fraction_seed=3", "forget.fraction=0.5"),
    "finetune.epochs": ("unlearn model.path=DIR loss=npo finetune.epochs=3", "gold=finetune"),
    "second_gold": ("unlearn second_gold=DIR", "audit=quick"),
    "audit.paraphrases": (
        "audit audit.attacks=[probe] audit.paraphrases=a.jsonl",
        "audit.attacks=[prompts]",
    ),
    "forget.path": ("evaluate suite=tofu forget.path=a.jsonl", "suite=corpora"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_what_nothing_reads_is_refused_and_taken_with_what_it_needs(name):
    words, needed = UNREAD[name]
    with pytest.raises(UserError, match=f"nothing would read `{name.split()[0]}`: it needs ") as caught:
        configured(*words.split(maxsplit=1))
    assert caught.value.hint
    configured(*f"{words} {needed}".split(maxsplit=1))


def test_an_audit_asks_no_benchmark():
    with pytest.raises(UserError, match=r"would read `metrics\.benchmarks`: it needs `mari evaluate`"):
        configured("audit", "metrics.benchmarks=[mmlu]")


def test_settings_of_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a"}))
    (tmp_path / "a.txt").write_text("a")
    for words in ("a.jsonl forget.split=test", "a.jsonl forget.passage_characters=9"):
        with pytest.raises(UserError, match="nothing would read `forget"):
            configured("unlearn", f"forget.path={tmp_path}/{words}")
    configured("unlearn", f"forget.path={tmp_path}/a.txt forget.passage_characters=9")


@pytest.mark.parametrize(
    "words",
    [
        "loss=grad_ascent loss.retain_weight=0",
        "loss=mari_twins loss.prior=0.5",
        "metrics=fast metrics.fewshot=null",
        "loss=satimp loss.retain_loss=none",
        "loss=who_is_harry_potter loss.support.source=gold loss.support.model=DIR",
        "metrics.seeds=[0,1]",
    ],
)
def test_what_asks_for_nothing_and_what_an_option_brings_along_is_harmless(words):
    configured("unlearn", words)


def test_a_file_is_told_too_unless_the_command_line_changes_the_section(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("defaults: [unlearn, _self_]\nmetrics: {benchmarks: [], fewshot: 3}\ntrain: {steps: 3}\n")
    with pytest.raises(UserError, match=r"would read `metrics\.fewshot`"):
        configured("unlearn", "train.steps=4", file)
    configured("unlearn", "metrics.benchmarks=[]", file)


def test_a_file_that_tunes_a_target_serves_a_target_as_it_is(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("defaults: [unlearn, _self_]\ntarget: finetune\nfinetune: {epochs: 3}\n")
    configured("unlearn", "target=finetune loss=npo", file)
    configured("unlearn", "target=as_is gold=none loss=npo", file)


def test_an_old_run_with_such_a_setting_is_still_read(tmp_path):
    made = prepare(Experiment("unlearn", ["loss=grad_ascent", f"out={tmp_path / 'run'}"])).config
    made.loss.retain_weight = 5.0
    (tmp_path / "config.yaml").write_text(to_yaml(made))
    assert launch.load_run_config(tmp_path).loss.retain_weight == 5
