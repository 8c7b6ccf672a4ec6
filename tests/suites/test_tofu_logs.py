"""Logs of TOFU evaluations: published ones give the published numbers, broken ones say what is broken."""

import copy
import json
import random
from itertools import product
from math import exp, factorial

import numpy as np
import pytest
from scipy import stats
from tofu_published import (
    AUTHORS,
    FACTS,
    FORGET,
    LEADERBOARD,
    RETAIN,
    as_open_unlearning,
    published,
)

from mari_cli.data.records import Record
from mari_cli.errors import UserError
from mari_cli.metrics.generation import verbatim_rouge_1, verbatim_rouge_l
from mari_cli.metrics.statistics import How
from mari_cli.suites.tofu_data import Question
from mari_cli.suites.tofu_logs import read_log, require_same_items, unlike_tofu
from mari_cli.suites.tofu_numbers import summarise

HOW = How(resamples=50)


@pytest.fixture(scope="module")
def logs():
    return {model: published(model) for model in LEADERBOARD}


@pytest.fixture
def read(tmp_path):
    def of(log, name="log.json"):
        path = tmp_path / name
        path.write_text(log if isinstance(log, str) else json.dumps(log))
        return read_log(path)

    return of


def cut(log, items=4):
    """The first few items of each set, for what needs no more."""
    return {
        file: {
            column: {i: value for i, value in values.items() if int(i) < items}
            for column, values in columns.items()
        }
        for file, columns in log.items()
    }


@pytest.mark.parametrize("model", LEADERBOARD)
def test_published_logs_give_the_published_numbers(logs, read, model):
    gold, own = read(logs["retain90"]), read(logs[model])
    summary = summarise(own.rows, gold.rows, HOW)
    for name, value in LEADERBOARD[model].items():
        assert summary.metrics[name].value == pytest.approx(value, abs=1e-12), name
    quality = summary.metrics["tofu/forget_quality"].value
    assert quality == pytest.approx(LEADERBOARD[model]["tofu/forget_quality"], rel=1e-12)
    assert summary.notes == gold.notes == own.notes == []
    counts = {name.split("/")[1]: e.n for name, e in summary.metrics.items() if "/probability" in name}
    assert counts == {"forget": 300, "retain": 300, "authors": 100, "facts": 117}


def test_open_unlearnings_layout_gives_the_same_numbers(logs, read):
    logs = copy.deepcopy(logs)
    for log in logs.values():
        for file in (AUTHORS, FACTS):  # their answer is its own paraphrase, which is not asked a second time
            log[file]["avg_paraphrased_loss"] = log[file]["avg_gt_loss"]
    [own, gold] = [read(log).rows for log in logs.values()]
    [as_own, as_gold] = [read(as_open_unlearning(log)).rows for log in logs.values()]
    found = summarise(as_own, as_gold, HOW).metrics
    quality = found["tofu/forget_quality"]
    assert quality.value == LEADERBOARD["full"]["tofu/forget_quality"]
    assert found["tofu/forget_quality_open_unlearning"] == quality  # nothing has collapsed
    metrics = {name: e for name, e in found.items() if not name.endswith("_open_unlearning")}
    assert metrics == summarise(own, gold, HOW).metrics
    assert len(metrics) == 25
    theirs = {name: e.value for name, e in found.items() if name not in metrics}
    assert len(theirs) == 6
    for name, value in theirs.items():  # the answer to some questions about authors costs more than 15 nats
        assert value == pytest.approx(metrics[name.removesuffix("_open_unlearning")].value, rel=1e-3), name


def test_the_distance_behind_forget_quality(logs, read):
    summary = summarise(read(logs["full"]).rows, read(logs["retain90"]).rows, HOW)
    assert summary.metrics["tofu/forget_quality_ks"].value == pytest.approx(119 / 300, abs=1e-15)


@pytest.mark.parametrize(
    ("model", "utility", "ratios"),
    [
        ("full", 0.5858860350927221, [0.530370024560109, 0.4538671193188384, 0.505160107384876, 0.4230547]),
        (
            "retain90",
            0.5752399175318536,
            [0.6796518214931436, 0.4495937459970503, 0.4785102941603, 0.4200570],
        ),
    ],
)
def test_the_arithmetic_mean_has_names_of_its_own(logs, read, model, utility, ratios):
    metrics = summarise(read(logs[model]).rows, None, HOW).metrics
    assert metrics["tofu/model_utility_arithmetic"].value == pytest.approx(utility, abs=1e-12)
    for name, value in zip(("forget", "retain", "authors", "facts"), ratios, strict=True):
        assert metrics[f"tofu/{name}/truth_ratio_arithmetic"].value == pytest.approx(value, abs=1e-7)


def test_items_need_no_order_and_no_start(logs, read):
    def shuffled(log, seed):
        log = copy.deepcopy(log)
        for columns in log.values():
            for column, values in columns.items():
                pairs = [(str(int(i) * 7 + 1000), value) for i, value in values.items()]
                random.Random(f"{seed}{column}").shuffle(pairs)
                columns[column] = dict(pairs)
        return log

    plain = summarise(read(logs["full"]).rows, read(logs["retain90"]).rows, HOW)
    own, gold = (read(shuffled(logs[model], seed)) for seed, model in enumerate(LEADERBOARD))
    assert summarise(own.rows, gold.rows, HOW).metrics == plain.metrics


