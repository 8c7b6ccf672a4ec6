"""What a full disk is called by libraries that tell of it in words alone."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise an OSError where safetensors or tokenizers met one: they tell of a full disk in words alone."""
    try:
        yield
    except Exception as error:  # of tokenizers it has no type of its own
        if isinstance(error, OSError):
            raise
        if (match := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
