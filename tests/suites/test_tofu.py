"""The TOFU suite: what it reads, what it asks a model, and that its rows are those of the answers asked."""

import json
from dataclasses import replace
from math import exp

import pytest
from tofu_published import AUTHORS, FACTS, FORGET, RETAIN

from mari_cli.config import Device, MetricsConfig, ModelConfig, Precision, TofuSuite
from mari_cli.data.records import Record
from mari_cli.data.tokenize import PromptStyle, encode_pair
from mari_cli.errors import UserError
from mari_cli.metrics.generation import verbatim_rouge_1, verbatim_rouge_l
from mari_cli.metrics.statistics import How
from mari_cli.models.device import choose_compute
from mari_cli.models.fingerprint import weights_hash
from mari_cli.models.load import load_model, load_tokenizer
from mari_cli.progress import silent
from mari_cli.suites.examiner import Examiner
from mari_cli.suites.registry import METRICS, describe
from mari_cli.suites.tofu import load

SHAPE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64}


def question(name, i, wrong):
    return {
        "question": f"which {name} is {i}?",
        "answer": f"it is {name} number {i}",
        "paraphrased_answer": f"number {i} of {name}",
        "perturbed_answer": [f"number {i} of {other}" for other in wrong],
    }


FIVE, THREE = ["cats", "dogs", "birds", "bees", "ants"], ["cats", "dogs", "birds"]
DATA = {
    "forget01_perturbed": [question("moon", i, FIVE) for i in range(5)],
    "retain_perturbed": [question("sun", i, FIVE) for i in range(4)],
    "real_authors_perturbed": [
        {k: v for k, v in question("poet", i, THREE).items() if k != "paraphrased_answer"} for i in range(3)
    ],
    "world_facts_perturbed": [
        {k: v for k, v in question("river", i, THREE).items() if k != "paraphrased_answer"} for i in range(2)
    ],
    "holdout01": [{"question": f"which star is {i}?", "answer": f"star {i}"} for i in range(3)],
}


def written(folder, data):
    folder.mkdir(exist_ok=True)
    for name, rows in data.items():
        (folder / f"{name}.json").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.fixture
def config(tmp_path):
    return TofuSuite(path=str(written(tmp_path / "data", DATA)), split="forget01", max_new_tokens=4)


@pytest.fixture(scope="module")
def lm():
    compute = choose_compute(Device.cpu, Precision.float32)
    model = ModelConfig(name="tiny", architecture=SHAPE, tokenizer="train")
    words = [row[key] for rows in DATA.values() for row in rows for key in ("question", "answer")]
    return load_model(model, load_tokenizer(model, words), compute, seed=0)


@pytest.fixture
def examiner(lm):
    return Examiner(lm, MetricsConfig(batch_size=4), 0, weights_hash(lm.model), None, silent, "model")


def of(rows, name):
    return [row for row in rows if row["set"] == name]


# -- asking --------------------------------------------------------------------------------------------------


def test_every_question_of_every_set_has_a_row(config, examiner):
    rows = load(config).examine(examiner)
    assert [(row["set"], row["item"]) for row in rows] == [
        (name, i)
        for name, count in {"forget": 5, "retain": 4, "authors": 3, "facts": 2, "holdout": 3}.items()
        for i in range(count)
    ]
    assert "moon" not in json.dumps(rows)


