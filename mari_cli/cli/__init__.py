"""The command `mari`. Nothing heavier than typer at module level: `mari --help` answers in a blink."""

from mari_cli.cli.app import main

__all__ = ["main"]
