"""Composing the configuration of a run or of a sweep, and starting it. Only this package imports Hydra.

All other code gets the dataclasses of ``mari_cli.config``, never a DictConfig. An exception of a task passes
through this package unchanged.
"""

from mari_cli.launch.begin import plan, take_up
from mari_cli.launch.combinations import is_of_launcher
from mari_cli.launch.compose import complete, compose, configured, show
from mari_cli.launch.experiment import Experiment, implied_choices
from mari_cli.launch.groups import Option, options
from mari_cli.launch.lost_jobs import Failed
from mari_cli.launch.parse import parse
from mari_cli.launch.run import Interrupted, interruptible, prepare, resume, run
from mari_cli.launch.saved_config import TASKS, load_run_config
from mari_cli.launch.search import PlannedSearch, Report, Searched, search
from mari_cli.launch.session import session
from mari_cli.launch.sweep import PlannedSweep, SweepJob, sweep
