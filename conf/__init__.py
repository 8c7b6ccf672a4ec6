"""The building blocks of a run, inside the wheel as `mari_cli.conf`; Hydra finds them by that name."""
