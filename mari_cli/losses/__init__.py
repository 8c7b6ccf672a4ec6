"""The losses that unlearning minimises. Each loss is one file here; its import below registers it."""

from mari_cli.losses import mari, ascent, preference, simnpo, rmu, undial  # noqa: F401, I001
from mari_cli.losses import wga, satimp, ceu, unilogit, jensun, pdu, altpo, task_vector, repselect  # noqa: F401
