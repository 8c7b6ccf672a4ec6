"""Bad input: one line `error:`, one line `hint:`, exit code 2, no traceback, nothing written."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from mari_cli import launch
from mari_cli.cli.door import Door
from mari_cli.storage.run import Run

FILES = {
    "typo.yaml": "defaults: [unlearn, _self_]\nloss:\n  mari_wait: 3\n",
    "wrong_type.yaml": "defaults: [unlearn, _self_]\ntrain:\n  steps: soon\n",
    "wrong_option.yaml": "defaults: [unlearn, override loss: nppo, _self_]\n",
    "wrong_group.yaml": "defaults: [unlearn, override los: npo, _self_]\n",
    "twice.yaml": "defaults: [unlearn, loss: npo, _self_]\n",
    "off.yaml": "defaults: [unlearn, _self_]\nmodel:\n  chat_template: off\n",
    "impossible.yaml": "defaults: [unlearn, _self_]\nretain:\n  people: -1\n",
    "nothing.yaml": "seed: 3\n",
    "unknown_base.yaml": "defaults: [unlern, _self_]\n",
    "order.yaml": "defaults: [unlearn, override loss: npo, /train@finetune: finetune, _self_]\n",
    "list.yaml": "- seed\n",
    "finetune.yml": "defaults: [finetune, _self_]\n",
    "gold.yaml": "defaults: [finetune, _self_]\n",
    "itself.yaml": "defaults: [itself, _self_]\n",
}

COMMANDS = [
    # keys
    "unlearn loss.mari_wait=3",
    "unlearn losss=mari",
    "unlearn lr=1e-4",
    "unlearn traim.lr=1e-4",
    "unlearn loss.beta=0.2",
    "unlearn loss.betta=0.2",
    "unlearn forget.prompt_field=q",
    "unlearn train.stp.at_holdout=false",
    "unlearn +loss.foo=1",
    "unlearn hydra.foo=1",
    # options
    "unlearn loss=nppo",
    "unlearn model=gpt2",
    "unlearn forget=",
    "unlearn train=finetune",
    "unlearn loss=null",
    "unlearn +loss=npo",
    # values
    "unlearn loss.prior=half",
    "unlearn train.steps=1.5",
    "unlearn loss.estimator=tokens",
    "unlearn metrics.benchmarks=mmlu",
    "unlearn metrics.benchmarks=[piqa,piqa]",
    "unlearn metrics.generate=perhaps",
    "unlearn seed=null",
    "unlearn train.stop=never",
    "unlearn loss.prior=1.5",
    "unlearn forget.people=0",
    "unlearn retain.validation_fraction=1",
    "unlearn finetune.lr=-1",
    "unlearn train.stop.retain_drop=3",
    "unlearn forget.path=a.jsonl forget.prompt_field=q",
    "unlearn model=gpt2_tiny model.path=x",
    "unlearn forget=tofu retain=fictional",
    "unlearn loss=mari,npo",
    "unlearn loss=[",
    "unlearn loss",
    "unlearn =3",
    "finetune model.pth=x",
    "evaluate some/model metrics.benchmark=[piqa]",
    # files
    "unlearn -c missing.yaml",
    "unlearn -c finetune.yml",
    "unlearn -c itself.yaml",
    "unlearn -c gold.yaml",
    "unlearn -c typo.yaml",
    "unlearn -c wrong_type.yaml",
    "unlearn -c wrong_option.yaml",
    "unlearn -c wrong_group.yaml",
    "unlearn -c twice.yaml",
    "unlearn -c off.yaml",
    "unlearn -c impossible.yaml",
    "unlearn -c nothing.yaml",
    "unlearn -c unknown_base.yaml",
    "unlearn -c order.yaml",
    "unlearn -c list.yaml",
    "unlearn metrics.seeds=3",
    "unlearn metrics.seeds=[1,1]",
    # runs
    "unlearn --resume nowhere",
    "unlearn --resume nowhere seed=1",
    "unlearn hydra/launcher=joblib",
    "runs list nowhere",
    # sweeps
    "sweep loss=mari,nppo",
    "sweep loss.prior=0.5,1.5",
    "sweep seed=0,1 --jobs 2",
    "sweep seed=0,1 --launcher cloud",
    "sweep seed=0,1 out=taken",
    # the command line itself
    "unlern",
    "unlearn --seed 3",
    "compare",
    "sweep --jobs 0",
    "config list losses",
]


@pytest.fixture
def somebodys_files(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()


def test_bad_input_is_told_in_these_words(mari, golden, somebodys_files, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    told = []
    for command in COMMANDS:
        said = mari(*shlex.split(command))
        err = said.err.replace(f"{tmp_path}/", "")
        told.append(f"$ mari {command}\n{err}")
        assert (said.code, said.out) == (2, ""), command
        lines = err.splitlines()
        assert len(lines) == 2, command
        assert lines[0].startswith("error: "), command
        assert lines[1].startswith("  hint: "), command
    golden("errors.txt", "\n".join(told))
    assert sorted(tmp_path.rglob("*")) == before


def test_yaml_that_is_none_is_told_with_its_line(mari, tmp_path):
    (tmp_path / "broken.yaml").write_text("defaults: [unlearn, _self_]\nloss: [\n")
    said = mari("unlearn", "-c", "broken.yaml")
    assert said.code == 2
    assert "broken.yaml` line 3 is not YAML" in said.err


def app_that(action) -> typer.Typer:
    app = typer.Typer(cls=Door, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    app.command("run")(action)
    return app


def test_what_only_we_can_mend_keeps_its_traceback_but_shows_no_values(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import typer\n"
        "from mari_cli.cli.door import Door\n"
        "app = typer.Typer(cls=Door, pretty_exceptions_enable=False, rich_markup_mode=None)\n"
        "app.callback()(lambda: None)\n"
        "@app.command()\n"
        "def run():\n"
        "    letter = ''.join(['dear', 'diary'])\n"
        "    raise ZeroDivisionError(len(letter))\n"
        "app(['run'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: 9" in done.stderr
    assert "deardiary" not in done.stderr


@pytest.mark.parametrize(
    ("task", "there", "told"),
    [
        ("unlearn", True, "interrupted; `mari unlearn --resume runs/one` goes on\n"),
        ("unlearn", False, "interrupted\n"),
        ("evaluate", True, "interrupted; `mari evaluate --resume runs/one` goes on\n"),
    ],
)
def test_ctrl_c_says_in_one_line_how_to_go_on(task, there, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / "runs" / "one").mkdir(parents=True)
        (tmp_path / "runs" / "one" / "run.json").touch()

    def stop() -> None:
        raise launch.Interrupted(task, "runs/one")

    with pytest.raises(SystemExit) as exit:
        app_that(stop)(["run"])
    assert exit.value.code == 130
    assert capsys.readouterr() == ("", told)


def be_told_to_end(cfg, options):
    """As a scheduler does whose time is up."""
    Run.create(Path(cfg.out), "", command=options.command)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)  # it never comes to its end


def test_a_run_or_a_sweep_that_is_told_to_end_says_in_one_line_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["seed=0,1", "out=a sweep"]
    actions = {
        "interrupted; `mari unlearn --resume runs/one` goes on\n": lambda: launch.run(
            be_told_to_end, launch.prepare(launch.Experiment("unlearn", ["out=runs/one"]))
        ),
        "interrupted; `mari sweep --resume 'a sweep'` goes on\n": lambda: launch.sweep(
            be_told_to_end, launch.plan(launch.Experiment("unlearn", arguments))
        ),
    }
    for told, action in actions.items():
        with pytest.raises(SystemExit) as exit:
            app_that(action)(["run"])
        assert exit.value.code == 130
        assert capsys.readouterr().err.splitlines(keepends=True)[-1] == told
