"""`mari evaluate --from-log` and `suite=tofu`, as a user meets them."""

import json
import subprocess
import sys

import pytest
from tofu_published import LEADERBOARD, as_open_unlearning, published

from mari_cli.suites.open_unlearning_summary import INGREDIENTS


def write_tofu(folder, items):
    """TOFU in small, without a holdout."""
    wrong = ["Ana Lind", "Bo Quorn", "Cy Vael"]
    asked = [
        {"question": f"Who wrote book {i}?", "answer": "Ilse Dask", "perturbed_answer": wrong}
        for i in range(items)
    ]
    paraphrased = [row | {"paraphrased_answer": "Dask, Ilse"} for row in asked]
    folder.mkdir()
    for name, rows in {
        "forget10_perturbed": paraphrased,
        "retain_perturbed": paraphrased,
        "real_authors_perturbed": asked,
        "world_facts_perturbed": asked,
    }.items():
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def logs(tmp_path):
    for model in LEADERBOARD:
        (tmp_path / f"{model}.json").write_text(json.dumps(published(model)))
    return tmp_path


def test_published_logs_give_the_published_numbers(mari, logs):
    said = mari("evaluate", "--from-log", "full.json", "--gold-log", "retain90.json", "out=run", "--json")
    assert said.code == 0
    result = json.loads(said.out)
    for role, model in {"model": "full", "gold": "retain90"}.items():
        metrics = result["models"][role]["metrics"]
        for name, value in LEADERBOARD[model].items():
            assert metrics[name]["value"] == pytest.approx(value, abs=1e-12), name
    quality = result["models"]["model"]["metrics"]["tofu/forget_quality"]
    assert quality["value"] == 1.834066410994743e-21
    assert quality["n"] == 300
    assert quality["low"] < 1.8e-21 < quality["high"] < 1e-9
    assert result["notes"] == []
    assert result == json.loads((logs / "run" / "result.json").read_text())

    (logs / "run" / "result.json").unlink()  # cut off just before its end
    said = mari("evaluate", "--resume", "run", "--json")
    assert said.code == 0
    assert json.loads(said.out)["models"] == result["models"]
    (logs / "run" / "result.json").unlink()
    (logs / "retain90.json").write_text((logs / "retain90.json").read_text() + " ")
    said = mari("evaluate", "--resume", "run")
    assert said.code == 2
    assert "something has changed since it began: the log retain90.json" in said.err


def test_a_log_is_compared_with_the_data_that_is_named(mari, logs):
    """Of two questions in each set where the log is of 300."""
    write_tofu(logs / "data", items=2)
    words = ["--from-log", "full.json", "suite=tofu", "suite.path=data", "out=run"]
    said = mari("evaluate", *words)
    assert said.code == 2
    assert said.err.splitlines()[0] == (
        "error: `full.json` is of 300 forget items, and `data` has 2 with these settings"
    )
    assert "`suite.items=300`" in said.err
    log = published("full")
    two = {file: {c: {i: v[i] for i in "01"} for c, v in columns.items()} for file, columns in log.items()}
    (logs / "full.json").write_text(json.dumps(two))
    assert mari("evaluate", *words).code == 0
    said = mari("evaluate", "--from-log", "full.json", "suite=muse_news", "out=other")
    assert "`from_log` is about TOFU's logs, and `suite=muse_news` is not TOFU" in said.err


def test_summaries_of_model_gold_and_target_give_the_overall_score(mari, logs):
    for i, name in enumerate(("model", "gold", "target")):
        summary = dict.fromkeys(INGREDIENTS.values(), 0.4 + 0.1 * i)
        (logs / f"{name}.json").write_text(json.dumps(summary))
    words = ["--from-log", "model.json", "--gold-log", "gold.json", "--target-log", "target.json", "--json"]
    said = mari("evaluate", *words, "out=run")
    assert said.code == 0
    result = json.loads(said.out)
    assert set(result["models"]) == {"model", "gold", "target"}
    metrics = result["models"]["model"]["metrics"]
    assert metrics["tofu/overall_open_unlearning"]["value"] == pytest.approx(
        3 / (1 / 0.6 + 1 / 0.9 + 1 / (0.4 / 0.6))
    )
    assert result["models"]["target"]["metrics"]["tofu/utility_score_open_unlearning"]["value"] == 1
    assert result["notes"][0].startswith("the numbers of a summary are means alone")
    said = mari("evaluate", "--from-log", "model.json", "--gold-log", "full.json", "out=other")
    assert said.code == 2
    assert "`model.json` is a summary of an evaluation, and `full.json` is none" in said.err


