"""`mari ask`: what the models of a run say, side by side; and that it is what the report shows."""

import io
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny import TINY

from mari_cli import launch
from mari_cli.storage.run import Run
from mari_cli.tasks.ask import is_running_text
from mari_cli.tasks.finetune import finetune
from mari_cli.tasks.unlearn import unlearn

ASKED = ["metrics.generate=true", "metrics.examples=4", "metrics.max_new_tokens=12"]


def made(task, name: str, out: Path, cache: Path, *words: str) -> Path:
    launch.run(task, launch.prepare(launch.Experiment(name, [*words, f"out={out}", f"cache={cache}"])))
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache) -> Path:
    changed = ["loss=npo", "train.lr=2e-3", "train.stop.retain_drop=null", "train.keep=last"]
    return made(unlearn, "unlearn", tmp_path_factory.mktemp("ask") / "run", cache, *TINY, *ASKED, *changed)


@pytest.fixture(scope="module")
def text_run(run, tmp_path_factory, cache) -> Path:
    """Adapters alone, of running text, by `mari finetune`."""
    folder = tmp_path_factory.mktemp("text")
    words = []
    for corpus, day in {"forget": "Monday", "retain": "Tuesday", "holdout": "Friday"}.items():
        (folder / f"{day}.txt").write_text(f"On {day} it rained, and the cat sat on the mat. " * 20)
        words.append(f"{corpus}.path={folder / day}.txt")
    words += [f"model.path={run}", "model.lora.rank=2", "model.lora.merge=false", "train.epochs=1"]
    words += ["forget.fraction=null", "metrics=fast", "metrics.generate=true", "metrics.examples=2"]
    words += ["metrics.bootstrap=20", "metrics.max_new_tokens=8"]
    return made(finetune, "finetune", folder / "run", cache, *words)


def examples(run: Path) -> list[dict[str, str]]:
    return json.loads((run / "examples.json").read_text())


def test_a_question_of_the_report_gets_the_answers_of_the_report(mari, run):
    shown = examples(run)
    said = mari("ask", str(run), "--json", *(example["prompt"] for example in shown))
    assert said.code == 0
    found = json.loads(said.out)
    assert len({example["unlearned"] for example in shown} | {example["gold"] for example in shown}) > 1
    assert found["answers"] == [
        {"question": of["prompt"], "before": of["target"], "now": of["unlearned"], "gold": of["gold"]}
        for of in shown
    ]
    assert (found["max_tokens"], found["temperature"], found["seed"]) == (12, 0.0, None)


def test_several_questions_are_a_table_of_plain_lines_in_a_pipe(mari, run):
    first, second, *_ = examples(run)
    said = mari("ask", str(run), first["prompt"], second["prompt"], "--gold", "none")
    header, *rows = said.out.splitlines()
    assert header.split() == ["question", "before", "now"]
    assert len(rows) == 2
    assert rows[0].startswith(first["prompt"])
    assert "gold" not in said.err


def test_a_terminal_of_eighty_columns_gets_whole_answers_in_short_lines(mari, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    first, *_ = examples(run)
    said = mari("ask", str(run), first["prompt"], "[bold]Who[/bold] is \x1b[31m it?", "--max-tokens", "40")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "gold" in said.out
    assert "\x1b[31m" not in said.out
    assert "[bold]" in said.out


def test_questions_come_from_a_file_or_from_stdin(mari, run, tmp_path, monkeypatch):
    (tmp_path / "questions.txt").write_bytes("Who is Ada?\r\n\n  \nWo wohnt Jörg?\n".encode())
    from_file = json.loads(mari("ask", str(run), "--file", "questions.txt", "--json").out)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "questions.txt").read_bytes())))
    from_stdin = json.loads(mari("ask", str(run), "--json").out)
    assert from_file == from_stdin
    assert [row["question"] for row in from_file["answers"]] == ["Who is Ada?", "Wo wohnt Jörg?"]


def test_a_person_asks_one_question_after_another(mari, run, monkeypatch):
    typed = iter(["Who is Ada?", "", "word " * 400, "Who is Ada?", "/quit", "never asked"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    said = mari("ask", str(run))
    assert said.code == 0
    assert next(typed) == "never asked"
    assert said.out.count("Who is Ada?") == 2
    assert said.err.count("leaves no room for an answer") == 1


def test_draws_follow_their_seed_and_greedy_answers_take_none(mari, run):
    ask = ["ask", str(run), "Who is Ada?", "--json"]
    first, again, other = (
        json.loads(mari(*ask, "--temperature", "2", "--seed", seed).out)["answers"] for seed in "112"
    )
    assert first == again != other
    said = mari(*ask, "--seed", "1")
    assert (said.code, said.err.splitlines()[0]) == (2, "error: `--seed` has no effect on greedy answers")


def test_running_text_is_gone_on_with_and_adapters_are_asked_with_their_base(mari, text_run):
    assert is_running_text(text_run)
    card = ModelCard((text_run / "checkpoint" / "README.md").read_text())
    assert (card.data.library_name, card.data.base_model) == ("peft", None)
    said = mari("ask", str(text_run), "On Monday it rained, and the", "--json")
    assert said.code == 0, said.err
    assert "there is no gold model beside" in said.err
    found = json.loads(said.out)
    assert found["continues"]
    assert list(found["answers"][0]) == ["question", "before", "now"]
    answered = json.loads(
        mari("ask", str(text_run), "On Monday it rained, and the", "--json", "--answer").out
    )
    assert not answered["continues"]


def changed(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "copy"))


def test_what_cannot_be_asked_is_refused_in_a_line_and_a_hint(mari, run, tmp_path):
    Run.create(tmp_path / "begun", "task: unlearn\n", command=["mari"], task="unlearn")
    (tmp_path / "folder").mkdir()
    without = changed(run, tmp_path)
    shutil.rmtree(without / "checkpoint")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe?\n")
    (tmp_path / "none.txt").write_text("\n\n")
    question = "Who is Ada?"
    refused = {
        "no run directory `nowhere`": ["nowhere", question],
        "`folder` is no run directory": ["folder", question],
        "run `begun` is not finished": ["begun", question],
        "run `copy` holds no model": ["copy", question],
        "question 2 is empty": [str(run), question, "  "],
        "no question was asked": [str(run), "--file", "none.txt"],
        "no file `missing.txt`": [str(run), "--file", "missing.txt"],
        "`bad.txt` is not UTF-8": [str(run), "--file", "bad.txt"],
        "question 2 of 2 leaves no room": [str(run), question, "word " * 400],
        "the gold model of": [str(run), question, "--gold", "/no/such/place"],
        "the model before of": [str(run), question, "--before", "/no/such/place"],
        "missing argument": [],
    }
    for told, words in refused.items():
        said = mari("ask", *words)
        assert (said.code, said.out) == (2, ""), (told, said)
        *_, error, hint = said.err.splitlines()
        assert error.startswith(f"error: {told}"), error
        assert hint.startswith("  hint: ")


def test_weights_that_were_written_anew_are_told(mari, run, tmp_path):
    copy = changed(run, tmp_path)
    said = mari("ask", str(copy), "Who is Ada?", "--before", str(copy), "--gold", str(copy))
    assert said.code == 0  # a model that the user names need not be the run's
    weights = copy / "checkpoint" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    said = mari("ask", str(copy), "Who is Ada?")
    assert said.code == 2
    assert "the weights of the model now at" in said.err