def test_wrong_answers_may_be_one_or_many_and_others_on_each_item(logs, read):
    log = cut(logs["full"], 2)
    log[FORGET]["avg_paraphrased_loss"] = {"0": 1.0, "1": 2.0}
    log[FORGET]["average_perturb_loss"] = {"0": 3.0, "1": [1.0, 2.0]}
    metrics = summarise(read(log).rows, None, HOW).metrics
    assert metrics["tofu/forget/truth_ratio"].value == pytest.approx(
        (2.718281828**-2 + 2.718281828**-0.5) / 2
    )


def test_single_files_and_folders_are_read_too(logs, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "eval_log_aggregated.json").write_text(json.dumps(cut(logs["full"])))
    apart = tmp_path / "apart"
    apart.mkdir()
    for file, columns in cut(logs["full"]).items():
        (apart / file).write_text(json.dumps(columns))
    rows = read_log(whole).rows
    assert read_log(apart).rows == rows
    assert read_log(apart / FACTS).rows == [row for row in rows if row["set"] == "facts"]


def test_what_a_log_lacks_is_left_out_and_said(logs, read):
    log = cut(logs["full"])
    del log[AUTHORS]
    del log[FACTS]["rougeL_recall"]
    summary = summarise(read(log).rows, None, HOW)
    assert not [
        name for name in summary.metrics if "utility" in name or "authors" in name or "quality" in name
    ]
    assert "tofu/facts/probability" in summary.metrics
    assert summary.notes == [
        "the real authors are left out: there are no answers to their questions",
        "forget quality is left out: it needs the gold model's answers too",
        "model utility is left out: it needs the ROUGE-L recall of real authors, world facts",
    ]


def test_open_unlearning_may_have_measured_less(logs, read):
    log = as_open_unlearning(cut(logs["full"]))
    log = {name: values for name, values in log.items() if not name.startswith(("ra_", "wf_"))}
    log["mia_loss"] = {"agg_value": 0.9}  # not by item
    found = read(log)
    assert {row["set"] for row in found.rows} == {"forget", "retain"}
    assert found.notes == [
        "the real authors are left out: the log has no `ra_Q_A_Prob`",
        "the world facts are left out: the log has no `wf_Q_A_Prob`",
        "not taken from the log: mia_loss",
    ]


def test_means_of_the_log_that_its_items_do_not_bear_out_are_told(logs, read):
    log = as_open_unlearning(cut(logs["full"]))
    exact = {name: e.value for name, e in summarise(read(log).rows, None, HOW).metrics.items()}
    log["forget_truth_ratio"] = {"agg_value": exact["tofu/forget/truth_ratio"] + 1e-9}
    log["wf_Q_A_Prob_normalised"] = {"agg_value": exact["tofu/facts/probability"] - 0.01}
    log["model_utility"] = {"agg_value": 0.5}
    found = read(log)
    told = found.disagreements(summarise(found.rows, None, HOW).metrics)
    assert told == [
        f"the log says tofu/model_utility = 0.5, where its items give {exact['tofu/model_utility']:.6g}",
        f"the log says tofu/facts/probability = {exact['tofu/facts/probability'] - 0.01:.6g}, where "
        f"its items give {exact['tofu/facts/probability']:.6g}",
    ]


def test_p_values_are_compared_by_their_logarithms(logs, read):
    own, gold = (read(as_open_unlearning(logs[model])) for model in LEADERBOARD)
    metrics = summarise(own.rows, gold.rows, HOW).metrics
    quality = LEADERBOARD["full"]["tofu/forget_quality"]
    for said, notes in ((quality, 0), (quality * 1.001, 0), (quality * 2, 1), (1.06e-239, 1), (0.0, 1)):
        own.said["tofu/forget_quality_open_unlearning"] = said
        assert len(own.disagreements(metrics)) == notes, said


def by_index(column, values):
    return {"value_by_index": {str(i): {column: value} for i, value in enumerate(values)}}


def test_a_collapsed_model_has_open_unlearnings_forget_quality_under_its_own_name(logs, read):
    """1e-10 beside p(paraphrase) takes all of its ratios below all of gold's: D = 1."""
    collapsed, gold = (as_open_unlearning(logs[model]) for model in LEADERBOARD)
    n, wrong = 300, {}
    for name, metric in (("PARA", "forget_Q_A_PARA_Prob"), ("PERT", "forget_Q_A_PERT_Prob")):
        for i, value in collapsed[metric]["value_by_index"].items():
            loss = value["avg_loss"]
            value["avg_loss"] = [x + 100 for x in loss] if name == "PERT" else loss + 100
            wrong[i] = value["avg_loss"]
    para = {i: v["avg_loss"] for i, v in collapsed["forget_Q_A_PARA_Prob"]["value_by_index"].items()}
    theirs = [np.exp(-np.mean(wrong[i])) / (np.exp(-para[i]) + 1e-10) for i in para]
    tr = [np.exp(row["log_truth_ratio"]) for row in read(gold).rows if row["set"] == "forget"]
    collapsed["forget_quality"] = {"agg_value": float(stats.ks_2samp(theirs, tr).pvalue)}
    log = read(collapsed)
    metrics = summarise(log.rows, read(gold).rows, HOW).metrics
    assert metrics["tofu/forget_quality"].value == pytest.approx(
        LEADERBOARD["full"]["tofu/forget_quality"], rel=1e-9
    )
    least = metrics["tofu/forget_quality_open_unlearning"].value
    assert least == pytest.approx(2 * factorial(n) ** 2 / factorial(2 * n), rel=1e-9)
    assert not [note for note in log.disagreements(metrics) if "quality" in note]


