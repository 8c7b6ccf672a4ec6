"""The door to a search, with a small task of our own: what is planned, what runs, what comes after a kill."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from mari_cli import config, launch
from mari_cli.begun import Inputs, versions
from mari_cli.cli import searching
from mari_cli.errors import UserError
from mari_cli.launch import Experiment
from mari_cli.launch.combinations import directory_name
from mari_cli.launch.methods import report_changes
from mari_cli.search.aim import Aim
from mari_cli.search.trials import Trial
from mari_cli.storage.run import Run

optuna = pytest.importorskip("optuna")
AIM = Aim("distance_to_gold", "down")
LOG = "train.lr=tag(log,interval(1e-5,1e-3))"
SEARCH = ["loss=npo,kl_ga", LOG, "npo:loss.beta=choice(0.1,0.5)", "sweep.trials=3", "out=s"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def measure(cfg, options):
    """A run whose distance to gold follows from its settings; it is killed where a file says so."""
    out = Path(cfg.out)
    if options.resume:
        run = Run.resume(out)
    else:
        inputs = asdict(Inputs(values=versions(cfg)))
        run = Run.create(out, config.to_yaml(cfg), command=options.command, task="unlearn", inputs=inputs)
    if Path("kill").exists() and out.name.startswith(Path("kill").read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    if Path("burn").exists() and out.name.startswith(Path("burn").read_text()):
        raise RuntimeError("the disk caught fire")
    value = abs(cfg.train.lr - 1e-4) * 1e3 + getattr(cfg.loss, "beta", 0) + cfg.seed / 100
    metrics = {"distance_to_gold": {"value": value, "n": 1}}
    run.finish({"models": {"unlearned": {"metrics": metrics}}, "lr": cfg.train.lr, "seed": cfg.seed})
    return run.result()


def plan(*overrides, file=None):
    return launch.plan(Experiment("unlearn", list(overrides), file))


def test_commas_separate_methods_and_ranges_are_searched():
    planned = plan(*SEARCH, "sweep.report_seeds=[1,2]", "train.steps=5")
    assert [method.name for method in planned.methods] == ["npo", "kl_ga"]
    assert [[of_key.key for of_key in m.ranges] for m in planned.methods] == [
        ["train.lr", "loss.beta"],
        ["train.lr"],
    ]
    assert (planned.num_trials, planned.num_reports) == (6, 4)
    assert planned.budget == {"train.steps": 5, "train.forget_batch": 16, "train.retain_batch": 16}
    assert not Path("s").exists()


def test_a_file_may_say_it_all(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "defaults: [unlearn, _self_]\nseed: 1\nforget:\n  seed: ${seed}\nhydra:\n  sweeper:\n    params:\n"
        "      loss: npo,kl_ga\n      sweep.trials: 3\n"
        "      sweep.report_seeds: [2, 3]\n      sweep.fixed: [kl_ga]\n"
        "      npo:train.lr: tag(log,interval(1e-5,1e-3))\n"
    )
    planned = plan("out=s", file=file)
    assert (planned.settings.report_seeds, planned.settings.fixed) == ((2, 3), ("kl_ga",))
    assert (planned.num_trials, planned.num_reports, planned.seed) == (4, 4, 1)
    assert planned.methods[0].configured({"seed": 3}).forget.seed == 3  # another world
    assert plan("sweep.trials=2", "npo:train.lr=choice(1e-4,2e-4)", "out=s", file=file).num_trials == 3


def test_a_method_of_a_file_is_left_out_on_the_command_line_with_its_ranges(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "defaults: [unlearn, _self_]\nhydra:\n  sweeper:\n    params:\n      loss: npo,kl_ga,simnpo\n"
        "      sweep.trials: 2\n      sweep.fixed: [simnpo]\n      train.lr: choice(1e-4,1e-3)\n"
        "      npo:loss.beta: choice(0.1,0.5)\n      npo_:loss.beta: choice(0.1,0.5)\n"
    )
    with pytest.raises(UserError, match=r"`npo_:loss\.beta.* is for a method that is not in the sweep"):
        plan("loss=kl_ga", "out=s", file=file)
    file.write_text(file.read_text().replace("      npo_:loss.beta: choice(0.1,0.5)\n", ""))
    assert [method.name for method in plan("loss=kl_ga", "out=s", file=file).methods] == ["kl_ga"]
    with pytest.raises(UserError, match="is for a method that is not in the sweep"):
        plan("loss=kl_ga", "npo:loss.beta=choice(1,2)", "out=s", file=file)


def test_one_method_of_a_file_may_be_left_with_all_that_the_file_says_of_it(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "defaults: [unlearn, _self_]\nhydra:\n  sweeper:\n    params:\n      loss: npo,kl_ga\n"
        "      train.lr: choice(1e-4,1e-3)\n      npo:loss.beta: 0.5\n      kl_ga:loss.forget_weight: 0.2\n"
    )
    of_file = plan("loss=npo,kl_ga", "sweep.trials=2", "out=s", file=file).methods[0]
    alone = plan("loss=npo", "sweep.trials=2", "out=s", file=file).methods[0]
    assert (alone.name, alone.configured({}).loss) == ("npo", of_file.configured({}).loss)
    assert alone.configured({}).loss.beta == 0.5


def test_the_runs_of_a_report_have_a_directory_each_however_long_the_name_of_the_method_is():
    assert len({directory_name("0-best_" + "x" * 200, f"_seed={seed}") for seed in (1, 2)}) == 2


def test_the_report_may_read_other_files_with_quotes_that_a_shell_took_away():
    own = ["loss=npo", LOG, "sweep.trials=1", "sweep.report_seeds=[1]", "retain.path=r.jsonl", "out=s"]
    for written in ("['forget.path=a b.jsonl',forget.limit=1]", "[forget.path=a b.jsonl,forget.limit=1]"):
        planned = plan(*own, "forget.path=f.jsonl", f"sweep.report_overrides={written}")
        changed = planned.methods[0].configured(report_changes(planned.settings))
        assert (changed.forget.path, changed.forget.limit) == ("a b.jsonl", 1)


def test_a_setting_of_one_method_alone_is_in_its_trials_and_is_no_range():
    planned = plan("loss=npo,kl_ga", LOG, "npo:loss.beta=0.5", "sweep.trials=2", "out=s")
    assert [method.name for method in planned.methods] == ["npo", "kl_ga"]
    assert [[one.key for one in method.ranges] for method in planned.methods] == [["train.lr"]] * 2
    assert planned.methods[0].configured({"train.lr": 1e-3}).loss.beta == 0.5
    own = ["loss=npo,kl_ga", LOG, "kl_ga:train.lr=1e-3", "sweep.trials=2", "out=s"]
    fixed = plan(*own, "sweep.fixed=[kl_ga]")
    assert fixed.methods[1].configured({}).train.lr == 1e-3
    with pytest.raises(UserError, match="unequal budgets: `kl_ga` has no range"):
        plan(*own)


def test_a_setting_of_one_method_is_no_part_of_the_names_of_methods():
    own = ["train.micro_batch=4", "npo:train.micro_batch=2"]
    planned = plan("loss=npo,kl_ga", LOG, *own, "sweep.trials=2", "out=s")
    assert [method.name for method in planned.methods] == ["npo", "kl_ga"]
    assert [method.configured({}).train.micro_batch for method in planned.methods] == [2, 4]


def test_without_a_range_a_sweep_is_what_it_was():
    assert isinstance(plan("loss=npo,kl_ga", "train.lr=choice(1e-4,1e-3)", "out=s"), launch.PlannedSweep)


def test_a_reference_on_the_command_line_is_another_in_each_run():
    planned = plan(LOG, "forget.seed=${seed}", "sweep.trials=1", "out=s")
    assert planned.methods[0].configured({"seed": 7}).forget.seed == 7


BAD = {
    "no trials": (["train.lr=interval(0,1)"], r"`sweep.trials` does not say how often"),
    "unknown key": (
        [*SEARCH, "loss.betta=choice(1,2)"],
        r"`loss.betta` is searched, and `npo` has no such key",
    ),
    "of one method": (
        ["loss=npo,kl_ga", "loss.beta=choice(1,2)", "sweep.trials=2"],
        "`kl_ga` has no such key",
    ),
    "empty": (["train.lr=interval(1e-3,1e-5)", "sweep.trials=2"], "is empty"),
    "log of 0": (["train.lr=tag(log,interval(0,1))", "sweep.trials=2"], "begins above 0"),
    "impossible": (["train.lr=interval(-1,1)", "sweep.trials=2"], r"`train.lr` must be > 0"),
    "no type": (["train.lr=choice(a,b)", "sweep.trials=2"], r"`train.lr` must be a number"),
    "a section": (["loss=choice(npo,kl_ga)", "sweep.trials=2"], "is a section or a list"),
    "the seed": (["seed=choice(1,2)", "sweep.trials=2"], "`seed` cannot be searched"),
    "several seeds": (["seed=1,2", LOG, "sweep.trials=2"], "`seed` has several"),
    "the budget": (["train.steps=choice(10,20)", "sweep.trials=2"], "is the budget of a trial"),
    "unequal steps": ([*SEARCH, "train.steps=5,6"], "unequal budgets: `train.steps` is 5"),
    "nothing to search": (
        ["loss=npo,kl_ga", "npo:loss.beta=choice(1,2)", "sweep.trials=2"],
        "unequal budgets: `kl_ga` has no range",
    ),
    "too few settings": (["train.lr=choice(1e-4,1e-3)", "sweep.trials=3"], "2 different settings"),
    "unequal grids": (
        [
            "loss=npo,kl_ga",
            "train.lr=choice(1e-4,1e-3)",
            "npo:loss.beta=choice(1,2)",
            "sweep.sampler=grid",
            "sweep.trials=4",
        ],
        "the grid of `kl_ga` has 2 combinations",
    ),
    "another method": (
        ["loss=npo,kl_ga", LOG, "npa:loss.beta=choice(1,2)", "sweep.trials=2"],
        "`npa:loss.beta",
    ),
    "fixed stranger": ([*SEARCH, "sweep.fixed=[mari]"], "`sweep.fixed` names `mari`"),
    "reported on the search": (
        [*SEARCH, "seed=1", "sweep.report_seeds=[1,2]"],
        "on which the settings are chosen",
    ),
    "no override": (
        [*SEARCH, "sweep.report_seeds=[1]", "sweep.report_overrides=[forget]"],
        "is no KEY=VALUE",
    ),
    "a method twice": (
        ["loss=npo,npo", LOG, "sweep.trials=2"],
        "two runs of the sweep are the same: `loss=npo",
    ),
    "a range that cannot be read": (
        ["train.max_grad_norm=choice(null,1)", "sweep.trials=2"],
        r"cannot read the range of `train.max_grad_norm=choice\(null,1\)`",
    ),
    "unknown override": (
        [*SEARCH, "sweep.report_seeds=[1]", "sweep.report_overrides=['forget.peeple=3']"],
        "unknown config key `forget.peeple`",
    ),
    "an interval of whole numbers": (
        ["loss=npo", "train.warmup_steps=interval(0,4)", "sweep.trials=2"],
        "`train.warmup_steps` takes whole numbers, and the interval 0 to 4 holds others",
    ),
    "an override of what is searched": (
        [*SEARCH, "sweep.report_seeds=[1]", "sweep.report_overrides=[loss.beta=3]"],
        "cannot change `loss.beta`",
    ),
    "unknown steering": ([*SEARCH, "sweep.trails=3"], "unknown config key `sweep.trails`"),
    "an unknown tag": (["train.lr=tag(lgo,interval(1,2))", "sweep.trials=2"], "no range has the tag `lgo`"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_search_that_makes_no_sense_is_refused_before_anything_is_written(case):
    overrides, told = BAD[case]
    with pytest.raises(UserError, match=told) as refused:
        plan(*overrides, "out=s")
    assert refused.value.hint
    assert not Path("s").exists()


def test_an_evaluation_has_nothing_to_search():
    with pytest.raises(UserError, match="trains nothing"):
        launch.plan(
            Experiment("evaluate", ["model.path=x", "metrics.min_k=interval(0.1,0.5)", "sweep.trials=2"])
        )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    root = tmp_path_factory.mktemp("searched")
    with contextlib.chdir(root):
        return root, launch.search(measure, plan(*SEARCH, "sweep.report_seeds=[1,2]"), AIM)


@pytest.fixture
def found(searched, tmp_path):
    """A search that has ended, in `s`."""
    shutil.copytree(searched[0] / "s", tmp_path / "s")
    return searched[1]


def test_every_method_gets_its_trials_and_its_best_runs_again_on_other_seeds(found):
    assert [(t.method, t.number) for t in found.trials] == [(m, n) for n in range(3) for m in range(2)]
    for method in range(2):
        own = [t for t in found.trials if t.method == method]
        chosen = min(own, key=lambda t: t.cost)
        reports = [r for r in found.reports if r.method == method]
        assert [(r.seed, r.result["seed"]) for r in reports] == [(1, 1), (2, 2)]
        assert all(r.result["lr"] == chosen.settings["train.lr"] for r in reports)
    told = json.loads(Path("s/trials.json").read_text())
    assert [t["settings"] for t in told["trials"]] == [t.settings for t in found.trials]
    command = Run(Path("s") / found.reports[0].run).about()["command"]
    assert command[:3] == ["mari", "unlearn", "loss=npo"]
    assert "seed=1" in command


@pytest.mark.parametrize("place", ["1-1", "0-best"])
def test_a_search_that_was_killed_goes_on_to_the_same_trials(place, found, tmp_path):
    """A process of its own, killed with SIGKILL inside of a run."""
    Path("again").mkdir()
    Path("again/kill").write_text(place)
    os.chdir("again")
    if (child := os.fork()) == 0:
        try:
            launch.search(measure, plan(*SEARCH, "sweep.report_seeds=[1,2]"), AIM)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    Path("kill").unlink()
    again = launch.search(measure, launch.take_up(Path("s")), AIM)
    assert again.trials == found.trials
    assert [r.result["lr"] for r in again.reports] == [r.result["lr"] for r in found.reports]
    finished = Path("s/trials.json").stat().st_mtime_ns
    assert launch.search(measure, launch.take_up(Path("s")), AIM).trials == found.trials  # nothing is left
    assert Path("s/trials.json").stat().st_mtime_ns == finished


def test_joblib_has_the_same_trials(found):
    planned = plan(*SEARCH, "out=t", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    again = launch.search(measure, planned, AIM)
    assert [(t.settings, t.value) for t in again.trials] == [(t.settings, t.value) for t in found.trials]


def test_a_trial_that_fails_counts_as_one_and_the_others_go_on():
    Path("burn").write_text("0-1")
    found = launch.search(measure, plan(*SEARCH, "sweep.report_seeds=[1]"), AIM)
    burnt = [t for t in found.trials if t.failed]
    assert searching.failures(found) == [f"{burnt[0].run} failed: RuntimeError: the disk caught fire"]
    assert [(t.method, t.number, t.failed) for t in burnt] == [(0, 1, "RuntimeError: the disk caught fire")]
    assert len(found.trials) == 6
    assert len(found.reports) == 2


def test_a_table_has_the_settings_as_they_are_typed():
    planned = plan("loss=npo", "loss.length_normalised=choice(true,false)", "sweep.trials=2", "out=s")
    trials = [Trial(0, n, {"x": value}, str(n)) for n, value in enumerate((True, None, 1e-5))]
    assert [row[2] for row in searching.of_trials(planned, trials, AIM).rows] == ["true", "null", "1e-05"]


def test_an_aim_that_no_run_measures_ends_the_search_after_its_first_round():
    with pytest.raises(UserError, match="no run measures `facts/unique_recall`") as refused:
        launch.search(measure, plan(*SEARCH), Aim("facts/unique_recall", "gold"))
    assert refused.value.hint == "choose another: `sweep.aim=…`"
    with pytest.raises(UserError, match="no run measures `facts/unique_recall`"):  # and so when it goes on
        launch.search(measure, launch.take_up(Path("s")), Aim("facts/unique_recall", "gold"))
    with pytest.raises(UserError, match="no run measures `distance_to_gold/kept_side`") as refused:
        launch.search(measure, plan(*SEARCH, "out=t"), Aim("distance_to_gold/kept_side", "down"))
    assert refused.value.hint == "choose another: `sweep.aim=distance_to_gold`"


def test_a_search_is_not_begun_where_another_is(found):
    with pytest.raises(UserError, match="`s` exists") as refused:
        plan(*SEARCH)
    assert "`mari sweep --resume s`" in refused.value.hint


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (
            "s/trials.json",
            lambda text: text.replace("0-0_npo", "0-0_other"),
            "holds trials of another search",
        ),
        ("s/trials.json", lambda text: text[:40], "is damaged"),
        ("s/jobs/0/config.yaml", lambda text: text + "#", "is not what sweep `s` was begun with"),
        ("s/sweep.json", lambda text: text.replace('"ranges"', '"rangs"'), "is damaged"),
        ("s/sweep.json", lambda text: text.replace(optuna.__version__, "1.0"), r"optuna \(was 1.0"),
    ],
)
def test_a_search_of_which_something_has_changed_does_not_go_on(file, change, told, found):
    path = Path(file)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=told):
        launch.search(measure, launch.take_up(Path("s")), AIM)


def test_submitit_composes_for_a_search():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    planned = plan(*SEARCH, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    assert planned.launcher == ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")


def test_optuna_is_not_loaded_before_the_first_trial():
    code = (
        "import sys\nfrom mari_cli import launch\n"
        f"launch.plan(launch.Experiment('unlearn', {SEARCH!r}))\n"
        "assert 'optuna' not in sys.modules and 'torch' not in sys.modules\n"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.monotonic() - began < 120
