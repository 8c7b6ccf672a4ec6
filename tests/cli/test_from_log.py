"""`mari evaluate --from-log` and `suite=tofu`, as a user meets them."""

import json
import subprocess
import sys

import pytest
from tofu_published import LEADERBOARD, as_open_unlearning, published


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
    assert len(rows) == 24
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
