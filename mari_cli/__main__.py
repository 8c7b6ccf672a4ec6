"""`python -m mari_cli` is `mari`."""

from mari_cli.cli import main

if __name__ == "__main__":
    main()