def test_a_gold_log_of_truth_ratios_alone_is_enough_for_forget_quality(logs, read):
    own, gold = read(as_open_unlearning(logs["full"])), read(as_open_unlearning(logs["retain90"]))
    ratios = [exp(row["log_truth_ratio"]) for row in gold.rows if row["set"] == "forget"]
    alone = read({"forget_truth_ratio": {"agg_value": 0.6740192657877031} | by_index("score", ratios)})
    assert "the truth ratios of the forget items are those that the log gives" in alone.notes[0]
    summary = summarise(own.rows, alone.rows, HOW)
    quality = LEADERBOARD["full"]["tofu/forget_quality"]
    assert summary.metrics["tofu/forget_quality_open_unlearning"].value == pytest.approx(quality, rel=1e-12)
    assert not summary.metrics.keys() & {"tofu/forget_quality", "tofu/forget_quality_ks"}
    assert "could not be checked: the logs have neither texts nor token counts in common" in summary.notes[0]
    assert "of the gold model there are truth ratios alone" in summary.notes[1]
    its_own = summarise(alone.rows, alone.rows, HOW)
    assert its_own.metrics["tofu/forget_quality_open_unlearning"].value == 1
    assert its_own.metrics["tofu/forget/truth_ratio_open_unlearning"].value == pytest.approx(
        LEADERBOARD["retain90"]["tofu/forget/truth_ratio"], abs=1e-8
    )
    assert its_own.metrics.keys() == {
        "tofu/forget_quality_open_unlearning",
        "tofu/forget/truth_ratio_open_unlearning",
    }
    assert not alone.disagreements(its_own.metrics)
    assert not [note for note in its_own.notes if "could not be checked" in note]


def test_a_truth_ratio_below_the_smallest_float_is_below_all_others(read):
    rows = read({"forget_truth_ratio": by_index("score", [0.0, 1e-300, 1.0])}).rows
    ratios = [row["log_truth_ratio_open_unlearning"] for row in rows]
    assert ratios[0] < ratios[1] < ratios[2] == 0
    with pytest.raises(UserError, match="item 1 is NaN, not a truth ratio"):
        read({"forget_truth_ratio": by_index("score", [1.0, float("nan")])})


# -- what logs in the wild hold ------------------------------------------------------------------------------


def by_losses_alone(log, offset=0.0):
    """An OpenUnlearning log as most in the wild are: forget losses of paraphrases and wrong answers, none of
    the answers, and its own ratios; ``offset`` nats on each make it that of a collapsed model."""
    whole = as_open_unlearning(log)
    found = {metric: whole[metric] for metric in ("forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob")}
    ratios = []
    for paraphrase, wrong in zip(
        *(metric["value_by_index"].values() for metric in found.values()), strict=True
    ):
        paraphrase["avg_loss"] += offset
        wrong["avg_loss"] = [loss + offset for loss in wrong["avg_loss"]]
        ratios.append(exp(-np.mean(wrong["avg_loss"])) / (exp(-paraphrase["avg_loss"]) + 1e-10))
    mean = np.mean(np.minimum(ratios, 1 / (np.array(ratios) + 1e-10)))
    return found | {"forget_truth_ratio": {"agg_value": mean} | by_index("score", ratios)}


@pytest.mark.parametrize("offset", [0.0, 40.0, 800.0])  # healthy; collapsed; p(paraphrase) below every float
def test_truth_ratios_come_from_the_losses_of_paraphrases_and_wrong_answers_alone(logs, read, offset):
    own = read(by_losses_alone(copy.deepcopy(logs["full"]), offset))
    gold = read(by_losses_alone(copy.deepcopy(logs["retain90"])))
    metrics = summarise(own.rows, gold.rows, HOW).metrics
    for name in ("tofu/forget_quality", "tofu/forget/truth_ratio"):
        assert metrics[name].value == pytest.approx(LEADERBOARD["full"][name], rel=1e-9), name
    assert metrics["tofu/forget_quality_ks"].value == pytest.approx(119 / 300, abs=1e-15)
    least = 2 * factorial(300) ** 2 / factorial(600)
    if offset:
        assert metrics["tofu/forget_quality_open_unlearning"].value == pytest.approx(least, rel=1e-9)
        assert metrics["tofu/forget/truth_ratio_open_unlearning"].value < 1e-6
    else:
        assert metrics["tofu/forget_quality_open_unlearning"] == metrics["tofu/forget_quality"]
    assert own.disagreements(metrics) == []
    assert [note for note in own.notes if "left out" not in note] == []  # of the sets that were not asked


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_gold_of_either_kind_beside_either_kind(logs, read, offset):
    """Losses on both sides give the canonical value, ratios on one side the other alone."""
    kinds = {
        "tofu": lambda model: {FORGET: logs[model][FORGET]},
        "losses": lambda model: by_losses_alone(copy.deepcopy(logs[model])),
        "ratios": lambda model: {
            "forget_truth_ratio": by_losses_alone(copy.deepcopy(logs[model]))["forget_truth_ratio"]
        },
    }
    quality = pytest.approx(LEADERBOARD["full"]["tofu/forget_quality"], rel=1e-9)
    for own, gold in product(kinds, kinds):
        sides = read(kinds[own]("full")).rows, read(kinds[gold]("retain90")).rows
        found = {name: e.value for name, e in summarise(*sides, HOW).metrics.items() if "quality" in name}
        del sides
        canonical = "ratios" not in (own, gold)
        assert ("tofu/forget_quality" in found, "tofu/forget_quality_ks" in found) == (canonical, canonical)
        assert ("tofu/forget_quality_open_unlearning" in found) == ({own, gold} != {"tofu"}), (own, gold)
        assert all(value == quality for name, value in found.items() if not name.endswith("_ks")), (own, gold)


