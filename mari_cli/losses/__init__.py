"""What unlearning minimises. A loss is one file here, and one line below that makes it known."""

from mari_cli.losses import ascent, mari, preference

__all__ = ["ascent", "mari", "preference"]
