"""Logs of TOFU evaluations, damaged in every way: two lines, or numbers that are numbers."""

import copy
import json
import math
import os
import shutil
from pathlib import Path

import pytest
from damage import damage
from test_tofu_logs import attack, by_index, by_losses_alone, cut, open_unlearning_with_texts, with_texts
from tofu_published import as_open_unlearning, published

from mari_cli.errors import UserError
from mari_cli.metrics.statistics import How
from mari_cli.suites.tofu_logs import places, read_log, unlike_tofu
from mari_cli.suites.tofu_numbers import summarise

SEEDS = 45


def everything(log):
    """OpenUnlearning's log with all that is read of one."""
    scores = {
        "mia_min_k": attack([1.0, 2.0, 3.0], [2.0, 3.0]),
        "mia_loss": attack([1.0, 2.0, 3.0], [2.0, 3.0]),
    }
    means = {name: {"agg_value": 0.5} for name in ("privleak", "model_utility", "forget_quality", "mia_zlib")}
    tokens = {"extraction_strength": {"agg_value": 0.5} | by_index("score", [0.1, 0.2, 0.3])}
    ratios = {"forget_truth_ratio": by_losses_alone(copy.deepcopy(log))["forget_truth_ratio"]}
    return as_open_unlearning(log) | scores | means | tokens | ratios


def lists(log):
    return {f: {c: [v[str(i)] for i in range(len(v))] for c, v in cs.items()} for f, cs in log.items()}


KINDS = {
    "TOFU's": lambda log: cut(log, 3),
    "with texts": lambda log: with_texts(log, "one two"),
    "by position": lambda log: lists(cut(log, 3)),
    "OpenUnlearning's": lambda log: everything(cut(log, 3)),
    "losses alone": lambda log: by_losses_alone(cut(log, 3)),
    "OpenUnlearning's texts": open_unlearning_with_texts,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_log_is_told_in_two_lines_or_read(tmp_path, kind):
    log = json.dumps(KINDS[kind](published("full")))
    (tmp_path / "gold.json").write_text(json.dumps(KINDS["losses alone"](published("retain90"))))
    gold = read_log(tmp_path / "gold.json").rows
    path = tmp_path / "log.json"
    refused = []
    for seed in range(SEEDS):
        if path.is_dir():
            shutil.rmtree(path)
        path.write_text(log)
        damage(path, seed)
        try:
            read = read_log(path)
            for beside in (None, read.rows, gold):
                summary = summarise(read.rows, beside, How(resamples=5))
                read.disagreements(summary.metrics)
                unlike_tofu(read)
                assert all(math.isfinite(estimate.value) for estimate in summary.metrics.values())
        except UserError as error:
            refused.append(f"{error}{error.hint}" if error.hint else "\n")
    assert len(refused) > 20
    assert not [words for words in refused if "\n" in words]


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is no file but a pipe or a device"):
            read_log(path)


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "loop.json").symlink_to("loop.json")
    (place,) = places([str(tmp_path / "loop.json")])
    with pytest.raises(UserError, match="cannot read"):
        read_log(place.path)