def test_open_unlearnings_logs_give_the_scores_that_they_have_the_parts_of(mari, logs):
    for name, model, right in (("own", "full", 0.5), ("gold", "retain90", 0.2), ("target", "full", 0.9)):
        log = as_open_unlearning(published(model))
        items = log["forget_Q_A_Prob"]["value_by_index"]
        for metric in ("exact_memorization", "extraction_strength"):
            log[metric] = {"agg_value": right, "value_by_index": {i: {"score": right} for i in items}}
        (logs / f"{name}.json").write_text(json.dumps(log))
    words = ["--from-log", "own.json", "--gold-log", "gold.json", "--target-log", "target.json", "--json"]
    said = mari("evaluate", *words, "metrics.bootstrap=50", "out=run")
    assert said.code == 0
    metrics = json.loads(said.out)["models"]["model"]["metrics"]
    truth, paraphrase = (
        metrics[f"tofu/forget/{name}"]["value"] for name in ("truth_ratio", "paraphrase_probability")
    )
    score = metrics["tofu/memorization_score_open_unlearning"]
    assert score["value"] == pytest.approx(4 / (1 / 0.5 + 1 / 0.5 + 1 / (1 - paraphrase) + 1 / (1 - truth)))
    assert score["low"] < score["value"] < score["high"]
    assert score["n"] == 300
    assert metrics["tofu/utility_score_without_fluency_open_unlearning"]["value"] == 1
    assert not [name for name in metrics if "overall" in name]  # there is no membership in these logs