def test_a_row_is_made_of_the_losses_of_its_own_answers(config, examiner):
    rows = load(config).examine(examiner)
    for name, subset, i in (
        ("forget", "forget01_perturbed", 3),
        ("retain", "retain_perturbed", 0),
        ("authors", "real_authors_perturbed", 2),
    ):
        data = DATA[subset][i]
        texts = [data["answer"], data.get("paraphrased_answer", data["answer"]), *data["perturbed_answer"]]
        records = [Record(prompt=data["question"], text=text) for text in texts]
        scores = examiner.score(examiner.tokenize(records, corpus="suite"), "one question")
        answer, paraphrase, *wrong = [score.answer_nll for score in scores]
        row = of(rows, name)[i]
        assert row["answer_nll"] == pytest.approx(answer, abs=1e-6)
        assert row["log_truth_ratio"] == pytest.approx(paraphrase - sum(wrong) / len(wrong), abs=1e-6)
        mean = sum(exp(-nll) for nll in wrong) / len(wrong)
        assert exp(row["log_truth_ratio_arithmetic"]) == pytest.approx(mean / exp(-paraphrase), rel=1e-5)
        offered = exp(-answer) + sum(exp(-nll) for nll in wrong) if name == "authors" else 1
        assert row["probability"] == pytest.approx(exp(-answer) / offered, rel=1e-5)
        assert row["key"] == records[0].key[:16]


def test_rouge_is_of_what_the_model_says_to_the_question(config, examiner):
    rows = load(config).examine(examiner)
    records = [Record(prompt=q["question"], text=q["answer"]) for q in DATA["retain_perturbed"]]
    said = examiner.answers(examiner.tokenize(records, corpus="suite"), "retain", max_new_tokens=4)
    for row, text, record in zip(of(rows, "retain"), said, records, strict=True):
        assert row["rouge_l_recall"] == verbatim_rouge_l(text, record.text)
        assert row["rouge_1_recall"] == verbatim_rouge_1(text, record.text)


def test_without_generated_answers_there_is_no_rouge_and_no_utility(config, examiner):
    suite = load(config)
    rows = suite.examine(replace(examiner, config=replace(examiner.config, generate=False)))
    assert not [row for row in rows if "rouge_l_recall" in row]
    summary = suite.summarise(rows, rows, How(resamples=20))
    assert not [name for name in summary.metrics if "rouge" in name or "utility" in name]
    assert summary.metrics["tofu/forget_quality"].value == 1.0
    assert summary.notes == [
        "model utility is left out: it needs the ROUGE-L recall of retain items, real authors, world facts"
    ]


def test_without_gold_there_is_no_forget_quality_and_never_a_default(config, examiner):
    suite = load(config)
    summary = suite.summarise(suite.examine(examiner), None, How(resamples=20))
    assert not [name for name in summary.metrics if "quality" in name]
    assert summary.notes == ["forget quality is left out: it needs the gold model's answers too"]


def test_every_metric_is_described_and_has_its_items(config, examiner):
    suite = load(config)
    rows = suite.examine(examiner)
    metrics = suite.summarise(rows, rows, How(resamples=20)).metrics
    counts = {"forget": 5, "retain": 4, "authors": 3, "facts": 2}
    for name, estimate in metrics.items():
        metric = describe(name)
        assert metric.low <= estimate.value <= metric.high
        group = name.split("/")[1]
        attack = group.endswith(("auc", "tpr_at_1_fpr", "worst_threshold_advantage", "privleak"))
        expected = 8 if attack else 9 if "utility" in name else 5  # 8: three in the holdout
        assert estimate.n == counts.get(group, expected), name
    others = {
        name
        for name in METRICS
        if name.startswith(("tofu/gradnorm_", "tofu/reference_"))  # asked for apart
    } | {name for name in METRICS if name.endswith("_open_unlearning")}  # of its logs
    others |= {name for name in METRICS if "overall" in name or "_score" in name}  # of several models
    assert set(metrics) | others == {name for name in METRICS if name.startswith("tofu/")}
    assert not set(metrics) & others


def test_fewer_questions_are_the_same_for_every_model(config, examiner):
    suite = load(config)
    some = replace(examiner, config=replace(examiner.config, max_items=2, generate=False))
    rows = suite.examine(some)
    assert {name: len(of(rows, name)) for name in ("forget", "facts", "holdout")} == dict.fromkeys(
        ("forget", "facts", "holdout"), 2
    )
    whole = suite.examine(replace(some, config=replace(some.config, max_items=None)))
    assert [row["key"] for row in rows] == [
        row["key"] for row in whole if (row["set"], row["item"]) in {(r["set"], r["item"]) for r in rows}
    ]
    assert [row["item"] for row in rows] == [row["item"] for row in suite.examine(some)]


