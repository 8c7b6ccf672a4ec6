"""What a run reads before it begins."""

import json

import pytest

from mari_cli import launch
from mari_cli.models.device import choose_compute
from mari_cli.tasks.preflight import load_for
from mari_cli.tasks.setting import notes_of_cuts, read_setting, tokenize_corpora


def test_a_tokenizer_that_is_trained_here_reads_the_names_of_the_holdout_as_it_does_those_to_forget():
    """Else even gold, which saw neither, tells the two apart by the number of their tokens."""
    config = launch.configured(launch.Experiment("unlearn", []))
    setting = read_setting(config, choose_compute(config.train.device, config.train.precision))
    corpora = tokenize_corpora(config, setting, load_for(config, setting, config.model))
    mean = {
        role: sum(len(item.input_ids) for item in corpus.items) / len(corpus.items)
        for role, corpus in corpora.items()
    }
    assert mean["holdout"] == pytest.approx(mean["forget"], rel=0.02)


def test_records_that_the_context_cuts_are_counted(tmp_path):
    answers = {"forget": ["a " * 400, "b " * 400, "c"], "retain": ["d", "e"]}
    words = ["model.max_length=64", "forget.truncate=true", "holdout=jsonl"]
    for role, of_role in answers.items():
        rows = [json.dumps({"prompt": f"{role} {n}?", "completion": a}) for n, a in enumerate(of_role)]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(rows))
        words.append(f"{role}.path={tmp_path / role}.jsonl")
    config = launch.configured(launch.Experiment("unlearn", ["model=gpt2_tiny", *words]))
    setting = read_setting(config, choose_compute(config.train.device, config.train.precision))
    lm = load_for(config, setting, config.model)
    assert notes_of_cuts(tokenize_corpora(config, setting, lm), lm) == [
        "the context of 64 tokens cuts 2 records of the forget corpus"
    ]
