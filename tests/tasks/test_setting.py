"""What a run reads before it begins."""

import pytest

from mari_cli import launch
from mari_cli.models.device import choose_compute
from mari_cli.tasks.preflight import load_for
from mari_cli.tasks.setting import read_setting, tokenize_corpora


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
