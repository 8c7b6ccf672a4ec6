"""What determines a run is as it was when it began, or `--resume` names what is not and changes nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_bad_input import ARCHITECTURE, LETTERS, REST, UNSEEN, edit_json, json_lines
from tiny import TINY

from mari_cli import begun, launch
from mari_cli.config import Device, ModelConfig, Precision
from mari_cli.errors import UserError
from mari_cli.models.device import choose_compute
from mari_cli.models.load import load_model
from mari_cli.models.tokenizer import train_tokenizer
from mari_cli.storage import hashing, json_cache
from mari_cli.tasks import assessment
from mari_cli.tasks.evaluate import evaluate
from mari_cli.tasks.finetune import finetune
from mari_cli.tasks.unlearn import unlearn

SUITE = """
from mari_cli.suites.suite import Summary


class Own:
    name = "own"

    def describe(self):
        return {}

    def examine(self, examiner):
        return [{"set": "all", "item": 0, "key": "0", "one": 1.0}]

    def summarise(self, rows, gold, how):
        return Summary({})


def load(config):
    return Own()
"""
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CORPORA = ["forget.path=letters.jsonl", "retain.path=rest.jsonl", "holdout.path=unseen.jsonl"]
SHORT = ["metrics=fast", "metrics.bootstrap=20", "metrics.mia_reference=reference", "cache=cache"]
RUNS = {
    "unlearn": (unlearn, ["model.path=model", *CORPORA, *SHORT, "gold=gold", "suite=own",
                          "suite.code=suite.py", "suite.path=asked", "train.steps=2",
                          "train.evaluate_every=1"]),
    "finetune": (finetune, ["model.path=model", *CORPORA, *SHORT, "train.epochs=1"]),
    "evaluate": (evaluate, ["model=pretrained", "model.path=model", *CORPORA, *SHORT, "gold=gold"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """Corpora, models that differ in their weights alone, and a suite."""
    root = tmp_path_factory.mktemp("workshop")
    for name, rows in {"letters": LETTERS, "rest": REST, "unseen": UNSEEN}.items():
        (root / f"{name}.jsonl").write_text(json_lines(rows))
    (root / "suite.py").write_text(SUITE)
    (root / "asked").mkdir()
    (root / "asked" / "questions.txt").write_text("Who?")
    tokenizer = train_tokenizer([json_lines(LETTERS + REST)], 300)
    tokenizer.chat_template = TEMPLATE
    for seed, name in enumerate(("model", "gold", "reference")):
        config = ModelConfig(name="tiny", architecture=ARCHITECTURE, tokenizer="train")
        load_model(config, tokenizer, choose_compute(Device.cpu, Precision.float32), seed=seed).save(
            root / name
        )
    return root


class Stopped(Exception):
    pass


def cut(task: str, monkeypatch: pytest.MonkeyPatch, out: str) -> Path:
    """A run that was stopped when all was measured but for its end."""

    def stop(*args, **kwargs):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(assessment, "examples", stop)
        function, arguments = RUNS[task]
        with pytest.raises(Stopped):
            launch.run(function, launch.prepare(launch.Experiment(task, [*arguments, f"out={out}"])))
    return Path(out)


@pytest.fixture(scope="module")
def runs_cut(workshop) -> Callable[[str, pytest.MonkeyPatch], Path]:
    """The cut run of a task, made once."""
    made: dict[str, Path] = {}

    def get(task: str, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(workshop)
        if task not in made:
            made[task] = cut(task, monkeypatch, f"{task}_cut")
        return made[task]

    return get


def everything(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def other_line(path: Path) -> None:
    path.write_text(path.read_text().replace("is", "was", 1))


def other_weights(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def other_word(path: Path) -> None:
    """A token of the vocabulary under another's number: the same words give other tokens."""
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(content))


CHANGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "forget": ("letters.jsonl", other_line, "the forget corpus"),
    "retain": ("rest.jsonl", other_line, "the retain corpus"),
    "holdout": ("unseen.jsonl", other_line, "the holdout corpus"),
    "weights": ("model", other_weights, "the weights of the model"),
    "configuration": (
        "model/config.json",
        lambda path: edit_json(path, layer_norm_epsilon=1e-3),
        "the configuration of the model",
    ),
    "generation settings": (
        "model/generation_config.json",
        lambda path: edit_json(path, repetition_penalty=1.5),
        "the generation settings of the model",
    ),
    "tokenizer": ("model/tokenizer.json", other_word, "the tokenizer"),
    "chat template": (
        "model/chat_template.jinja",
        lambda path: path.write_text(path.read_text().replace("<", "[")),
        "the chat template",
    ),
    "gold": ("gold", other_weights, "the weights of the gold model"),
    "reference": ("reference", other_weights, "the weights of the reference of membership inference"),
    "suite": ("suite.py", lambda path: path.write_text(path.read_text() + "\n"), "what is in suite.py"),
    "data of the suite": ("asked/questions.txt", lambda path: path.write_text("What?"), "what is in asked"),
}
CASES = [
    *(("unlearn", change) for change in CHANGES),
    *(("finetune", change) for change in ("forget", "weights", "reference", "tokenizer")),
    *(("evaluate", change) for change in ("holdout", "weights", "gold", "configuration")),
]


