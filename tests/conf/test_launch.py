"""The door to Hydra, with small tasks of our own: what reaches a task, what comes back, and what is told."""

import contextlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl as HydraLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from mari_cli import config, launch
from mari_cli.begun import Inputs, versions
from mari_cli.config import UnlearnRun
from mari_cli.errors import UserError
from mari_cli.launch import Experiment, Failed, saved_sweep
from mari_cli.losses.mari import MariConfig
from mari_cli.losses.preference import NPOConfig
from mari_cli.storage.run import Run


def describe(cfg, options):
    assert type(cfg) is UnlearnRun
    return {
        "loss": cfg.loss.name,
        "seed": cfg.seed,
        "out": cfg.out,
        "command": options.command,
        "pid": os.getpid(),
    }


def fail_on_seed_one(cfg, options):
    if cfg.seed == 1:
        raise RuntimeError("the disk caught fire")
    if cfg.seed == 2:
        raise UserError("no such corpus", "make one")
    return cfg.seed


def break_the_rules(cfg, options):
    raise UserError("the corpus is empty", "fill it")


def fumble_with_a_config(cfg, options):
    OmegaConf.structured(MariConfig).betta  # noqa: B018


def be_interrupted(cfg, options):
    raise KeyboardInterrupt


def touch(cfg, options):
    Path(cfg.out).mkdir(parents=True)
    return cfg


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def demo(tmp_path):
    """A run of the user's with a group of its own beside it, and what to sweep over."""
    folder = tmp_path / "experiments" / "demo"
    (folder / "method").mkdir(parents=True)
    (folder / "run.yaml").write_text(
        "defaults: [unlearn, method: mari, _self_]\n"
        "seed: 3\n"
        "hydra:\n  sweeper:\n    params:\n      method: mari,kl_ga,npo\n"
    )
    for method, steps in {"mari": 30, "kl_ga": 20, "npo": 10}.items():
        (folder / "method" / f"{method}.yaml").write_text(
            f"# @package _global_\ndefaults: [override /loss: {method}]\ntrain:\n  steps: {steps}\n"
        )
    return folder / "run.yaml"


# -- a single run ------------------------------------------------------------------------------------------


def test_a_task_gets_dataclasses_and_the_command_that_repeats_it():
    prepared = launch.prepare(Experiment("unlearn", ["loss=npo", "seed=4"]))
    outcome = launch.run(describe, prepared)
    assert outcome["loss"] == "npo"
    assert outcome["command"] == ["mari", "unlearn", "loss=npo", "seed=4"]
    assert isinstance(prepared.config.loss, NPOConfig)


def test_a_run_leaves_nothing_on_the_disk_but_what_the_task_writes(tmp_path):
    launch.run(describe, launch.prepare(Experiment("unlearn")))
    assert list(tmp_path.iterdir()) == []


def test_what_a_task_raises_comes_out_as_it_is(capfd):
    with pytest.raises(UserError, match="the corpus is empty"):
        launch.run(break_the_rules, launch.prepare(Experiment("unlearn")))
    with pytest.raises(ConfigAttributeError):
        launch.run(fumble_with_a_config, launch.prepare(Experiment("unlearn")))
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_run_says_where_it_was():
    with pytest.raises(launch.Interrupted) as interrupted:
        launch.run(be_interrupted, launch.prepare(Experiment("unlearn", ["out=here"])))
    assert (interrupted.value.task, interrupted.value.out) == ("unlearn", Path("here"))


def test_hydra_is_left_as_it_was_found():
    launch.run(describe, launch.prepare(Experiment("unlearn")))
    assert not GlobalHydra.instance().is_initialized()


def test_a_file_is_a_whole_run(demo):
    prepared = launch.prepare(Experiment("unlearn", file=demo))
    outcome = launch.run(describe, prepared)
    assert (outcome["loss"], outcome["seed"], prepared.config.train.steps) == ("mari", 3, 30)


def test_overrides_hold_over_a_file_and_choose_from_the_groups_beside_it(demo):
    prepared = launch.prepare(Experiment("unlearn", ["method=npo", "seed=5"], demo))
    outcome = launch.run(describe, prepared)
    assert (outcome["loss"], outcome["seed"], prepared.config.train.steps) == ("npo", 5, 10)
    assert outcome["command"] == ["mari", "unlearn", "-c", str(demo), "method=npo", "seed=5"]


def test_a_file_for_another_command_is_refused(demo):
    with pytest.raises(UserError, match=r"describes a run of `mari unlearn`, not of `mari finetune`"):
        launch.run(describe, launch.prepare(Experiment("finetune", file=demo)))


def test_a_launcher_that_a_single_run_would_ignore_is_refused():
    with pytest.raises(UserError, match="no effect on a single run"):
        launch.run(describe, launch.prepare(Experiment("unlearn", ["hydra/launcher=joblib"])))


# -- what need not be said ---------------------------------------------------------------------------------


def test_paths_choose_the_options_that_read_them():
    cfg = launch.parse(
        launch.compose(
            Experiment("unlearn", ["model.path=models/llama", "forget.path=a.jsonl", "retain.path=b.csv"])
        )
    )
    assert (cfg.model.path, cfg.model.name, cfg.model.architecture) == ("models/llama", "llama", None)
    assert (cfg.forget.path, cfg.retain.path, cfg.holdout.path) == ("a.jsonl", "b.csv", None)


