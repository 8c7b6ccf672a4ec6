"""One door: whatever a user can cause leaves as two lines, and nothing is written where a run is refused."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mari_cli.cli import door
from mari_cli.errors import UserError
from mari_cli.storage.run import Run

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK")}


def two_lines(text: str) -> tuple[str, str]:
    lines = text.splitlines()
    assert len(lines) == 2, text
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  hint: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("  hint: ")


@pytest.fixture
def refused(mari, tmp_path):
    def call(*words: str) -> tuple[str, str]:
        before = sorted(tmp_path.rglob("*"))
        said = mari(*words)
        assert (said.code, said.out) == (2, ""), said.err
        assert sorted(tmp_path.rglob("*")) == before
        return two_lines(said.err)

    return call


# -- what a message may hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\r\nb", "a\x0bb", "a\u2028b", "a\x1b[2Jb", "a\x85b", "a\tb"])
@pytest.mark.parametrize("hint", [None, "", "c\nd"])
def test_an_error_is_two_lines_whatever_it_holds(text, hint, capfd):
    door.refuse(text, hint)
    error, way_out = two_lines(capfd.readouterr().err)
    assert error.startswith("a")
    assert way_out
    assert error.isprintable()


def test_a_value_that_somebody_pasted_does_not_fill_the_screen(capfd):
    door.refuse("x" * 100_000, "mend it")
    assert len(two_lines(capfd.readouterr().err)[0]) < 2100


def test_an_error_without_words_has_two_lines_all_the_same(capfd):
    door.refuse("", None)
    two_lines(capfd.readouterr().err)


@pytest.mark.parametrize("number", sorted(door.OF_THE_SYSTEM))
def test_what_the_system_refuses_is_no_traceback(number, mari, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "some/where")

    monkeypatch.setattr("mari_cli.storage.run_list.list_runs", refuse)
    said = mari("runs", "list")
    assert said.code == 2
    assert two_lines(said.err)[0] == f"cannot use `some/where`: {os.strerror(number).lower()}"


def test_what_is_not_a_users_fault_keeps_its_traceback(mari, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr("mari_cli.storage.run_list.list_runs", refuse)
    with pytest.raises(OSError, match="Bad file descriptor"):
        mari("runs", "list")


# -- the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train=[1]", "`train` takes the name of one option, got `[1]`"),
        ("loss={a:1}", "`loss` takes the name of one option"),
        ("model.lora.targets=" + "[" * 5000 + "]" * 5000, "is nested more than 20 levels deep"),
        ("train.lr=" + "9" * 400, "train.lr"),
        ("seed=" + "9" * 5000, ""),
        ("loss.name=${loss.name}", "recursive"),
        ("+model.architecture._target_=os.system", "`model.architecture._target_` is a word of Hydra's"),
        ("+model.architecture.x={_target_:os.system}", "`model.architecture.x._target_`"),
        ("out=", "`out` is empty"),
        ("model.name=\udcff", "is not UTF-8"),
    ],
)  # fmt: skip
def test_no_override_is_a_traceback(override, told, refused):
    assert told in refused("config", "show", override)[0]


HYDRA = [
    "hydra.run.dir=here", "hydra.output_subdir=here", "hydra.sweep.dir=here", "hydra.sweep.subdir=here",
    "hydra.job.chdir=true", "hydra.verbose=true", "+hydra.job.env_set.A=1", "hydra/job_logging=default",
    "hydra.launcher._target_=os.system", "hydra.sweeper._target_=os.system",
    "+hydra.callbacks.x={_target_:os.system,command:'touch here'}", "+model@hydra.callbacks.x=gpt2_tiny",
    "hydra.searchpath=[file://.]", "hydra.sweeper.max_batch_size=1",
]  # fmt: skip


@pytest.mark.parametrize("override", HYDRA)
def test_hydras_own_keys_write_nothing_and_build_nothing(override, refused):
    error, hint = refused("config", "show", override)
    assert "cannot be set" in error
    assert error.startswith("`hydra.")
    assert "`out=DIR`" in hint or "`hydra.launcher.KEY`" in hint


@pytest.mark.parametrize("command", ["unlearn", "sweep"])
def test_every_command_refuses_them(command, refused):
    assert "`hydra.run.dir` cannot be set" in refused(command, "hydra.run.dir=here")[0]


def test_what_a_launcher_needs_can_be_set(mari):
    said = mari("config", "show", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert said.code == 0, said.err


# -- files ---------------------------------------------------------------------------------------------------

BEGIN = "defaults: [unlearn, _self_]\n"
BOMB = "".join(f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
FILES = {
    "empty": (b"", "`file.yaml` is empty"),
    "a comment": (b"# nothing\n", "`file.yaml` is empty"),
    "a number": (b"5\n", "`file.yaml` does not hold keys and values"),
    "null": (b"null\n", "`file.yaml` does not hold keys and values"),
    "a date": (b"2020-01-01\n", "`file.yaml` does not hold keys and values"),
    "a word": (b"hello", "does not hold keys and values"),
    "a list": (b"- seed\n", "does not hold keys and values"),
    "no defaults": (b"loss:\n  beta: 1\n", "has no `defaults:`"),
    "defaults of nothing": (b"defaults: []\n", "does not name what the run builds on"),
    "defaults of itself": (b"defaults: [_self_]\nseed: 1\n", "does not name what the run builds on"),
    "defaults of a loss alone": (
        b"defaults: [override loss: npo, _self_]\n",
        "does not name what the run builds on",
    ),
    "defaults in one word": (b"defaults: unlearn\n", "`defaults` in `file.yaml` is not a list"),
    "not UTF-8": (b"\xff\xfe\x00a", "`file.yaml` is not UTF-8 (byte 1)"),
    "a NUL": (BEGIN.encode() + b"seed: \0\n", "`file.yaml` holds a character that YAML does not allow"),
    "aliases of aliases": (f"{BEGIN}model:\n  architecture:\n    a0: &a0 [1]\n{BOMB}".encode(), "each alias"),
    "references to references": (
        f"{BEGIN}model:\n  architecture:\n    a0: x\n".encode()
        + b"".join(b"    a%d: ${.a%d}${.a%d}\n" % (i, i - 1, i - 1) for i in range(1, 40)),
        "copies of a value",
    ),
    "an alias of itself": (f"{BEGIN}model:\n  architecture: &a {{b: *a}}\n".encode(), "each alias"),
    "too deep": (
        f"{BEGIN}seed: {'[' * 9000}{']' * 9000}\n".encode(),
        "`file.yaml` line 2 is nested more than",
    ),
    "too large": (BEGIN.encode() + b"#" * 2**20, "no configuration has more than"),
    "infinite": (f"{BEGIN}train: {{lr: .inf}}\n".encode(), "`train.lr` must be a finite number"),
    "an object": (f"{BEGIN}seed: !!python/object/apply:os.system [ls]\n".encode(), "is not YAML"),
    "a callback": (
        f"{BEGIN}hydra:\n  callbacks: {{x: {{_target_: os.system}}}}\n".encode(),
        "`hydra.callbacks",
    ),
    "a log": (f"{BEGIN}hydra:\n  job_logging: {{root: {{handlers: [x]}}}}\n".encode(), "`hydra.job_logging"),
    "a launcher": (
        f"{BEGIN}hydra:\n  launcher: {{_target_: os.system}}\n".encode(),
        "`hydra.launcher._target_`",
    ),
    "a search path": (f"{BEGIN}hydra:\n  searchpath: [pkg://x]\n".encode(), "`hydra.searchpath`"),
    "an object in a model": (
        f"{BEGIN}model: {{architecture: {{_target_: a.b}}}}\n".encode(),
        "word of Hydra's",
    ),
    "numbers as options": (b"defaults: [1, 2]\n", ""),
    "an option of options": (b"defaults: [unlearn, override loss: {a: 1}, _self_]\n", ""),
    "a list for a section": (f"{BEGIN}loss: [1]\n".encode(), ""),
}


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_a_traceback(name, refused, tmp_path):
    content, told = FILES[name]
    (tmp_path / "file.yaml").write_bytes(content)
    assert told in refused("config", "show", "-c", "file.yaml")[0]


@pytest.mark.parametrize("override", ["loss=npo", "train.steps=3", "seed=1"])
def test_a_file_that_describes_no_run_takes_no_overrides(override, refused, tmp_path):
    (tmp_path / "file.yaml").write_text("model:\n  name: mine\n")
    said, hint = refused("config", "show", "-c", "file.yaml", override)
    assert "has no `defaults:`" in said
    assert "add this line at its beginning: `defaults: [unlearn, _self_]`" in hint


def test_the_line_that_a_file_lacks_is_that_of_its_command(refused, tmp_path):
    (tmp_path / "file.yaml").write_text("seed: 1\n")
    assert "`defaults: [finetune, _self_]`" in refused("finetune", "-c", "file.yaml")[1]


def test_the_saved_configuration_of_a_run_is_answered_with_its_command(refused, tmp_path):
    Run.create(tmp_path / "run", "task: unlearn\n", command=["mari", "unlearn", "loss=npo", "out=run"])
    said, hint = refused("unlearn", "-c", "run/config.yaml")
    assert said == "`run/config.yaml` is the saved configuration of a run, and `-c` takes none"
    assert hint == "type the run's own command again: `mari unlearn loss=npo out=ANOTHER`"


def test_one_run_of_the_file_of_a_sweep_is_told_as_such(tmp_path, capsys):
    from mari_cli import launch

    file = tmp_path / "file.yaml"
    file.write_text(f"{BEGIN}hydra: {{sweeper: {{params: {{loss: 'mari,npo', seed: '0,1'}}}}}}\n")
    launch.prepare(launch.Experiment("unlearn", ["seed=3"], file))
    assert capsys.readouterr().err == (
        f"note: `{file}` describes a sweep over `loss`, and this is one run of it; "
        f"`mari sweep -c {file}` does all\n"
    )
    launch.prepare(launch.Experiment("unlearn", ["seed=3", "loss=npo"], file))
    assert capsys.readouterr().err == ""


def test_a_file_beside_it_is_looked_at_too(refused, tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "file.yaml").write_text("defaults: [unlearn, method: deep, _self_]\n")
    (tmp_path / "method" / "deep.yaml").write_text("a: " + "[" * 9000)
    assert "deep.yaml` line 1 is nested more than" in refused("config", "show", "-c", "file.yaml")[0]


def test_what_is_no_file_is_said_to_be_none(refused, tmp_path):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, told in {"loop": "symbolic link", "folder": "is a directory", "pipe": "is a pipe"}.items():
        assert told in refused("config", "show", "-c", f"{name}.yaml")[0]
    assert "file name too long" in refused("config", "show", "-c", "a" * 300 + ".yaml")[0]


# -- where it runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is `abc`"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is `0`"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ``"),
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is `2`"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT is `x`"),
    ],
)
def test_an_environment_of_processes_is_whole_or_refused(variables, told, refused, monkeypatch):
    monkeypatch.setattr(door, "PATIENCE", 0)
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert told in refused("unlearn")[0]


def test_a_rank_without_a_world_silences_nobody(monkeypatch, mari):
    monkeypatch.setenv("RANK", "abc")
    assert two_lines(mari("unlearn", "seed=-1").err)
    assert "RANK" not in os.environ


def shell(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = script.replace("mari", f"{sys.executable} -m mari_cli")
    return subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def test_a_closed_stdout_is_refused(tmp_path):
    done = shell("mari runs list >&-", tmp_path)
    assert done.returncode == 2
    assert two_lines(done.stderr)[0] == "stdout is closed, and results go there"


def test_a_full_stdout_is_refused(tmp_path):
    done = shell("mari metrics > /dev/full", tmp_path)
    assert done.returncode == 2
    assert "no space left on device" in two_lines(done.stderr)[0]


def test_a_reader_who_has_read_enough_ends_it_quietly(tmp_path):
    done = shell("mari metrics | (exec 0<&-; sleep 0.1); exit ${PIPESTATUS[0]}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_directory_that_is_gone_is_refused(tmp_path):
    done = shell("mkdir gone; cd gone; rmdir ../gone; mari config show", tmp_path)
    assert done.returncode == 2
    assert "is gone" in two_lines(done.stderr)[0]


@pytest.mark.parametrize("key", ["out", "cache"])
def test_a_place_that_cannot_be_is_refused_before_anything_is_loaded(key, tmp_path):
    from mari_cli import launch
    from mari_cli.tasks.early_checks import _check_places

    (tmp_path / "file").touch()
    for place in ("a" * 300, "b/" * 3000, tmp_path / "file" / "x", "/proc/x", "/sys/x/y"):
        with pytest.raises(UserError, match=f"cannot make `{key}=|`{key}` is too long"):
            _check_places(launch.configured(launch.Experiment("finetune", [f"{key}={place}"])))


def test_what_the_jobs_of_a_sweep_have_in_common_is_looked_at_once(monkeypatch):
    from mari_cli import launch
    from mari_cli.options import RunOptions
    from mari_cli.tasks import early_checks

    asked = []
    monkeypatch.setattr(early_checks, "require_model", asked.append)
    monkeypatch.setattr(early_checks, "load_corpora", lambda **_: asked.append("corpora"))
    planned = launch.plan(launch.Experiment("unlearn", ["model=pretrained", "model.path=a/b", "seed=0,1,2"]))
    early_checks.check_early(planned.configs, RunOptions(command=()))
    assert sorted(asked) == ["a/b", "corpora"]


EARLY = [
    "unlearn train.lr=abc",
    "unlearn model.path=./nowhere",
    "unlearn model.path=empty",
    "unlearn forget.path=nowhere.jsonl retain.path=rest.jsonl",
    "unlearn forget.requests=[rest.jsonl,nowhere.jsonl] retain.path=rest.jsonl",
    "unlearn gold=nowhere",
    "unlearn out=empty",
    "unlearn cache=rest.jsonl",
    "unlearn metrics.mia_reference=nowhere",
    "unlearn gold=empty",
    "unlearn audit=quick second_gold=nowhere",
    "unlearn audit=quick second_gold=empty",
    "unlearn model=pretrained",
    "unlearn suite=tofu suite.path=./nowhere",
    "unlearn metrics.benchmark_root=nowhere",
    "unlearn loss=altpo loss.path=nowhere.jsonl",
    "unlearn loss=mari_twins loss.support.model=nowhere",
    "unlearn loss=mari_base loss.support.keys=rest.jsonl",
    "unlearn loss=mari_twins loss.support.keys=nowhere.txt",
    "unlearn loss=mari_gold",
    "unlearn loss=mari_gold loss.support.model=empty",
    "unlearn loss=mari_siblings",
    "unlearn loss=mari_base target=as_is",
    "unlearn forget.path=0.jsonl retain.path=rest.jsonl loss=mari_twins",
    "unlearn forget.path=0.jsonl retain.path=rest.jsonl loss=mari_auto loss.support.quantiles=true",
    "unlearn tracker=wandb tracker.mode=online",
    "finetune forget.text_field=nothing forget.path=rest.jsonl retain.path=rest.jsonl",
    "evaluate ./nowhere",
    "audit ./nowhere",
    "unlearn --resume nowhere",
    "compare nowhere",
    "verify nowhere",
    "requests nowhere",
    "ask nowhere what",
    "push nowhere me/it",
    "plan -c nowhere.yaml",
    "plan train.stepss=1",
    "sweep --resume nowhere",
    "sweep loss=npo,nop",
    "sweep loss=npo,mari model.path=./nowhere",
    "sweep seed=0 forget.path=${seed}.jsonl retain.path=rest.jsonl train.lr=interval(0.1,0.2)"
    " loss=npo,mari sweep.trials=2 sweep.report_seeds=[1]",
]


def test_what_needs_neither_torch_nor_scipy_is_refused_without_them(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("rest", "0"):  # `1.jsonl`, on which a search is to report, is missing
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}: somebody lived somewhere"}}\n')
    code = (
        "import sys\n"
        "from mari_cli.cli import main\n"
        f"for words in {EARLY!r}:\n"
        "    sys.argv = ['mari', *words.split()]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        assert stop.code == 2, words\n"
        "    assert not {'torch', 'scipy'} & sys.modules.keys(), words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(EARLY)