# -- reading -------------------------------------------------------------------------------------------------


def test_the_first_items_are_those_of_published_evaluations(config):
    suite = load(replace(config, items=2))
    assert {name: len(asked) for name, asked in suite.questions.items()} == dict.fromkeys(suite.questions, 2)
    assert suite.questions["forget"][1].words == "which moon is 1?"


def test_what_was_asked_is_described_by_hashes(config, tmp_path):
    described = load(config).describe()
    assert described["forget"]["records"] == 5
    assert "moon" not in json.dumps(described)
    other = {**DATA, "forget01_perturbed": [*DATA["forget01_perturbed"][:4], question("mars", 4, FIVE)]}
    changed = load(replace(config, path=str(written(tmp_path / "other", other)))).describe()
    assert changed["forget"]["sha256"] != described["forget"]["sha256"]
    assert changed["retain"] == described["retain"]


def test_json_lines_csv_and_parquet_are_read_by_the_name_of_the_subset(config, tmp_path):
    folder = tmp_path / "data"
    (folder / "holdout01.json").unlink()
    (folder / "holdout01.csv").write_text("question,answer\nwhich star?,that one\n")
    (folder / "retain_perturbed.json").rename(folder / "retain_perturbed.jsonl")
    suite = load(config)
    assert suite.questions["holdout"][0].answer == "that one"
    assert len(suite.questions["retain"]) == 4


def test_a_folder_without_its_holdout_is_refused_with_how_to_get_it_or_go_without(config, tmp_path):
    holdout = tmp_path / "data" / "holdout01.json"
    holdout.rename(holdout.with_name("holdout10.json"))
    with pytest.raises(UserError, match=r"there is no `holdout01` in .* no membership inference") as refused:
        load(config)
    assert "`suite.holdout=holdout10`" in refused.value.hint
    assert len(load(replace(config, holdout="holdout10")).questions["holdout"]) == 3
    holdout.with_name("holdout10.json").unlink()
    with pytest.raises(UserError, match="there is no `holdout01`") as refused:
        load(config)
    assert refused.value.hint == (
        "`holdout01.json` is in TOFU on the hub (locuslab/TOFU); `suite.holdout=null` goes without"
    )


def test_whoever_goes_without_a_holdout_is_told_what_is_left_out(config, examiner, tmp_path):
    (tmp_path / "data" / "holdout01.json").unlink()
    suite = load(replace(config, holdout=None))
    assert "holdout" not in suite.questions
    rows = suite.examine(examiner)
    summary = suite.summarise(rows, rows, How(resamples=20))
    assert not [name for name in summary.metrics if "auc" in name or "privleak" in name]
    assert summary.notes == [
        "membership inference and privleak are left out: no holdout is asked (`suite.holdout=null`)"
    ]


def test_a_holdout_that_is_to_be_forgotten_is_none(config, tmp_path):
    (tmp_path / "data" / "forget.json").write_text(
        (tmp_path / "data" / "forget01_perturbed.json").read_text()
    )
    with pytest.raises(
        UserError, match=r"5 records of `forget` in .* are in `forget01_perturbed` too, record 1"
    ):
        load(replace(config, holdout="forget"))


