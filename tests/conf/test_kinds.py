"""A section says its kind; its label chooses nothing and misleads nobody; saved before, it is still read."""

import pytest
import yaml
from tiny import TINY

from mari_cli import config, launch
from mari_cli.config import SCHEMAS, kinds_of, to_plain, to_yaml
from mari_cli.errors import UserError
from mari_cli.launch import Experiment
from mari_cli.losses.objective import build
from mari_cli.options import RunOptions
from mari_cli.sections import Section
from mari_cli.tasks.unlearn import unlearn

SECTIONS = sorted({name.partition("/")[0] for name in SCHEMAS if "/" in name} - {"train"})
CHOSEN = {section for section in SECTIONS if len(kinds_of(section)) > 1}
LOSSES = sorted(kinds_of("loss"))


def parsed(*overrides: str, task: str = "unlearn") -> config.RunConfig:
    return launch.parse(launch.compose(Experiment(task, overrides)))


@pytest.mark.parametrize("section", sorted(CHOSEN))
def test_every_schema_that_can_be_chosen_has_its_own_kind(section):
    for kind, schema in kinds_of(section).items():
        assert issubclass(schema, Section)
        assert schema.kind == kind


def test_a_kind_that_nothing_registers_is_refused_with_those_that_are_known(tmp_path):
    (tmp_path / "run.yaml").write_text("defaults: [unlearn, schema/loss/toy@loss, _self_]\n")
    with pytest.raises(UserError, match="no loss of kind `toy` is known") as refused:
        launch.prepare(Experiment("unlearn", file=tmp_path / "run.yaml"))
    assert all(f"`{loss}`" in str(refused.value.hint) for loss in LOSSES)


@pytest.mark.parametrize("loss", ["mari", "kl_ga", "npo"])
def test_a_label_changes_neither_the_schema_nor_the_loss(loss):
    plain, labelled = parsed(f"loss={loss}").loss, parsed(f"loss={loss}", "loss.name=mine").loss
    assert type(labelled) is type(plain) is SCHEMAS[f"loss/{loss}"]
    assert build(labelled).needs == build(plain).needs or loss == "mari"  # whose needs hold its configuration
    assert labelled.kind == loss


def test_the_name_of_another_loss_is_no_label():
    for loss in LOSSES:
        for other in LOSSES:
            for word in (other, other.upper(), other.replace("_", "-"), f" {other}"):
                if other == loss:
                    assert SCHEMAS[f"loss/{loss}"](name=word).kind == loss
                    continue
                with pytest.raises(
                    ValueError, match=f"is a label only, and this section is {loss}, not {other}"
                ):
                    SCHEMAS[f"loss/{loss}"](name=word)
    with pytest.raises(UserError, match=r"`loss\.name` is a label only, .* mari, not npo") as refused:
        parsed("loss.name=NPO")
    assert refused.value.hint == "`loss=npo` chooses npo; a label is any other word"


@pytest.mark.parametrize(
    ("override", "other"),
    [
        ("tracker.name=wandb", "wandb"),
        ("suite=tofu suite.name=muse", "muse"),
        ("holdout.name=files", "files"),
    ],
)
def test_nor_of_any_other_kind_of_section(override, other):
    with pytest.raises(UserError, match=f"is a label only, .*, not {other}"):
        parsed(*override.split())


@pytest.mark.parametrize(
    "override", ["loss.kind=npo", "loss.kind=nosuch", "suite.kind=tofu", "task=finetune"]
)
def test_a_kind_is_not_set_but_chosen(override):
    with pytest.raises(UserError, match=r"(kind|task)`? is \w+ here, got"):
        parsed(override)


def test_results_name_the_kind_beside_the_label():
    assert parsed("loss=kl_ga", "loss.name=mine").loss.title == "mine (kl_ga)"
    assert parsed("loss=mari", "loss.name=mine").loss.title == "mine (mari) token"
    assert parsed("loss=npo").loss.title == "npo"


def test_a_run_with_a_label_ends_with_the_loss_that_was_chosen(tmp_path, cache):
    words = ["loss=kl_ga", "loss.name=mine", f"out={tmp_path / 'run'}", f"cache={cache}"]
    result = unlearn(parsed(*TINY, *words), RunOptions(["mari"]))
    assert (result["name"], result["loss"]) == ("mine (kl_ga)", "mine (kl_ga)")
    assert launch.load_run_config(tmp_path / "run").loss.kind == "kl_ga"
    assert "retain_kl" in (tmp_path / "run" / "metrics.jsonl").read_text()


# -- on disk -------------------------------------------------------------------------------------------------

RUNS = [
    *[("unlearn", [f"loss={loss}", "loss.name=mine"]) for loss in ("mari", "grad_diff", "dpo")],
    ("unlearn", ["forget=tofu", "suite=tofu", "tracker=wandb"]),
    ("unlearn", ["suite=own", "suite.code=x.py", "+suite.settings.a=1"]),
    ("evaluate", ["model.path=x", "retain=tofu", "suite=muse_news"]),
    ("finetune", []),
]


@pytest.mark.parametrize(("task", "overrides"), RUNS, ids=str)
def test_a_saved_run_names_the_kind_of_every_section_and_is_read_by_it(task, overrides, tmp_path):
    cfg = parsed(*overrides, task=task)
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["task"] == task
    for section in CHOSEN.intersection(saved):
        assert kinds_of(section)[saved[section]["kind"]] is type(getattr(cfg, section))
    assert launch.load_run_config(tmp_path) == cfg


def as_before(plain: dict) -> dict:
    """``plain`` as it was saved before sections named their kinds."""
    plain = {key: dict(value) if isinstance(value, dict) else value for key, value in plain.items()}
    del plain["task"]
    for section in CHOSEN.intersection(plain):
        kind = plain[section].pop("kind")
        if section == "suite":
            plain[section]["protocol"] = kind
    return plain


EARLIER = [(task, [word for word in words if word != "loss.name=mine"]) for task, words in RUNS]


@pytest.mark.parametrize(("task", "overrides"), EARLIER, ids=str)
def test_a_run_of_an_earlier_version_is_read_as_it_was(task, overrides, tmp_path):
    cfg = parsed(*overrides, task=task)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_before(to_plain(cfg))))
    assert launch.load_run_config(tmp_path) == cfg


def test_a_kind_that_is_not_known_is_of_another_version(tmp_path):
    plain = to_plain(parsed())
    plain["loss"]["kind"] = "hope"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(UserError, match="keys that this version does not know"):
        launch.load_run_config(tmp_path)