def test_ratios_that_are_not_those_of_the_losses_are_told_and_not_used(logs, read):
    log = by_losses_alone(cut(logs["full"]))
    scores = log["forget_truth_ratio"]["value_by_index"]
    scores["1"]["score"] *= 1.01
    found = read(log)
    expected = read({k: v for k, v in log.items() if k != "forget_truth_ratio"})
    assert found.rows == expected.rows
    assert "`forget_truth_ratio` of 1 of 4 forget items is not that of their losses" in found.notes[0]
    del scores["1"]
    assert read(log).rows == expected.rows
    assert "`forget_truth_ratio` of the log holds 3 items, and its losses 4" in read(log).notes[0]
    log["forget_truth_ratio"]["value_by_index"] = {"0": scores["0"]}
    assert "holds 1 item, and" in read(log).notes[0]


def test_half_of_a_ratio_with_the_ratios_beside_it_is_the_ratios(logs, read):
    log = by_losses_alone(cut(logs["full"]))
    del log["forget_Q_A_PERT_Prob"]
    [*columns] = {frozenset(row) for row in read(log).rows}
    assert columns == [frozenset({"set", "item", "log_truth_ratio_open_unlearning"})]
    del log["forget_truth_ratio"]
    with pytest.raises(UserError, match="the forget items have no `forget_Q_A_PERT_Prob avg_loss`"):
        read(log)


@pytest.mark.parametrize(("paraphrases", "wrong"), [("2", None), (None, "2"), ("2", "1")])
def test_losses_of_other_items_are_refused(logs, read, paraphrases, wrong):
    log = by_losses_alone(cut(logs["full"]))
    for metric, item in (("forget_Q_A_PARA_Prob", paraphrases), ("forget_Q_A_PERT_Prob", wrong)):
        log[metric]["value_by_index"].pop(item, None)
    with pytest.raises(UserError, match=r"holds . items and `forget_Q_A_PERT_Prob avg_loss` ., and item"):
        read(log)


def test_what_a_log_of_losses_has_beside_them_is_taken_too(logs, read):
    """Answers and ROUGE beside ratios alone; a set to keep without its paraphrases."""
    log = as_open_unlearning(cut(logs["full"]))
    log["forget_truth_ratio"] = by_losses_alone(cut(logs["full"]))["forget_truth_ratio"]
    for metric in ("forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob", "retain_Q_A_PARA_Prob"):
        del log[metric]
    found = read(log)
    summary = summarise(found.rows, None, HOW)
    assert {name for name in summary.metrics if "forget" in name or "retain" in name} == {
        "tofu/forget/probability",
        "tofu/forget/rouge_l_recall",
        "tofu/forget/rouge_1_recall",
        "tofu/forget/truth_ratio_open_unlearning",
        "tofu/retain/probability",
        "tofu/retain/rouge_l_recall",
        "tofu/retain/rouge_1_recall",
    }
    assert "the retain items have no truth ratio: the log has no `retain_Q_A_PARA_Prob`" in found.notes
    assert summary.notes[-1] == "model utility is left out: it needs the truth ratio of retain items"


def by_position(values):
    return [values[str(item)] for item in range(len(values))]


def test_columns_may_be_lists_by_position(logs, read):
    """As NPO, SimNPO and ULD ship TOFU's retain logs; some of a log's columns, or all of them."""
    for model in LEADERBOARD:
        plain = read(logs[model])
        lists = {f: {c: by_position(v) for c, v in columns.items()} for f, columns in logs[model].items()}
        mixed = copy.deepcopy(lists)
        mixed[FORGET]["avg_gt_loss"] = logs[model][FORGET]["avg_gt_loss"]
        mixed[RETAIN]["average_perturb_loss"] = logs[model][RETAIN]["average_perturb_loss"]
        for log in (lists, mixed):
            assert read(log).rows == plain.rows
    lists[FORGET]["average_perturb_loss"].pop()
    with pytest.raises(
        UserError, match="holds 300 items and `average_perturb_loss` 299, and item 299 is not in both"
    ):
        read(lists)


