"""Which models stand beside a run, by its manifest alone."""

from pathlib import Path

import pytest

from mari_cli.config import FinetuneRun, ModelConfig, UnlearnRun
from mari_cli.errors import UserError
from mari_cli.storage.run import Run
from mari_cli.tasks.models_of_run import models_of_run

TINY = {"model_type": "gpt2"}


def finished(folder: Path, task: str, role: str, *, places: dict[str, str], checkpoint: bool = True) -> Path:
    run = Run.create(folder / "run", f"task: {task}\n", command=["mari", task], task=task)
    if checkpoint:
        (run.path / "checkpoint").mkdir()
    about = {
        "models": {role: "n", "target": "t", "gold": "g"},
        "places": places,
        "start": {"weights": "s"},
    }
    run.finish({"task": task, "models": {}}, about)
    return run.path


def test_before_now_and_gold_are_those_that_the_manifest_names(tmp_path):
    for name in ("target", "gold"):
        (tmp_path / name).mkdir()
    places = {name: str(tmp_path / name) for name in ("gold", "target")}
    run = finished(tmp_path, "unlearn", "unlearned", places=places)
    config = UnlearnRun(model=ModelConfig(name="m", architecture=TINY, tokenizer="train"))
    found = models_of_run(run, config)
    assert {word: model.weights for word, model in found.models.items()} == {
        "before": "t",
        "now": "n",
        "gold": "g",
    }
    assert [model.config.path for model in found.models.values()] == [
        places["target"],
        str(run),
        places["gold"],
    ]
    assert all(model.config.architecture is model.config.tokenizer is None for model in found.models.values())
    given = models_of_run(run, config, before=str(run), gold="none")
    assert {word: model.weights for word, model in given.models.items()} == {"before": None, "now": "n"}
    assert found.notes == given.notes == []
    (tmp_path / "gold").rmdir()
    with pytest.raises(UserError, match=r"the gold model of `.*` is not at") as refusal:
        models_of_run(run, config)
    assert refusal.value.hint == "give it as `--gold PATH`, or leave it out with `--gold none`"


def test_models_that_were_moved_together_with_the_run_are_found_beside_it(tmp_path):
    places = {"target": str(tmp_path / "old" / "01-a"), "gold": str(tmp_path / "old" / "gold")}
    run = finished(tmp_path / "new", "unlearn", "unlearned", places=places)
    config = UnlearnRun(model=ModelConfig(name="m", path=places["target"]))
    with pytest.raises(UserError, match=r"old/01-a"):
        models_of_run(run, config, gold="none")
    for name in ("01-a", "gold"):
        (tmp_path / "new" / name / "checkpoint").mkdir(parents=True)
    found = models_of_run(run, config).models
    assert [model.config.path for model in found.values()] == [
        str(tmp_path / "new" / "01-a"), str(run), str(tmp_path / "new" / "gold")]  # fmt: skip
    assert [model.weights for model in found.values()] == ["t", "n", "g"]  # which loading checks
    (tmp_path / "old" / "gold").mkdir(parents=True)
    assert models_of_run(run, config).models["gold"].config.path == places["gold"]


def test_of_fine_tuning_the_model_before_is_the_one_that_it_began_with(tmp_path):
    run = finished(tmp_path, "finetune", "model", places={})
    made = models_of_run(run, FinetuneRun(model=ModelConfig(name="m", architecture=TINY, tokenizer="train")))
    assert list(made.models) == ["now"]
    assert len(made.notes) == 2
    (tmp_path / "start").mkdir()
    start = ModelConfig(name="m", path=str(tmp_path / "start"))
    tuned = models_of_run(run, FinetuneRun(model=start))
    assert {word: model.weights for word, model in tuned.models.items()} == {"before": "s", "now": "n"}
    (tmp_path / "start").rmdir()
    with pytest.raises(UserError, match=r"the model before of `.*` is not at"):
        models_of_run(run, FinetuneRun(model=start))


def test_a_start_in_a_hub_that_does_not_answer_is_told(tmp_path):
    start = ModelConfig(name="m", path="somebody/model", revision="v1")
    run = finished(tmp_path, "unlearn", "unlearned", places={"target": "somebody/model"})
    with pytest.raises(UserError, match="`somebody/model` is no local directory") as refusal:
        models_of_run(run, UnlearnRun(model=start))
    assert "--before none" in str(refusal.value.hint)


def test_of_requests_in_turn_the_run_of_the_last_one_is_named(tmp_path):
    run = finished(tmp_path, "unlearn", "unlearned", places={}, checkpoint=False)
    for name in ("01-a", "02-b"):
        (run / name / "checkpoint").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no model") as refusal:
        models_of_run(run, UnlearnRun(model=ModelConfig(name="m", path="x")))
    assert refusal.value.hint == f"the run of its last request holds it: `{run / '02-b'}`"


@pytest.mark.parametrize("task", ["evaluate", "audit", "unlearn"])
def test_a_run_without_a_checkpoint_is_refused(task, tmp_path):
    run = finished(tmp_path, task, "model", places={}, checkpoint=False)
    with pytest.raises(UserError, match="holds no model"):
        models_of_run(run, UnlearnRun(model=ModelConfig(name="m", path="x")))