def test_a_log_need_not_wait_for_torch(logs):
    code = (
        "import sys\n"
        "from mari_cli.cli import main\n"
        "sys.argv = ['mari', 'evaluate', '--from-log', 'full.json', 'out=run']\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code in (0, None)\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=logs, check=True)
    assert (logs / "run" / "result.json").exists()


def test_a_table_shows_every_number_with_its_interval_and_items(mari, logs):
    said = mari("evaluate", "--from-log", "full.json", "--gold-log", "retain90.json", "out=run")
    rows = {line.split()[0]: line for line in said.out.splitlines()[1:-1]}
    assert said.out.splitlines()[0].split() == ["metric", "model", "gold", "n"]
    assert rows["tofu/forget_quality"].split()[1] == "1.83e-21"
    assert rows["tofu/model_utility"].split()[2].startswith("[0.")
    assert rows["tofu/model_utility"].split()[1] == "0.6227"
    assert rows["tofu/model_utility"].split()[-1] == "517"
    assert rows["tofu/model_utility_arithmetic"].split()[1] == "0.5859"
    assert len(rows) == 25
    assert said.out.splitlines()[-1] == "run/report.html"
    assert (logs / "run" / "report.html").is_file()


def test_what_was_computed_is_a_run_to_compare(mari, logs):
    for model in LEADERBOARD:
        assert mari("evaluate", "--from-log", f"{model}.json", f"out={model}").code == 0
    said = mari("compare", "full", "retain90")
    assert "model (full)" in said.out
    assert "0.6227" in said.out
    assert "0.6137" in said.out
    assert said.err == ""


def test_a_log_alone_says_what_it_cannot_tell(mari, logs):
    said = mari("evaluate", "--from-log", "full.json", "out=run")
    assert said.code == 0
    assert "forget_quality" not in said.out
    told = "note: model: forget quality is left out: it needs the gold model's answers too\n"
    assert said.err.count(told) == 1
    assert json.loads((logs / "run" / "result.json").read_text())["notes"] == [
        "model: forget quality is left out: it needs the gold model's answers too"
    ]


def test_a_log_of_open_unlearning_is_told_by_its_content(mari, logs):
    (logs / "TOFU_EVAL.json").write_text(json.dumps(as_open_unlearning(published("full"))))
    said = mari("evaluate", "--from-log", "TOFU_EVAL.json", "out=run", "--json")
    metrics = json.loads(said.out)["models"]["model"]["metrics"]
    assert metrics["tofu/retain/truth_ratio"]["value"] == pytest.approx(0.47469858801063763, abs=1e-12)


def test_items_of_a_run_hold_numbers_and_no_text(mari, logs):
    mari("evaluate", "--from-log", "full.json", "out=run")
    rows = [json.loads(line) for line in (logs / "run" / "items.jsonl").read_text().splitlines()]
    assert len(rows) == 817
    assert {(row["model"], row["suite"]) for row in rows} == {("model", "tofu")}
    assert all(isinstance(value, int | float) for row in rows for key, value in row.items()
               if key not in ("model", "suite", "set", "key"))  # fmt: skip


def collection(folder):
    """Logs as a public collection has them: of two models, one broken, one of MUSE, and summaries."""
    two = {m: {f: {c: {i: v[i] for i in "012"} for c, v in cs.items()} for f, cs in published(m).items()}
           for m in LEADERBOARD}  # fmt: skip
    for model, log in two.items():
        (folder / "evals" / model / "evals_forget10").mkdir(parents=True)
        written = as_open_unlearning(log) | {"some": "thing"}
        (folder / "evals" / model / "evals_forget10" / "TOFU_EVAL.json").write_text(json.dumps(written))
        (folder / "evals" / model / "evals_forget10" / "TOFU_SUMMARY.json").write_text(
            '{"model_utility": 0.6}'
        )
    (folder / "evals" / "npo").mkdir()
    (folder / "evals" / "npo" / "own_name.json").write_text(json.dumps(two["full"]))
    (folder / "evals" / "npo" / "config.json").write_text('{"lr": 1e-5, "optim": "adamw"}')
    (folder / "evals" / "cut").mkdir()
    (folder / "evals" / "cut" / "TOFU_EVAL.json").write_text('{"forget_Q_A_Prob": {"value_by_in')
    (folder / "evals" / "muse").mkdir()
    (folder / "evals" / "muse" / "MUSE_EVAL.json").write_text('{"forget_knowmem_ROUGE": {"agg_value": 1}}')
    return two


@pytest.mark.parametrize("spelled", ["folder", "repeated", "words"])
def test_many_logs_give_one_table(mari, tmp_path, spelled):
    two = collection(tmp_path)
    (tmp_path / "gold.json").write_text(json.dumps(two["retain90"]))
    names = ["full/evals_forget10", "npo/own_name", "retain90/evals_forget10"]
    paths = [f"evals/{names[0]}", f"evals/{names[1]}.json", f"evals/{names[2]}/TOFU_EVAL.json"]
    words = {
        "folder": ["--from-log", "evals"],
        "repeated": [word for path in paths for word in ("--from-log", path)],
        "words": ["--from-log", *paths],
    }
    ways = ["--gold-log", "gold.json", "metrics.bootstrap=50", "out=table"]
    said = mari("evaluate", *words[spelled], *ways)
    assert said.code == 0, said.err
    rows = [line for line in said.out.splitlines() if line.split()[0] in names]
    assert [row.split()[0] for row in rows] == names
    assert rows[2].split()[1] == "1.000"  # gold beside itself
    assert said.out.splitlines()[-1] == "table/report.html"
    table = json.loads((tmp_path / "table" / "results.json").read_text())
    for log in table["logs"]:
        on_disk = json.loads((tmp_path / log["run"] / "result.json").read_text())
        assert log["result"] == on_disk
        assert on_disk["name"] == log["name"]
        gold = on_disk["models"]["gold"]["metrics"]["tofu/forget_quality"]["value"]
        assert gold == 1
    assert list(table["left_out"]) == ([f"evals/{n}" for n in ("cut", "muse")] if spelled == "folder" else [])
    if spelled == "folder":
        assert "note: `evals/cut` is left out: `evals/cut/TOFU_EVAL.json` is not JSON" in said.err
        assert (
            "note: `evals/muse` is left out: `evals/muse/MUSE_EVAL.json` is of MUSE, not of TOFU" in said.err
        )
        assert "note: passed over, as no logs of TOFU: `evals/npo/config.json`" in said.err
        assert said.err.count("note: 2 of 3 logs: not taken from the log: some") == 1
    assert "model_utility" in mari("compare", "table", "--out", "again.html").out
    assert mari("evaluate", *words[spelled], *ways).code == 2  # nothing is overwritten


def test_the_json_of_many_logs_is_what_is_written(mari, tmp_path):
    collection(tmp_path)
    said = mari("evaluate", "--from-log", "evals", "metrics.bootstrap=50", "out=table", "--json")
    assert json.loads(said.out) == json.loads((tmp_path / "table" / "results.json").read_text())


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["evals/cut"], "`evals/cut/TOFU_EVAL.json` is not JSON"),
        (["evals/full", "evals/cut/TOFU_EVAL.json"], "`evals/cut/TOFU_EVAL.json` is not JSON"),
        (["evals/full", "evals/muse"], "`evals/muse/MUSE_EVAL.json` is of MUSE, not of TOFU"),
        (["evals/npo/config.json"], "`evals/npo/config.json` is no log of a TOFU evaluation"),
        (["evals/full", "none"], "`none` and `--from-log` at once"),
        (["empty"], "there is no log of a TOFU evaluation in `empty`"),
        (["broken"], "there is no log that can be read: `broken/a.json` is not JSON"),
    ],
)
def test_a_log_that_is_named_and_cannot_be_read_is_refused(mari, tmp_path, paths, message):
    collection(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "broken" / name).write_text("{")
    before = sorted(tmp_path.rglob("*"))
    said = mari("evaluate", "--from-log", *paths, "out=table")
    assert said.code == 2
    error, hint = said.err.splitlines()
    assert message in error
    assert hint.startswith("  hint: ")
    assert sorted(tmp_path.rglob("*")) == before