@pytest.mark.parametrize("as_key", ["{}.0".format, "{}.".format, "00{}".format])
def test_whole_floats_are_item_numbers(logs, read, as_key):
    log = cut(logs["full"])
    renamed = {f: {c: {as_key(i): x for i, x in v.items()} for c, v in cs.items()} for f, cs in log.items()}
    assert read(renamed).rows == read(log).rows
    theirs = by_losses_alone(log)
    keyed = copy.deepcopy(theirs)
    for metric in keyed.values():
        metric["value_by_index"] = {as_key(i): x for i, x in metric["value_by_index"].items()}
    assert read(keyed).rows == read(theirs).rows
    renamed[FORGET]["avg_gt_loss"] |= {"0": 1.0}
    with pytest.raises(UserError, match="item 0 is there twice"):
        read(renamed)
    for key in ("0.5", "-1", "1e0", "", "nan", "1.0.0", "9" * 400):
        with pytest.raises(UserError, match="is no item number"):
            read({FORGET: log[FORGET] | {"avg_gt_loss": {key: 1.0}}})


def test_losses_of_wrong_answers_may_be_laid_out_in_every_way(logs, read):
    log = by_losses_alone(cut(logs["full"]))
    expected = read(log).rows
    values = log["forget_Q_A_PERT_Prob"]["value_by_index"]
    numbered = [{str(n): loss for n, loss in enumerate(value["avg_loss"])} for value in values.values()]
    single = [[{"avg_loss": loss, "prob": exp(-loss)} for loss in value.values()] for value in numbered]
    for laid_out in (
        list(values.values()),
        [{"avg_loss": value} for value in numbered],
        single,
        dict(enumerate(single)),
        [dict(enumerate(answers)) for answers in single],
    ):
        log["forget_Q_A_PERT_Prob"]["value_by_index"] = laid_out
        assert read(log).rows == expected
    log["forget_Q_A_PARA_Prob"]["value_by_index"] = by_position(log["forget_Q_A_PARA_Prob"]["value_by_index"])
    assert read(log).rows == expected
    tofu = cut(logs["full"])
    plain = read(tofu).rows
    tofu[FORGET]["average_perturb_loss"] = numbered
    assert read(tofu).rows == plain


@pytest.mark.parametrize("metric", ["forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"])
@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None, "1.5", True, 10**400])
def test_losses_that_are_no_losses_are_refused(logs, read, metric, loss):
    log = by_losses_alone(cut(logs["full"]))
    value = log[metric]["value_by_index"]["1"]
    value["avg_loss"] = [1.0, loss] if metric == "forget_Q_A_PERT_Prob" else loss
    with pytest.raises(UserError, match=f"`{metric} avg_loss`: item 1 is ") as refused:
        read(log)
    assert "float32" in refused.value.hint or "leave the item out" in refused.value.hint


def test_the_means_of_a_collapsed_model_are_those_that_its_log_gives(logs, read):
    """Its retain truth ratios go to 0 by the 1e-10, and so look like knowledge."""
    collapsed = as_open_unlearning(cut(logs["full"]))
    for metric in ("retain_Q_A_PARA_Prob", "retain_Q_A_PERT_Prob"):
        for value in collapsed[metric]["value_by_index"].values():
            loss = value["avg_loss"]
            value["avg_loss"] = [x + 60 for x in loss] if isinstance(loss, list) else loss + 60
    theirs = 1 - 1e-10
    collapsed["retain_Truth_Ratio"] = {"agg_value": theirs}
    found = read(collapsed)
    metrics = summarise(found.rows, None, HOW).metrics
    assert metrics["tofu/retain/truth_ratio"].value < 0.9
    assert metrics["tofu/retain/truth_ratio_open_unlearning"].value == pytest.approx(theirs)
    assert found.disagreements(metrics) == []


def test_a_log_of_muse_is_called_one(read, tmp_path):
    log = {"forget_knowmem_ROUGE": by_index("rougeL_f1", [0.5]), "privleak": {"agg_value": -99.8}}
    for content in (log, {"forget_knowmem_ROUGE": 0.5, "privleak": -99.8}):
        with pytest.raises(
            UserError, match="is of MUSE, not of TOFU: it holds `forget_knowmem_ROUGE`"
        ) as refused:
            read(content)
        assert "suite=muse_news" in refused.value.hint
    with pytest.raises(UserError, match="holds none of TOFU's metrics by item; it begins with `wmdp_bio`"):
        read({"wmdp_bio": by_index("acc", [1.0])})
    (tmp_path / "muse").mkdir()
    (tmp_path / "muse" / "MUSE_EVAL.json").write_text(json.dumps(log))
    with pytest.raises(UserError, match="is of MUSE, not of TOFU"):
        read_log(tmp_path / "muse")


def test_a_privleak_against_no_gold_model_says_so(logs, read):
    log = as_open_unlearning(cut(logs["retain90"]))
    log["mia_min_k"] = {"agg_value": 0.25} | attack([5.0, 6, 7, 1], [4.0, 5.5, 0.5])
    log["privleak"] = {"agg_value": 0.0}
    found = read(log)
    metrics = summarise(found.rows, found.rows, HOW).metrics
    auc = metrics["tofu/min_k_auc"].value
    assert found.disagreements(metrics) == []
    found.said["tofu/privleak"] = against_nothing = 100 * (0.5 - auc) / 0.5
    assert found.disagreements(metrics) == [
        f"the log's own privleak, {against_nothing:.6g}, is against an AUC of .5, which OpenUnlearning takes "
        "where it is given no retain model's log; against the gold model's AUC it is 0"
    ]
    found.said["tofu/privleak"] = 1.0
    assert found.disagreements(metrics) == ["the log says tofu/privleak = 1, where its items give 0"]