@pytest.mark.parametrize(("task", "change"), CASES, ids=lambda value: value)
def test_what_has_changed_is_named_and_nothing_is_written(task, change, workshop, runs_cut, monkeypatch):
    run = runs_cut(task, monkeypatch)
    name, edit, told = CHANGES[change]
    path = workshop / name
    kept = workshop / "kept"
    (shutil.copytree if path.is_dir() else shutil.copy)(path, kept)
    edit(path)
    before = everything(workshop)
    try:
        with pytest.raises(UserError) as refused:
            launch.run(RUNS[task][0], launch.resume(task, run))
        assert str(refused.value) == (
            f"run `{run}` cannot go on, as something has changed since it began: {told}"
        )
        assert "put back what it was begun with" in refused.value.hint
        assert everything(workshop) == before
    finally:
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        kept.rename(path)


def test_all_that_has_changed_is_named_at_once_with_what_to_install(workshop, runs_cut, monkeypatch):
    run = runs_cut("evaluate", monkeypatch)
    before = everything(run)
    version_of = begun.version_of
    others = {"torch": "9.9.9+cu130", "numpy": "9.0"}
    here = {name: version_of(name).partition("+")[0] for name in others}
    monkeypatch.setattr(begun, "version_of", lambda package: others.get(package) or version_of(package))
    with pytest.raises(UserError) as refused:
        launch.run(evaluate, launch.resume("evaluate", run))
    assert str(refused.value).endswith(
        f"since it began: torch (was {version_of('torch')}, is 9.9.9+cu130) and "
        f"numpy (was {version_of('numpy')}, is 9.0)"
    )
    assert f"`pip install torch=={here['torch']} numpy=={here['numpy']}`" in refused.value.hint
    assert everything(run) == before


def test_a_run_without_a_record_of_what_it_was_begun_with_is_refused(workshop, runs_cut, monkeypatch):
    run = Path(shutil.copytree(runs_cut("evaluate", monkeypatch), "without"))
    (run / "inputs.json").unlink()
    with pytest.raises(UserError, match=r"it has no `inputs\.json`") as refused:
        launch.run(evaluate, launch.resume("evaluate", run))
    assert "another version of mari" in refused.value.hint


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(b"steps: 2", b"steps: 9"),
        lambda text: text.replace(b"seed: 0", b"seed: 1"),
        lambda text: b"tracker: null\n",
        lambda text: b"- 1\n",
        lambda text: text + b"\xff",
        lambda text: b"",
    ],
    ids=["steps", "seed", "a section that is null", "a list", "not UTF-8", "nothing"],
)
def test_an_edited_configuration_is_refused(edit, workshop, runs_cut, monkeypatch):
    run = Path(shutil.copytree(runs_cut("unlearn", monkeypatch), "edited"))
    try:
        (run / "config.yaml").write_bytes(edit((run / "config.yaml").read_bytes()))
        before = everything(run)
        with pytest.raises(UserError, match=r"`edited/config\.yaml` is not what run `edited` was begun with"):
            launch.run(unlearn, launch.resume("unlearn", run))
        assert everything(run) == before
    finally:
        shutil.rmtree(run)


def test_a_target_that_is_another_when_it_is_trained_again_is_refused(tmp_path, monkeypatch):
    """Its cache was emptied in between, and this device does not train to the same bits."""
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, "gold=none", "cache=cache", "out=run"]

    def stop(*args, **kwargs):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(assessment, "examples", stop)
        with pytest.raises(Stopped):
            launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", arguments)))
    (weights,) = Path("cache").glob("models/*/checkpoint")
    other_weights(weights)
    seal = weights.with_name("checkpoint.json")
    json_cache.write(seal, hashing.directory_hash(weights))
    metrics = Path("run/metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="was trained from other weights than those here now"):
        launch.run(unlearn, launch.resume("unlearn", Path("run")))
    assert Path("run/metrics.jsonl").read_bytes() == metrics
    assert not Path("run/result.json").exists()
    shutil.rmtree("cache")  # trained anew, on a CPU to the same bits
    assert launch.run(unlearn, launch.resume("unlearn", Path("run")))["training"]["steps"] == 4


@pytest.mark.parametrize("task", RUNS)
def test_where_nothing_has_changed_the_run_goes_on_to_its_end(task, workshop, runs_cut, monkeypatch):
    run = runs_cut(task, monkeypatch)
    result = launch.run(RUNS[task][0], launch.resume(task, run))
    assert result == json.loads((run / "result.json").read_text())
    assert result["notes"] == [note for note in result["notes"] if "damaged" not in note]