NAMES = ["null", "5", "true", "a,b", "[x]", "it's", "lr=1e-5", "ä b~"]


def write_small_log(folder) -> None:
    one = {f: {c: {i: v[i] for i in "01"} for c, v in cs.items()} for f, cs in published("full").items()}
    folder.mkdir()
    (folder / "TOFU_EVAL.json").write_text(json.dumps(as_open_unlearning(one)))


def test_logs_may_have_any_names(mari, tmp_path):
    for name in NAMES:
        write_small_log(tmp_path / name)
    said = mari("evaluate", "--from-log", *NAMES, "metrics.bootstrap=20", "out=all")
    assert said.code == 0, said.err
    assert len(json.loads((tmp_path / "all" / "results.json").read_text())["logs"]) == len(NAMES)


@pytest.mark.parametrize("name", ["null", "a,b", "it's"])
def test_a_log_alone_may_have_any_name(mari, tmp_path, name):
    write_small_log(tmp_path / name)
    assert mari("evaluate", "--from-log", name, "metrics.bootstrap=20", "out=one").code == 0
    assert (tmp_path / "one" / "result.json").is_file()


@pytest.mark.parametrize("value", ["[]", "{a: b}", "3", "''"])
def test_what_is_no_path_of_a_log_is_refused(mari, value):
    said = mari("evaluate", f"from_log={value}")
    assert said.code == 2
    assert (
        "from_log` is empty" if value == "''" else "from_log must be a path or a list of paths"
    ) in said.err


def test_the_log_of_another_split_says_which_setting_is_its_own(mari, logs):
    """200 questions are forget05's; the hint works."""
    log = published("full")
    log["eval_log_forget.json"] = {
        c: dict(list(v.items())[:200]) for c, v in log["eval_log_forget.json"].items()
    }
    (logs / "retain95.json").write_text(json.dumps(log))
    said = mari("evaluate", "--from-log", "full.json", "--gold-log", "retain95.json", "out=run")
    assert "200, where the model was asked 300" in said.err
    assert "300 questions are forget10's and belong to the log of retain90; 200 are forget05's" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from-log", "none.json"], "cannot read `none.json`: no such file or directory"),
        (["--gold-log", "full.json"], "gold_log needs from_log"),
        (
            ["--from-log", "full.json", "gold=retain90.json"],
            "from_log measures no model, so gold must be none",
        ),
        (["some/model", "--from-log", "full.json"], "`some/model` and `--from-log` at once"),
        (["--from-log", "full.json", "--gold-log", "retain90.txt"], "cannot read `retain90.txt`"),
        (["--from-log", "summary.json"], "`summary.json` is a summary"),
        (["--from-log", "full.json", "out=taken"], "output directory `taken` exists"),
        (
            ["--from-log", "full.json", "--gold-log", "other.json"],
            "the gold model was asked other forget items",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(mari, logs, words, message):
    (logs / "summary.json").write_text('{"forget_quality": 0.1}')
    (logs / "taken").mkdir()
    other = published("retain90")
    other["eval_log_forget.json"] = {
        c: dict(list(v.items())[:40]) for c, v in other["eval_log_forget.json"].items()
    }
    (logs / "other.json").write_text(json.dumps(other))
    before = sorted(logs.rglob("*"))
    said = mari("evaluate", *words)
    assert said.code == 2
    assert said.out == ""
    error, hint = said.err.splitlines()
    assert message in error
    assert hint.startswith("  hint: ")
    assert sorted(logs.rglob("*")) == before


def test_a_model_is_asked_by_the_same_protocol(mari, tmp_path, cache):
    from tiny import TINY

    write_tofu(tmp_path / "data", items=3)
    training = [word for word in TINY if not word.startswith("train.")]
    training = [word.replace("finetune.", "train.") for word in training]
    assert mari("finetune", *training, f"cache={cache}", "out=model").code == 0
    said = mari(
        "evaluate", "model", "gold=model", "suite=tofu", "suite.path=data", "suite.max_new_tokens=3",
        "suite.holdout=null", "metrics=fast", "metrics.generate=true", f"cache={cache}", "out=run", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    metrics = json.loads(said.out)["models"]["model"]["metrics"]
    assert metrics["tofu/forget_quality"] == {"value": 1.0, "n": 3, "low": None, "high": None}
    assert 0 < metrics["tofu/forget/truth_ratio"]["value"] <= 1
    assert metrics["tofu/model_utility"]["n"] == 9
    assert not [name for name in metrics if not name.startswith("tofu/")]