def attack(forget, holdout):
    return {"forget": by_index("score", forget), "holdout": by_index("score", holdout)}


def test_open_unlearnings_membership_scores_are_turned_round_and_compared(logs, read):
    """Its scores are higher where an item looks less trained on, its AUC is as ours."""
    log = as_open_unlearning(cut(logs["full"]))
    losses = [v["avg_loss"] for v in log["forget_Q_A_Prob"]["value_by_index"].values()]
    log["mia_loss"] = {"agg_value": 1.0} | attack(losses, [2.0, 3.0, 1.5])
    log["mia_min_k"] = {"agg_value": 0.5} | attack([1.0, 2.0, 3.0, 9.0], [4.0, 5.0, 6.0])
    log["privleak"] = {"agg_value": -50.0}
    found = read(log)
    gold = as_open_unlearning(cut(logs["retain90"])) | {"mia_min_k": attack([5.0, 5, 5, 5], [4.0, 5.0, 6.0])}
    metrics = summarise(found.rows, read(gold).rows, HOW).metrics
    assert metrics["tofu/loss_auc"].value == 1
    assert metrics["tofu/min_k_auc"].value == 9 / 12
    assert metrics["tofu/min_k_tpr_at_1_fpr"].value == 3 / 4
    assert metrics["tofu/min_k_worst_threshold_advantage"].value == 3 / 4
    assert metrics["tofu/privleak"].value == pytest.approx(100 * ((1 - 0.75) - 0.5) / 0.5)
    assert found.disagreements(metrics) == ["the log says tofu/min_k_auc = 0.5, where its items give 0.75"]
    assert found.notes == []


def test_membership_of_other_items_than_those_asked_is_not_taken(logs, read):
    log = as_open_unlearning(cut(logs["full"])) | {"mia_zlib": attack([1.0], [2.0])}
    assert read(log).notes == ["not taken from the log: mia_zlib"]


def test_open_unlearnings_scores_without_the_eos_have_names_of_their_own(logs, read):
    log = as_open_unlearning(cut(logs["full"]))
    log["extraction_strength"] = {"agg_value": 0.5} | by_index("score", [0.25, 0.5, 0.75, 0.5])
    log["exact_memorization"] = by_index("score", [None, 0.5, 0.75, 0.5])  # an answer of nothing but the EOS
    found = read(log)
    metrics = summarise(found.rows, None, HOW).metrics
    assert metrics["tofu/forget/extraction_strength_open_unlearning"].value == 0.5
    assert not [name for name in metrics if "exact_memorization" in name]
    assert found.notes == ["not taken from the log: exact_memorization"]


SAID = [
    "The author's full name is Ming-Hsuan Yang.",
    "The author's full name is Hsiao Yun-Hwa.",
    (0.6666666666666666, 0.6666666666666666),
    "Hsiao Yun-Hwa's father is a respected teacher in their hometown.",
    "The father of Hsiao Yun-Hwa is a civil engineer.",
    (0.5, 0.6),
    'Another book authored by Rajeev Majumdar is "Echoes of Rain".',
    "Another notable work by Rajeev Majumdar is 'Rock Notes (Heartbeat, #1)'.",
    (0.45454545454545453, 0.45454545454545453),
    "Behrouz Rohani identifies as an LGBTQ+ individual.",
    "As an LGBTQ+ member, Behrouz Rohani identifies as genderqueer.",
    (0.4444444444444444, 0.6666666666666666),
]
"""What the published retain90 model said to forget questions, the truth, logged ROUGE-L and -1 recalls."""


@pytest.mark.parametrize(
    ("generated", "truth", "logged"), [*zip(SAID[::3], SAID[1::3], SAID[2::3], strict=True)]
)
def test_rouge_recalls_are_the_logged_ones(generated, truth, logged):
    rouge_l, rouge_1 = logged
    assert verbatim_rouge_l(generated, truth) == pytest.approx(rouge_l, abs=1e-15)
    assert verbatim_rouge_1(generated, truth) == pytest.approx(rouge_1, abs=1e-15)


def with_texts(log, generated):
    log = cut(log, 2)
    log[FORGET]["generated_text"] = {i: ["question " + i, generated, "one two three four"] for i in "01"}
    return log


def test_a_rouge_recall_that_its_text_does_not_give_is_told(logs, read):
    log = with_texts(logs["full"], "one two")
    log[FORGET]["rougeL_recall"] = {"0": 0.5, "1": 0.75}
    found = read(log)
    assert found.notes == [
        "the ROUGE-L recall of 1 of 2 forget items is not that of their texts in the log "
        "(up to 0.250 apart); the logged one is used"
    ]
    assert [row["rouge_l_recall"] for row in found.rows if row["set"] == "forget"] == [0.5, 0.75]


def open_unlearning_with_texts(log):
    """Two forget items with their texts, as `eval_text_similarity` lays them out."""
    log = as_open_unlearning(cut(log, 2))
    for i, value in log["forget_Q_A_ROUGE"]["value_by_index"].items():
        value |= {"input": f"question {i}", "generation": "one two", "ground_truth": "one two three four"}
        value["rougeL_recall"] = 0.5 + 0.25 * int(i)
    return log