def edited(subset, i, **changes):
    rows = [dict(row) for row in DATA[subset]]
    for key, value in changes.items():
        if value is None:
            del rows[i][key]
        else:
            rows[i][key] = value
    return {**DATA, subset: rows}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {name: rows for name, rows in DATA.items() if name != "retain_perturbed"},
            "there is no `retain_perturbed` in",
        ),
        ({**DATA, "retain_perturbed": []}, "`retain_perturbed` in .* is empty"),
        (
            {**DATA, "forget01_perturbed": DATA["holdout01"]},
            "has no field `paraphrased_answer`; it has `question`, `answer`",
        ),
        (
            edited("forget01_perturbed", 2, perturbed_answer=None),
            "record 3 .* has no field `perturbed_answer`",
        ),
        (
            edited("forget01_perturbed", 2, perturbed_answer=[]),
            "`perturbed_answer` in record 3 .* is no list",
        ),
        (
            edited("forget01_perturbed", 2, perturbed_answer="cats"),
            "`perturbed_answer` in record 3 .* no list",
        ),
        (
            edited("forget01_perturbed", 2, perturbed_answer=["a", " "]),
            "`perturbed_answer` in record 3 .* empty",
        ),
        (edited("retain_perturbed", 0, answer=7), "`answer` in record 1 .* is no text"),
        (edited("retain_perturbed", 0, paraphrased_answer=""), "`paraphrased_answer` in record 1 .* empty"),
        (
            {**DATA, "world_facts_perturbed": DATA["world_facts_perturbed"] * 2},
            "record 3 of `world_facts_perturbed` in .* is record 1 again",
        ),
        (
            edited("retain_perturbed", 2, **DATA["retain_perturbed"][0] | {"perturbed_answer": ["other"]}),
            "record 3 of `retain_perturbed` in .* is record 1 again",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(config, tmp_path, data, message):
    with pytest.raises(UserError, match=message) as refused:
        load(replace(config, path=str(written(tmp_path / "broken", data))))
    assert refused.value.hint


def test_another_split_is_looked_for_under_its_name(config):
    with pytest.raises(UserError, match="there is no `forget05_perturbed` in"):
        load(replace(config, split="forget05"))
    with pytest.raises(ValueError, match="forget01, forget05 or forget10"):
        TofuSuite(split="retain90")


def test_where_the_hub_cannot_be_reached_a_folder_will_do():
    with pytest.raises(UserError, match="`locuslab/TOFU` is no local file") as refused:
        load(TofuSuite())
    assert "a local path as `suite.path`" in refused.value.hint


# -- as TOFU -------------------------------------------------------------------------------------------------


def test_tofu_itself_is_read(shared):
    suite = load(TofuSuite(path=str(shared / "data" / "tofu")))
    counts = {name: len(asked) for name, asked in suite.questions.items()}
    assert counts == {"forget": 400, "retain": 400, "authors": 100, "facts": 117, "holdout": 400}
    wrong = {name: {len(q.wrong) for q in asked} for name, asked in suite.questions.items()}
    assert wrong == {"forget": {5}, "retain": {5}, "authors": {3}, "facts": {3}, "holdout": {0}}


def test_an_answer_has_as_many_tokens_as_in_tofus_logs(shared):
    """The EOS is counted once. A quotation mark that the tokenizer joins to the prompt's end is a token of
    the answer here, and none there."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories15M")  # Llama 2's
    style = PromptStyle("[INST] {prompt} [/INST]", chat=False)
    log = json.loads((shared / "oracles" / "tofu" / "llama2-7b_full.json").read_text())
    suite = load(TofuSuite(path=str(shared / "data" / "tofu")))
    compared = 0
    for name, file in {"forget": FORGET, "retain": RETAIN, "authors": AUTHORS, "facts": FACTS}.items():
        for i, tokens in log[file]["num_token_gt"].items():
            q = suite.questions[name][int(i)]
            assert q.words in log[file]["generated_text"][i][0]
            answers = [q.answer, q.paraphrase or q.answer, *q.wrong]
            logged = [tokens, log[file]["num_token_paraphrased"][i], *log[file]["num_token_perturb"][i]]
            for answer, count in zip(answers, logged, strict=True):
                ids, start = encode_pair(q.record(answer), tokenizer, style)
                assert len(ids) - start == count + answer.startswith('"'), answer
                compared += 1
    assert compared == 5285
