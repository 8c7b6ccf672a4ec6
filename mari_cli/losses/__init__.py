"""What unlearning minimises. A loss is one file here, and one line below that makes it known."""

from mari_cli.losses import mari  # isort: skip
from mari_cli.losses import ascent  # isort: skip
from mari_cli.losses import preference  # isort: skip
from mari_cli.losses import simnpo  # isort: skip
from mari_cli.losses import rmu  # isort: skip
from mari_cli.losses import undial  # isort: skip

__all__ = ["ascent", "mari", "preference", "rmu", "simnpo", "undial"]