@pytest.mark.parametrize(
    ("overrides", "implied"),
    [
        (["forget.path=diary.txt"], ["forget=text"]),
        (["forget.path=records"], ["forget=jsonl"]),
        (["forget.path=texts"], ["forget=text"]),
        (["forget.path='diary.txt'"], ["forget=text"]),
        (["forget.path=diary.txt", "retain.path=rest.txt"],
         ["forget=text", "retain=text", "forget.fraction=null"]),
        (["forget=text", "forget.path=diary.txt", "retain.path=rest.jsonl"],
         ["retain=jsonl", "forget.fraction=null"]),
        (["holdout.path=new.parquet"], ["holdout=jsonl"]),
        (["retain.path=null"], []),
        (["forget=tofu", "forget.path=my/tofu"], []),
        (["model=stories15m", "model.path=here"], []),
        (["model.path=a/b"], ["model=pretrained", "model.name=b"]),
        (["model.path=a,b"], ["model=pretrained"]),
        (["loss=npo"], []),
    ],
)  # fmt: skip
def test_a_path_implies_an_option_where_none_is_chosen(overrides, implied, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").touch()
    assert launch.implied_choices(overrides) == implied


FILES = "forget: {path: x.jsonl}\nretain: {path: y.jsonl}\nmodel: {path: m}\n"


@pytest.mark.parametrize(
    ("text", "overrides", "found"),
    [
        (f"defaults: [unlearn, _self_]\n{FILES}", [], ("x.jsonl", "y.jsonl", "m", 1e-5)),
        ("defaults: [unlearn, _self_]\n", ["forget.path=z.jsonl", "retain.path=y.jsonl", "model.path=m"],
         ("z.jsonl", "y.jsonl", "m", 1e-5)),
        (f"defaults: [unlearn, override forget: tofu, _self_]\n{FILES}", ["train.lr=3"],
         ("x.jsonl", "y.jsonl", "m", 3)),
        (f"defaults: [base, _self_]\n{FILES}", ["loss=npo"], ("x.jsonl", "y.jsonl", "m", 3e-4)),
        (f"defaults: [unlearn, method: here, _self_]\n{FILES}", [], ("x.jsonl", "y.jsonl", "m", 1e-5)),
    ],
)  # fmt: skip
def test_a_path_in_a_file_implies_an_option_where_none_is_chosen(text, overrides, found, tmp_path):
    """Also in a file with the name of that which it builds on."""
    (tmp_path / "base.yaml").write_text(
        "defaults: [unlearn, override forget: tofu, override train: unlearn_tiny, _self_]\n"
    )
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "here.yaml").write_text(
        "# @package _global_\ndefaults: [override /forget: tofu]\n"
    )
    file = tmp_path / "unlearn.yaml"
    file.write_text(text)
    cfg = launch.configured(Experiment("unlearn", overrides, file))
    assert (cfg.forget.path, cfg.retain.path, cfg.model.path, cfg.train.lr) == found
    assert (cfg.forget.subset == "forget10") is ("tofu" in text or "base" in text or "method" in text)


def test_what_a_file_does_not_build_on_chooses_nothing(tmp_path):
    """Neither a file with the name of a task of mari's, nor an option that was not chosen."""
    (tmp_path / "unlearn.yaml").write_text("defaults: [unlearn, _self_]\nforget: {path: x.jsonl}\n")
    (tmp_path / "data").mkdir()
    for name, people in (("few", "forget: {people: 2}"), ("files", "forget: {path: y.jsonl}")):
        (tmp_path / "data" / f"{name}.yaml").write_text(f"# @package _global_\n{people}\n")
    file = tmp_path / "mine.yaml"
    file.write_text("defaults: [unlearn, data: few, _self_]\n")
    assert launch.configured(Experiment("unlearn", [], file)).forget.people == 2
    typed = launch.configured(Experiment("unlearn", ["data=files", "retain.path=z.jsonl"], file))
    assert (typed.forget.path, typed.retain.path) == ("y.jsonl", "z.jsonl")


def test_requests_in_a_file_are_files_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("defaults: [unlearn, _self_]\nforget: {requests: [a.jsonl, [b.jsonl, c.jsonl]]}\n")
    assert launch.configured(Experiment("unlearn", [], file)).forget.kind == "files"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("defaults: [_self_, unlearn]\nseed: 3\n", "no `_self_` after `unlearn`"),
        ("defaults: [unlearn]\nseed: 3\n", "no `_self_` after `unlearn`"),
        ("defaults: [unlearn, _self_]\ntrain.steps: 3\n", "`train.steps` .* has a dot"),
        ("defaults: [unlearn, _self_]\nloss: npo\n", "`loss` is a section, and takes no value, got `npo`"),
        ("defaults: [unlearn, _self_]\naudit: quick\n", "`audit` is a section"),
        ("defaults: [unlearn, _self_]\nforget: x.jsonl\n", "`forget` is a section"),
        ("defaults: [unlearn, _self_]\ntrain: [3]\n", "`train` is a section"),
    ],
)
def test_what_a_file_says_in_vain_is_refused(text, told, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=told) as refused:
        launch.configured(Experiment("unlearn", [], file))
    assert "lists every key" not in refused.value.hint


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+train.steps=3", "`train.steps` takes no `+`"),
        ("~train.steps", "`train.steps` cannot be taken out"),
        ("~train.stepz", "`train.stepz` is not there"),
        ("metrics.benchmarks=[null]", "cannot be null"),
        ("metrics.bootstrap=19", "must be >= 20"),
        ("metrics.confidence=0.999999999", "must be >= 10000000"),
        ("loss=mari loss.mari_weight=0 loss.retain_weight=0", "no step would change anything"),
        ("loss=npo loss.forget_weight=0 loss.retain_loss=none", "no step would change anything"),
        ("loss=grad_ascent loss.forget_weight=0", "no step would change anything"),
    ],
)
def test_what_means_nothing_is_refused_in_our_words(override, told):
    with pytest.raises(UserError, match=re.escape(told)):
        launch.configured(Experiment("unlearn", override.split()))


