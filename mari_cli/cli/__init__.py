"""The command `mari`. No module here imports more than typer at its top, so `mari --help` answers at once."""

from mari_cli.cli.app import main

__all__ = ["main"]
