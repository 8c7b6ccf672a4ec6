"""What every run finds out at its beginning, found out once in the process from which others are forked: the
schemas, the configuration of each command as the package has it, and the template of a report."""

from tiny import TINY

from mari_cli import launch
from mari_cli.report import page

launch.compose(launch.Experiment("unlearn", TINY))
page._template()