def test_a_key_without_its_section_is_told_with_it():
    with pytest.raises(UserError) as refused:
        launch.configured(Experiment("unlearn", ["steps=3"]))
    assert refused.value.hint == "did you mean `train.steps`?"


@pytest.mark.parametrize(
    ("overrides", "lr"),
    [
        ([], 3e-4),
        (["model.path=/a"], 1e-5),
        (["model=stories15m"], 1e-5),
        (["model.path=/a", "train=unlearn_tiny"], 3e-4),
        (["model.path=/a", "train.lr=1"], 1),
    ],
)
def test_a_model_that_comes_trained_is_trained_on_gently(overrides, lr):
    assert launch.compose(launch.Experiment("unlearn", overrides)).train.lr == lr


def test_what_is_chosen_holds_over_what_is_implied():
    overrides = ["forget.path=diary.txt", "retain.path=rest.txt", "forget.fraction=0.2", "model.path=x",
                 "model.name=mine"]  # fmt: skip
    cfg = launch.parse(launch.compose(Experiment("unlearn", overrides)))
    assert (cfg.forget.fraction, cfg.model.name) == (0.2, "mine")


@pytest.mark.parametrize(
    "path", ["a b", "it's", "x=y", "a,b", "(1)", "~/m", "C:\\m", "end\\", "\\'", "ünï", "[x]", "a#b"]
)
def test_any_path_can_be_quoted(path):
    cfg = launch.compose(Experiment("evaluate", model=path))
    assert cfg.model.path == path


# -- what composition lets through --------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["3", "1", "0", "yes", "on", "null", "'true'", "[true]", "1.5"])
def test_code_of_others_is_run_by_true_alone_and_by_nothing_that_may_stand_for_it(value):
    with pytest.raises(UserError, match=r"`model.trust_remote_code` must be true or false, got"):
        launch.configured(Experiment("unlearn", [f"model.trust_remote_code={value}"]))


@pytest.mark.parametrize(
    "key",
    [
        *("train.dropout", "train.keep_logits", "train.stop.at_holdout", "finetune.gradient_checkpointing"),
        *("model.lora.merge", "forget.truncate", "retain.drop_overlap", "metrics.generate"),
    ],
)
@pytest.mark.parametrize("value", ["7", "0", "yes", "0.5"])
def test_no_number_and_no_word_stands_for_true_or_false(key, value):
    with pytest.raises(UserError, match=rf"`{key}` must be true or false, got {value}"):
        launch.configured(Experiment("unlearn", [f"{key}={value}"]))


