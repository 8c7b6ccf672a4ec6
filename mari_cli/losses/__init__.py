"""What unlearning minimises. A loss is one file of this folder, and its name below, which makes it known."""

from mari_cli.losses import mari, ascent, preference, simnpo, rmu, undial  # noqa: F401, I001
from mari_cli.losses import wga, satimp, ceu, unilogit, jensun, pdu, altpo, task_vector, repselect  # noqa: F401
