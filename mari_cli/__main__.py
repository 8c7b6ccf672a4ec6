"""Run the command `mari` for `python -m mari_cli`."""

from mari_cli.cli import main

if __name__ == "__main__":
    main()