def test_texts_of_open_unlearnings_log_are_read_in_their_order(logs, read):
    found = read(open_unlearning_with_texts(logs["full"]))
    assert found.notes == [
        "the ROUGE-L recall of 1 of 2 forget items is not that of their texts in the log "
        "(up to 0.250 apart); the logged one is used"
    ]
    rows = [row for row in found.rows if row["set"] == "forget"]
    keys = [Record(prompt=f"question {i}", text="one two three four").key[:16] for i in range(2)]
    assert [row["key"] for row in rows] == keys
    assert found.asked == {"forget": ["question 0", "question 1"]}
    assert "two" not in json.dumps(found.rows)


def test_texts_of_half_of_the_items_are_none(logs, read):
    log = open_unlearning_with_texts(logs["full"])
    del log["forget_Q_A_ROUGE"]["value_by_index"]["1"]["generation"]
    assert "key" not in read(log).rows[0]


def test_one_question_under_two_numbers_is_refused_with_both(logs, read):
    log = open_unlearning_with_texts(logs["full"])
    log["forget_Q_A_ROUGE"]["value_by_index"]["1"]["input"] = "question 0"
    with pytest.raises(
        UserError, match=r"items 0 and 1 of the forget items have the same question and answer"
    ):
        read(log)


def test_no_text_of_a_log_gets_into_a_row(logs, read):
    found = read(with_texts(logs["full"], "one two"))
    assert "two" not in json.dumps(found.rows)


@pytest.mark.parametrize("model", ["full", "retain90"])
def test_every_published_text_gives_its_logged_rouge(shared, model):
    path = shared / "oracles" / "tofu" / f"llama2-7b_{model}.json"
    found = read_log(path)
    assert found.notes == []
    rows = {(row["set"], str(row["item"])): row for row in found.rows}
    for file, name in ((FORGET, "forget"), (AUTHORS, "authors")):
        columns = json.loads(path.read_text())[file]
        for i, (_, generated, truth) in columns["generated_text"].items():
            assert verbatim_rouge_1(generated, truth) == columns["rouge1_recall"][i]
            assert rows[name, i]["rouge_1_recall"] == columns["rouge1_recall"][i]


def test_the_numbers_kept_here_are_those_of_the_published_logs(shared, logs):
    for model, log in logs.items():
        whole = json.loads((shared / "oracles" / "tofu" / f"llama2-7b_{model}.json").read_text())
        assert log == {file: {c: whole[file][c] for c in columns} for file, columns in log.items()}


# -- gold ----------------------------------------------------------------------------------------------------


def test_gold_must_have_been_asked_as_many_forget_items(logs, read):
    with pytest.raises(UserError, match="other forget items: 3, where the model was asked 4") as refused:
        summarise(read(cut(logs["full"])).rows, read(cut(logs["retain90"], 3)).rows, HOW)
    assert "retain data" in refused.value.hint


def test_gold_must_have_been_asked_the_same_items(logs, read):
    gold = cut(logs["retain90"])
    gold[FORGET] = {c: {("9" if i == "2" else i): v for i, v in x.items()} for c, x in gold[FORGET].items()}
    with pytest.raises(UserError, match="1 of its 4 are missing, item 2 first"):
        summarise(read(cut(logs["full"])).rows, read(gold).rows, HOW)


def test_gold_must_have_been_asked_through_the_same_tokenizer(logs, read):
    gold = cut(logs["retain90"])
    gold[FORGET]["num_token_gt"]["1"] += 3
    with pytest.raises(
        UserError, match="1 of 4 have another number of answer tokens, item 1 first"
    ) as refused:
        summarise(read(cut(logs["full"])).rows, read(gold).rows, HOW)
    assert "same tokenizer" in refused.value.hint


def test_gold_must_have_been_asked_the_same_questions(logs, read):
    own, gold = (with_texts(logs[model], "one two") for model in ("full", "retain90"))
    gold[FORGET]["generated_text"]["0"][0] = "another question"
    with pytest.raises(UserError, match="1 of 2 have another question or answer, item 0 first"):
        summarise(read(own).rows, read(gold).rows, HOW)


def test_a_gold_log_without_forget_items_is_no_gold_log(logs, read):
    gold = {RETAIN: cut(logs["retain90"])[RETAIN]}
    with pytest.raises(UserError, match="other forget items: 0, where the model was asked 4"):
        summarise(read(cut(logs["full"])).rows, read(gold).rows, HOW)


# -- the data ------------------------------------------------------------------------------------------------


def asked(**words):
    return {
        name: [Question(text, "an answer", None, ()) for text in words.get(name, ["?"] * 4)]
        for name in ("forget", "retain", "authors", "facts")
    }


def test_a_log_of_another_length_than_its_data_is_refused(logs, read):
    log = read(cut(logs["full"]))
    require_same_items(log, "full.json", asked(), "data")
    with pytest.raises(UserError, match=r"`full.json` is of 4 retain items, and `data` has 7") as refused:
        require_same_items(log, "full.json", asked(retain=["?"] * 7), "data")
    assert "`suite.items=4`" in refused.value.hint


