"""The only room that imports Hydra: it composes the configuration of a run, or of a sweep, and starts it.

Past it, code sees the dataclasses of ``mari_cli.config``: a task never meets a DictConfig, and whatever a
task raises comes out of here as it is.
"""

from mari_cli.launch.compose import complete, compose, configured, show
from mari_cli.launch.experiment import Experiment, implied_choices
from mari_cli.launch.groups import Option, options
from mari_cli.launch.parse import parse
from mari_cli.launch.run import Interrupted, interruptible, prepare, resume, run
from mari_cli.launch.saved_config import TASKS, load_run_config
from mari_cli.launch.session import session
from mari_cli.launch.sweep import Failed, PlannedSweep, SweepJob, is_of_launcher, plan, sweep, take_up