def test_a_key_is_never_its_own_guess(tmp_path):
    (tmp_path / "file.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="has no `defaults:`") as refused:
        launch.configured(Experiment("unlearn", ["out=x"], file=tmp_path / "file.yaml"))
    assert "`defaults: [unlearn, _self_]`" in str(refused.value.hint)


@pytest.mark.parametrize("override", ["gold=x", "loss=npo", "loss.beta=3", "target=finetune"])
def test_a_key_that_only_another_task_has_is_told_so(tmp_path, override):
    """A file of a fine-tuning, of which `mari unlearn` is asked for more."""
    (tmp_path / "file.yaml").write_text("defaults: [finetune, _self_]\n")
    with pytest.raises(UserError, match="does not describe a run that has it") as refused:
        launch.configured(Experiment("unlearn", [override], file=tmp_path / "file.yaml"))
    assert "begin it with" in str(refused.value.hint)


def test_more_twins_than_can_be_asked_are_refused():
    with pytest.raises(UserError, match=r"`loss.support.twins` must be at most 10000, got 1000000000"):
        launch.configured(Experiment("unlearn", ["loss=mari_twins", "loss.support.twins=1000000000"]))


@pytest.mark.parametrize("value", ["true", "false"])
def test_code_of_others_is_run_where_it_is_asked_for(value):
    found = launch.configured(Experiment("unlearn", [f"model.trust_remote_code={value}"]))
    assert found.model.trust_remote_code is (value == "true")


@pytest.mark.parametrize("field", ["={model_type: gpt2}", ".n_layer=2"])
def test_a_model_with_a_path_takes_no_field_of_an_architecture(field):
    with pytest.raises(UserError, match=r"is null.* takes no fields") as refusal:
        launch.configured(Experiment("unlearn", ["model.path=here", f"model.architecture{field}"]))
    assert "`model=gpt2_tiny" in refusal.value.hint


@pytest.mark.parametrize("size", [1, 257])
def test_a_vocabulary_holds_every_byte(size):
    with pytest.raises(UserError, match=rf"`model.tokenizer_vocab_size` must be >= 258 .*, got {size}"):
        launch.configured(Experiment("unlearn", [f"model.tokenizer_vocab_size={size}"]))


@pytest.mark.parametrize("key", ["foo", "loss.foo", "train.stop.foo"])
def test_a_key_that_is_forced_in_is_unknown_all_the_same(key):
    with pytest.raises(UserError, match=f"unknown config key `{key}`"):
        launch.run(describe, launch.prepare(Experiment("unlearn", [f"+{key}=1"])))


def test_the_fields_of_an_architecture_are_free():
    cfg = launch.parse(launch.compose(Experiment("unlearn", ["+model.architecture.n_inner=64"])))
    assert cfg.model.architecture["n_inner"] == 64


def test_a_value_that_must_be_set_is_asked_for_before_interpolations_fail_on_it():
    with pytest.raises(UserError, match="`loss` is not set"):
        launch.run(describe, launch.prepare(Experiment("unlearn", ["~loss"])))


# -- sweeps -------------------------------------------------------------------------------------------------


def test_a_sweep_runs_every_combination():
    planned = launch.plan(Experiment("unlearn", ["loss=mari,npo", "seed=0,1", "train.steps=5"]))
    results = launch.sweep(describe, planned)
    assert [(r["loss"], r["seed"]) for r in results] == [("mari", 0), ("mari", 1), ("npo", 0), ("npo", 1)]
    assert [job.varied for job in planned.jobs][2] == {"loss": "npo", "seed": "0"}
    assert results[3]["command"] == ["mari", "unlearn", "loss=npo", "seed=1", "train.steps=5"]


def test_each_job_has_a_directory_of_its_own_named_by_what_varied():
    planned = launch.plan(Experiment("unlearn", ["loss=mari,npo", "train.lr=1e-4,2e-4", "out=first"]))
    assert planned.directory == Path("first")
    assert [job.config.out for job in planned.jobs] == [
        "first/0_loss=mari_lr=0.0001", "first/1_loss=mari_lr=0.0002",
        "first/2_loss=npo_lr=0.0001", "first/3_loss=npo_lr=0.0002",
    ]  # fmt: skip


def test_a_sweep_without_an_out_goes_to_sweeps(tmp_path):
    planned = launch.plan(Experiment("unlearn", ["seed=range(3)"]))
    launch.sweep(touch, planned)
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert sorted(path.name for path in sweep.iterdir()) == [
        "0_seed=0", "1_seed=1", "2_seed=2", "jobs", "multirun.yaml", "sweep.json"]  # fmt: skip


def test_a_file_may_say_what_to_sweep_over(demo):
    planned = launch.plan(Experiment("unlearn", file=demo))
    assert [job.config.loss.name for job in planned.jobs] == ["mari", "kl_ga", "npo"]
    assert [job.config.train.steps for job in planned.jobs] == [30, 20, 10]
    assert [job.label for job in planned.jobs] == ["method=mari", "method=kl_ga", "method=npo"]
    results = launch.sweep(describe, planned)
    assert results[1]["command"] == ["mari", "unlearn", "-c", str(demo), "method=kl_ga"]


def test_what_is_typed_holds_over_what_a_file_sweeps(demo):
    planned = launch.plan(Experiment("unlearn", ["method=npo", "seed=1,2"], demo))
    assert [(job.config.loss.name, job.config.seed) for job in planned.jobs] == [("npo", 1), ("npo", 2)]


def test_a_typo_in_the_last_combination_is_found_before_the_first_job_starts(tmp_path):
    with pytest.raises(UserError, match="no loss named `nppo`"):
        launch.plan(Experiment("unlearn", ["loss=mari,nppo"]))
    with pytest.raises(UserError, match=r"`loss\.prior` must be between 0 and 1"):
        launch.plan(Experiment("unlearn", ["loss.prior=0.5,1.5"]))
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_one_method_lacks_is_told_with_the_method_and_how_the_other_gets_it():
    with pytest.raises(UserError) as refused:
        launch.plan(launch.Experiment("unlearn", ["loss=npo,mari_twins", "loss.beta=0.1,0.2"]))
    assert str(refused.value) == "unknown config key `loss.beta`, in `loss=mari_twins loss.beta=0.1`"
    assert "`METHOD:KEY=VALUE` sets a key of one method alone," in refused.value.hint
    with pytest.raises(UserError, match=r"unknown config key `train.stps`$") as refused:
        launch.plan(launch.Experiment("unlearn", ["loss=npo,mari_twins", "train.stps=2"]))
    assert refused.value.hint == "did you mean `train.steps`?"


def planned_jobs(*overrides):
    return launch.plan(Experiment("unlearn", list(overrides))).jobs


def test_a_setting_of_one_method_alone_is_in_its_runs_and_holds_over_that_of_all():
    jobs = planned_jobs("loss=npo,mari_twins", "npo:loss.beta=0.5", "train.lr=1e-4", "npo:train.lr=2e-4")
    assert [job.label for job in jobs] == [
        "loss=npo loss.beta=0.5 train.lr=2e-4",
        "loss=mari_twins train.lr=0.0001",
    ]
    assert [job.config.train.lr for job in jobs] == [2e-4, 1e-4]
    assert jobs[0].config.loss.beta == 0.5
    jobs = planned_jobs("loss=npo,kl_ga", "train.lr=1e-4,1e-3", "npo:loss.beta=0.5")
    assert [getattr(job.config.loss, "beta", None) for job in jobs] == [0.5, 0.5, None, None]
    assert [job.config.train.lr for job in jobs] == [1e-4, 1e-3, 1e-4, 1e-3]


def test_a_sweep_with_a_setting_of_one_method_runs_and_is_kept_as_it_was_typed(tmp_path):
    typed = ["loss=npo,kl_ga", "npo:loss.beta=0.5", f"out={tmp_path / 's'}"]
    planned = launch.plan(Experiment("unlearn", typed))
    results = launch.sweep(describe, planned)
    assert [result["command"][2:] for result in results] == [["loss=npo", "loss.beta=0.5"], ["loss=kl_ga"]]
    kept = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert kept["command"] == ["mari", "sweep", "--task", "unlearn", *typed]
    file = tmp_path / "own.yaml"
    file.write_text(
        "defaults: [unlearn, _self_]\nhydra:\n  sweeper:\n    params:\n"
        "      loss: npo,kl_ga\n      npo:loss.beta: 0.5\n"
    )
    jobs = launch.plan(Experiment("unlearn", [f"out={tmp_path / 't'}"], file)).jobs
    assert [getattr(job.config.loss, "beta", None) for job in jobs] == [0.5, None]


def test_a_setting_of_no_method_of_the_sweep_is_refused():
    for overrides, hint in (
        (["loss=npo,kl_ga", "npoo:loss.beta=0.5"], "the methods are npo, kl_ga; did you mean `npo:…`?"),
        (["loss=npo,kl_ga", "mari_base:loss.prior=0.5"], "the methods are npo, kl_ga"),
        (
            ["loss=npo", "npo:loss.beta=0.5"],
            "a list names methods, as `loss=npo,simnpo`; without one write `loss.beta=0.5`",
        ),
        (
            ["npo:loss.beta=0.5", "seed=1,2"],
            "a list names methods, as `loss=npo,simnpo`; without one write `loss.beta=0.5`",
        ),
    ):
        with pytest.raises(UserError, match="is for a method that is not in the sweep") as refused:
            planned_jobs(*overrides)
        assert refused.value.hint == hint
    with pytest.raises(UserError, match=r"`npo:loss=kl_ga` changes what the list `loss=…` says"):
        planned_jobs("loss=npo,simnpo", "npo:loss=kl_ga")
    with pytest.raises(UserError, match=r"unknown config key `loss.beta`, in `loss=kl_ga`") as refused:
        planned_jobs("loss=npo,kl_ga", "kl_ga:loss.beta=0.5")
    assert "METHOD:KEY" not in refused.value.hint
    with pytest.raises(UserError, match=r"unknown config key `loss.betta`"):
        planned_jobs("loss=npo,kl_ga", "npo:loss.betta=0.5")
    with pytest.raises(UserError, match=r"changes what the list `loss.forget_weight=…` says"):
        planned_jobs("loss=npo,kl_ga", "loss.forget_weight=1,2", "npo:loss.forget_weight=3")


@pytest.mark.parametrize("more", [["loss=npo", "out=a,b"], ["loss=npo,kl_ga", "npo:out=a"]])
def test_a_sweep_has_one_directory(more):
    with pytest.raises(UserError, match="`out` is the directory of the whole sweep"):
        planned_jobs(*more)


def test_a_job_that_fails_is_a_value_and_the_others_survive(capfd):
    results = launch.sweep(fail_on_seed_one, launch.plan(Experiment("unlearn", ["seed=0,1,2,3"])))
    assert results == [
        0,
        Failed("RuntimeError: the disk caught fire"),
        Failed("no such corpus (make one)"),
        3,
    ]
    told = capfd.readouterr()
    assert told.out == ""
    assert "job 2 of 4: seed=1" in told.err
    assert 'raise RuntimeError("the disk caught fire")' in told.err
    assert "raise UserError" not in told.err


def test_a_sweep_never_writes_where_something_is(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(UserError, match="`taken` exists"):
        launch.plan(Experiment("unlearn", ["seed=0,1", "out=taken"]))


def record(cfg, options):
    """A run that is cut off where seed 1 finds a file `stop`."""
    out, inputs = Path(cfg.out), asdict(Inputs(values=versions(cfg)))
    if options.resume:
        run = Run.resume(out)
    else:
        run = Run.create(out, config.to_yaml(cfg), command=options.command, task="unlearn", inputs=inputs)
    if cfg.seed == 1 and Path("stop").exists():
        raise KeyboardInterrupt
    run.finish({"seed": cfg.seed, "resumed": options.resume, "pid": os.getpid()})
    return run.result()


@pytest.fixture(scope="module")
def cut_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("cut")
    with contextlib.chdir(root):
        Path("stop").touch()
        Path("letters.jsonl").write_text("{}")
        planned = launch.plan(Experiment("unlearn", ["seed=0,1,2", "forget.path=letters.jsonl", "out=s"]))
        with pytest.raises(launch.Interrupted) as interrupted:
            launch.sweep(record, planned)
    assert (interrupted.value.task, interrupted.value.out) == ("sweep", Path("s"))
    return root


@pytest.fixture
def cut_sweep(cut_once, tmp_path):
    """Of three jobs one is finished, one cut off, and one has not begun."""
    shutil.copytree(cut_once / "s", tmp_path / "s")
    shutil.copy(cut_once / "letters.jsonl", tmp_path)
    return Path("s")


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_sweep_that_was_cut_off_goes_on_wherever_it_now_lies(launcher, cut_sweep):
    before = (cut_sweep / "0_seed=0" / "result.json").stat().st_mtime_ns
    cut_sweep.rename("moved")
    planned = launch.take_up(Path("moved"), launcher)
    assert [job.label for job in planned.jobs] == ["seed=0", "seed=1", "seed=2"]
    results = launch.sweep(record, planned)
    assert [(r["seed"], r["resumed"]) for r in results] == [(0, False), (1, True), (2, False)]
    assert Path("moved/0_seed=0/result.json").stat().st_mtime_ns == before
    assert ({r["pid"] for r in results[1:]} == {os.getpid()}) == (not launcher)
    assert launch.sweep(record, launch.take_up(Path("moved"))) == results  # nothing is left to do


def test_jobs_side_by_side_run_where_their_sweep_was_started(tmp_path, monkeypatch):
    for name in ("first", "second"):  # joblib keeps the processes of the first
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        arguments = ["seed=0,1", "out=s", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        launch.sweep(record, launch.plan(Experiment("unlearn", arguments)))
        assert (tmp_path / name / "s" / "1_seed=1" / "result.json").is_file()


def test_a_sweep_that_nothing_was_done_of_goes_on_from_its_directory_alone(demo, tmp_path):
    planned = launch.plan(Experiment("unlearn", ["method=mari,npo", "out=s"], demo))
    with pytest.raises(launch.Interrupted):
        launch.sweep(be_interrupted, planned)
    demo.unlink()
    results = launch.sweep(describe, launch.take_up(Path("s")))
    assert [(r["loss"], r["seed"]) for r in results] == [("mari", 3), ("npo", 3)]
    assert results[1]["command"] == ["mari", "unlearn", "-c", str(demo), "method=npo"]


def test_the_same_sweep_again_is_told_how_it_goes_on(cut_sweep):
    with pytest.raises(UserError, match="`s` exists") as refused:
        launch.plan(Experiment("unlearn", ["seed=0,1,2", "out=s"]))
    assert "`mari sweep --resume s`" in refused.value.hint


CUT = "s/1_seed=1"
SWEEP_CHANGES = {
    "a job": ("s/jobs/2/config.yaml", "`s/jobs/2/config.yaml` is not what sweep `s` was begun with"),
    "a run": (f"{CUT}/config.yaml", f"`{CUT}/config.yaml` is not what run `{CUT}` was begun with"),
    "a corpus": ("letters.jsonl", "something has changed since it began: what is in letters.jsonl"),
    "the record": ("s/sweep.json", "`s/sweep.json` is damaged"),
    "the record of a run": (f"{CUT}/run.json", f"`{CUT}/run.json` is not what run `{CUT}` was begun with"),
}


@pytest.mark.parametrize("change", SWEEP_CHANGES)
def test_a_sweep_of_which_something_has_changed_does_not_go_on(change, cut_sweep):
    path, told = SWEEP_CHANGES[change]
    with Path(path).open("a") as file:
        file.write("#")
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError) as refused:
        launch.take_up(cut_sweep)
    assert told in str(refused.value)
    assert sorted(Path().rglob("*")) == before


def test_a_sweep_that_goes_on_in_another_directory_is_told_what_is_not_found_there(cut_sweep, monkeypatch):
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(UserError, match=r"what is in letters.jsonl \(not found from this directory\)"):
        launch.take_up(Path("..") / cut_sweep)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"jobs": [1]}', "[" * 100_000, '{"jobs'])
def test_a_damaged_record_of_a_sweep_is_refused(content, cut_sweep):
    (cut_sweep / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"`s/sweep\.json` is damaged"):
        launch.take_up(cut_sweep)


def test_a_sweep_that_is_running_is_not_taken_up(cut_sweep):
    with saved_sweep.hold_sweep(cut_sweep):
        with pytest.raises(UserError, match="sweep `s` is running"):
            launch.take_up(cut_sweep)
        with pytest.raises(UserError, match="sweep `s` is running"):
            launch.plan(Experiment("unlearn", ["seed=0,1,2", "out=s"]))
    with Run(cut_sweep / "1_seed=1").held(), pytest.raises(UserError, match="run `s/1_seed=1` is running"):
        launch.take_up(cut_sweep)


def test_what_is_no_sweep_is_not_taken_up(tmp_path):
    (tmp_path / "s").mkdir()
    for path in ("s", "nowhere"):
        with pytest.raises(UserError, match=f"`{path}` is no sweep"):
            launch.take_up(Path(path))


def test_joblib_runs_jobs_in_other_processes():
    planned = launch.plan(
        Experiment("unlearn", ["seed=0,1,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    )
    results = launch.sweep(describe, planned)
    assert [result["seed"] for result in results] == [0, 1, 3]
    assert os.getpid() not in {result["pid"] for result in results}


def test_a_job_that_fails_in_another_process_is_a_value_too():
    overrides = ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    results = launch.sweep(fail_on_seed_one, launch.plan(Experiment("unlearn", overrides)))
    assert results == [0, Failed("RuntimeError: the disk caught fire")]


def test_submitit_runs_jobs_where_it_is_installed(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where a job finds `describe`
    overrides = ["seed=0,1", "hydra/launcher=submitit_local", "out=s"]
    results = launch.sweep(describe, launch.plan(Experiment("unlearn", overrides)))
    assert [result["seed"] for result in results] == [0, 1]


def test_a_launcher_that_is_not_installed_names_what_to_install():
    with pytest.raises(UserError, match="launcher `submitit_cloud` is not installed") as refused:
        launch.plan(Experiment("unlearn", ["seed=0,1", "hydra/launcher=submitit_cloud"]))
    assert refused.value.hint == "pip install 'mari-cli[slurm]'"


def test_any_task_can_be_swept():
    planned = launch.plan(Experiment("finetune", ["corpora=both,retain"]))
    assert planned.task == "finetune"
    assert [job.config.corpora for job in planned.jobs] == ["both", "retain"]


# -- runs on disk -------------------------------------------------------------------------------------------


def write_run(directory: Path, *overrides: str, task: str = "unlearn") -> config.RunConfig:
    cfg = launch.parse(launch.compose(Experiment(task, [*overrides, f"out={directory}"])))
    inputs = asdict(Inputs(values=versions(cfg)))
    Run.create(directory, config.to_yaml(cfg), command=["mari"], task=task, inputs=inputs)
    return cfg


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        *[
            ("unlearn", [f"loss={loss}"])
            for loss in ("mari", "grad_ascent", "grad_diff", "kl_ga", "npo", "dpo")
        ],
        ("unlearn", ["forget=tofu", "tracker=wandb", "tracker.tags=[a,b]", "metrics=fast"]),
        ("unlearn", ["forget=text", "forget.path=x.txt", "model=stories15m", "model.chat_template=off"]),
        ("finetune", ["retain=jsonl", "retain.path=rest.jsonl"]),
        ("evaluate", ["model.path=x", "retain=tofu"]),
    ],
)  # fmt: skip
def test_a_run_that_was_written_is_read_back_the_same(task, overrides, tmp_path):
    cfg = write_run(tmp_path / "run", *overrides, task=task)
    assert launch.load_run_config(tmp_path / "run") == cfg


def test_a_run_goes_on_with_the_config_it_was_begun_with_wherever_it_now_lies(tmp_path):
    write_run(tmp_path / "begun", "loss=npo", "seed=9")
    (tmp_path / "begun").rename(tmp_path / "moved")

    def resumed(cfg, options):
        return cfg, options.command, options.resume

    cfg, command, resume = launch.run(resumed, launch.resume("unlearn", Path("moved")))
    assert (cfg.loss.name, cfg.seed, cfg.out) == ("npo", 9, "moved")
    assert (command, resume) == (["mari", "unlearn", "--resume", "moved"], True)


def test_a_run_of_another_command_is_not_resumed(tmp_path):
    write_run(tmp_path / "gold", task="finetune")
    with pytest.raises(UserError, match="of `mari finetune`, not of `mari unlearn`") as refused:
        launch.run(describe, launch.resume("unlearn", Path("gold")))
    assert refused.value.hint == "`mari finetune --resume gold`"


def test_a_directory_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no run directory: it has no `config\.yaml`"):
        launch.load_run_config(tmp_path)


def test_a_config_of_another_version_is_told_as_such(tmp_path):
    write_run(tmp_path / "run")
    with (tmp_path / "run" / "config.yaml").open("a") as file:
        file.write("warp_drive: true\n")
    with pytest.raises(UserError, match="keys that this version does not know"):
        launch.load_run_config(tmp_path / "run")


def test_a_config_on_disk_that_was_spoilt_is_refused(tmp_path):
    write_run(tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("steps: 300", "steps: many"))
    with pytest.raises(UserError, match=r"`train\.steps` must be a whole number, got `many`"):
        launch.load_run_config(tmp_path / "run")


def test_to_evaluate_a_run_takes_its_corpora_and_its_model(tmp_path):
    begun = write_run(tmp_path / "run", "forget.people=5", "retain.people=9", "model.max_length=64")
    cfg = launch.parse(launch.compose(Experiment("evaluate", ["metrics=fast"], model="run")))
    assert (cfg.forget, cfg.holdout) == (begun.forget, begun.holdout)
    assert cfg.retain == replace(begun.retain)
    assert (cfg.model.path, cfg.model.name, cfg.model.max_length) == ("run", "run", 64)
    assert (cfg.model.architecture, cfg.model.tokenizer) == (None, None)


def test_a_run_is_read_with_values_that_are_refused_when_they_are_typed(tmp_path):
    """An earlier version took them: the run was done with them, so it can be evaluated and asked."""
    begun = write_run(tmp_path / "run", "forget.people=5")
    file = tmp_path / "run" / "config.yaml"
    told = yaml.safe_load(file.read_text())
    told["metrics"]["bootstrap"] = 3
    told["loss"].update({name: 0.0 for name in told["loss"] if name.endswith("_weight")})
    told["second_gold"] = "somewhere"
    file.write_text(yaml.safe_dump(told))
    saved = launch.load_run_config(tmp_path / "run")
    assert (saved.metrics.bootstrap, saved.loss.retain_weight) == (3, 0.0)
    assert (type(saved.loss), saved.train, saved.forget) == (type(begun.loss), begun.train, begun.forget)
    cfg = launch.parse(launch.compose(Experiment("evaluate", ["metrics=fast"], model="run")))
    assert cfg.forget.people == 5
    with pytest.raises(UserError):
        launch.load_run_config(tmp_path / "run", checked=True)
    for section, key in (("forget", "people"), ("model", "max_length")):  # sections that a new run takes over
        spoilt = {**told, section: {**told[section], key: 0}}
        file.write_text(yaml.safe_dump(spoilt))
        with pytest.raises(UserError, match=rf"{section}\.{key}"):
            launch.parse(launch.compose(Experiment("evaluate", ["metrics=fast"], model="run")))


def test_what_is_chosen_holds_over_the_run_that_is_evaluated(tmp_path):
    write_run(tmp_path / "run", "forget.people=5")
    cfg = launch.parse(
        launch.compose(Experiment("evaluate", ["forget=tofu", "retain.people=3"], model="run"))
    )
    assert (cfg.forget.subset, cfg.retain.people) == ("forget10", 3)


def test_to_evaluate_a_model_takes_its_path():
    cfg = launch.parse(launch.compose(Experiment("evaluate", ["forget=tofu"], model="some/Model-7B")))
    assert (cfg.model.path, cfg.model.name, cfg.forget.subset) == ("some/Model-7B", "Model-7B", "forget10")


# -- the contract with Hydra --------------------------------------------------------------------------------


def test_hydras_controller_has_what_we_use_of_it():
    with launch.session(Experiment("unlearn")) as controller:
        job = controller.run(config_name="unlearn", task_function=lambda cfg: cfg.seed, overrides=["seed=4"])
        assert (job.return_value, list(job.overrides)) == (4, ["seed=4"])
        (batch,) = controller.multirun(
            config_name="unlearn", task_function=lambda cfg: cfg.seed, overrides=["seed=4,5"]
        )
        assert [job.return_value for job in batch] == [4, 5]


CHOICES = [
    [],
    ["loss=npo", "seed=3"],
    ["seed=4", "loss=npo,kl_ga", "train.lr=1e-3,1e-4"],
    ["loss={name:mine}", "+model.architecture.foo=3", "~second_gold", "~train"],
    ["+audit=quick", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "train@finetune=finetune"],
    ["lss=3"],
    ["loss=no_such_loss", "lss=3"],
    ["train.lr=soon"],
]


@pytest.mark.parametrize("mode", RunMode)
@pytest.mark.parametrize("words", CHOICES, ids=map(str, CHOICES))
def test_our_loader_composes_what_hydras_does_also_of_what_it_knows(words, mode):
    found = []
    for make in (None, HydraLoader, None):
        with launch.session(Experiment("unlearn")) as controller:
            if make:
                controller.config_loader = make(controller.config_loader.config_search_path)
            try:
                cfg = controller.compose_config("unlearn", words, mode)
            except HydraException as error:
                found.append((type(error), str(error), str(error.__cause__)))
            else:
                flags = [part._get_flag(flag) for part in (cfg, cfg.hydra) for flag in ("struct", "readonly")]
                types = {key: OmegaConf.get_type(node) for key, node in cfg.items_ex(resolve=False)}
                found.append((OmegaConf.to_yaml(cfg), types, flags))
    assert found[0] == found[1]
    assert found[2] == found[1]


@dataclass
class UnlearnRunAndMore(UnlearnRun):
    more: int = 7


def test_a_config_that_is_known_is_another_in_another_directory_and_with_another_schema(
    tmp_path, monkeypatch
):
    def composed():
        with launch.session(Experiment("unlearn")) as controller:
            return controller.compose_config("unlearn", [], RunMode.RUN)

    first = composed()
    first.seed = 5  # of this one alone
    monkeypatch.chdir(tmp_path)
    assert composed().seed == 0
    assert composed().hydra.runtime.cwd == str(tmp_path)
    monkeypatch.setitem(config.SCHEMAS, "unlearn", UnlearnRunAndMore)
    assert composed().more == 7
    monkeypatch.undo()
    assert "more" not in composed()


def test_our_jobs_are_those_that_hydra_launches(demo):
    seen = []
    experiment = Experiment("unlearn", ["seed=1,2", "train.steps=choice(3,4)"], demo)
    planned = launch.plan(experiment)
    with launch.session(experiment) as controller:
        controller.multirun(config_name="run", task_function=seen.append, overrides=experiment.arguments)
    assert len(seen) == len(planned.jobs) == 12
    for composed, job in zip(seen, planned.jobs, strict=True):
        assert replace(launch.parse(composed), out=job.config.out) == job.config