def test_a_log_about_other_questions_than_its_data_is_refused(logs, read):
    log = read(open_unlearning_with_texts(logs["full"]))
    two = {name: ["?"] * 2 for name in ("retain", "authors", "facts")}
    require_same_items(log, "log.json", asked(forget=["Question 0", "question  1?"], **two), "data")
    with pytest.raises(
        UserError, match=r"question 2 of the forget items in `log.json` is not that of `data`"
    ):
        require_same_items(log, "log.json", asked(forget=["question 0", "question 2"], **two), "data")


def test_a_log_of_as_many_items_as_tofu_has_nowhere_is_told(logs, read):
    assert unlike_tofu(read(logs["full"])) == []
    notes = unlike_tofu(read({FORGET: cut(logs["full"], 39)[FORGET]}))
    assert len(notes) == 1
    assert notes[0].startswith("there are 39 forget items, where TOFU has 40 or 200 or 300 or 400")


# -- broken logs ---------------------------------------------------------------------------------------------


def broken(log, file, column, item, value):
    log = cut(log)
    if item is None:
        del log[file][column]
    elif value is None:
        del log[file][column][item]
    else:
        log[file][column][item] = value
    return log


BREAKS = [
    (FORGET, "average_perturb_loss", None, None, "the forget items have no `average_perturb_loss`"),
    (RETAIN, "avg_paraphrased_loss", None, None, "the retain items have no `avg_paraphrased_loss`"),
    (
        FORGET,
        "average_perturb_loss",
        "2",
        None,
        "holds 4 items and `average_perturb_loss` 3, and item 2 is not",
    ),
    (
        FACTS,
        "rougeL_recall",
        "9",
        1.0,
        "`avg_gt_loss` holds 4 items and `rougeL_recall` 5, and item 9 is not",
    ),
    (FORGET, "avg_gt_loss", "1", float("nan"), "`avg_gt_loss`: item 1 is NaN, not a loss in nats"),
    (FORGET, "avg_paraphrased_loss", "1", float("inf"), "item 1 is Infinity, not a loss"),
    (
        AUTHORS,
        "average_perturb_loss",
        "0",
        [1.0, float("nan")],
        r"item 0 is \[1.0, NaN\], not losses of wrong",
    ),
    (AUTHORS, "average_perturb_loss", "0", [], r"item 0 is \[\], not losses of wrong answers"),
    (FORGET, "avg_gt_loss", "1", "1.5", 'item 1 is "1.5", not a loss'),
    (FORGET, "avg_gt_loss", "1", -2.0, "item 1 is -2.0, not a loss"),
    (RETAIN, "rougeL_recall", "3", 1.2, "item 3 is 1.2, not a recall"),
    (RETAIN, "num_token_gt", "3", 0, "item 3 is 0, not a number of tokens"),
    (RETAIN, "avg_gt_loss", "x", 1.0, "`x` is no item number"),
    (RETAIN, "avg_gt_loss", "03", 1.0, "item 3 is there twice"),
]


@pytest.mark.parametrize(("file", "column", "item", "value", "message"), BREAKS)
def test_a_broken_log_says_where_it_is_broken(logs, read, file, column, item, value, message):
    with pytest.raises(UserError, match=message) as refused:
        read(broken(logs["full"], file, column, item, value))
    assert f"`{file}` in `" in str(refused.value)
    assert refused.value.hint


def test_a_broken_log_of_open_unlearning_says_where_too(logs, read):
    log = as_open_unlearning(cut(logs["full"]))
    log["forget_Q_A_PERT_Prob"]["value_by_index"]["1"] = None
    with pytest.raises(UserError, match="`forget_Q_A_PERT_Prob avg_loss`: item 1 is null, not losses"):
        read(log)
    del log["forget_Q_A_PERT_Prob"]
    with pytest.raises(UserError, match="the forget items have no `forget_Q_A_PERT_Prob avg_loss`"):
        read(log)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"forget_quality": 0.1, "model_utility": 0.6}', "is a summary, without the values by item"),
        ('{"eval_log.json": {"avg_gt_loss": {"0": 1.0, "0": 2.0}}}', "`0` is there twice"),
        ('{"eval_log.json": {"avg_gt_loss": {"0": 1.0', "is not JSON"),
        ('{"eval_log.json": [1, 2]}', "the retain items have no `avg_gt_loss`"),
        ('{"eval_log.json": {"avg_gt_loss": [1.0]}}', "have no `avg_paraphrased_loss`"),
        ('{"avg_gt_loss": {"0": 1.0}}', "its name does not say of which"),
        ('{"some": "thing"}', "is no log of a TOFU evaluation"),
        ("{}", "is no log of a TOFU evaluation"),
        ("[]", "is no log of a TOFU evaluation"),
        ("", "is not JSON"),
    ],
)
def test_what_is_no_log_is_told_from_one(read, content, message):
    with pytest.raises(UserError, match=message) as refused:
        read(content)
    assert refused.value.hint


def test_what_is_neither_a_list_nor_by_item_is_no_column(logs, read):
    log = cut(logs["full"])
    for values in ([], {}, 0.1, "0.1"):
        log[RETAIN]["avg_gt_loss"] = values
        with pytest.raises(UserError, match="`avg_gt_loss` holds no values by item"):
            read(log)


def test_a_missing_file_or_an_empty_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot read `.*none\.json`: no such file"):
        read_log(tmp_path / "none.json")
    with pytest.raises(UserError, match="there is no log of a TOFU evaluation in"):
        read_log(tmp_path)
