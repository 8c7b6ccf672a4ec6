"""The check, once and in seconds, whether the Hugging Face hub can be reached.

If the hub does not answer, its libraries are set to use only earlier downloads, as `HF_HUB_OFFLINE=1` does.
Otherwise each library would try again for most of a minute, and print every try.
"""

import logging
import os
import ssl
import sys
import threading
from functools import lru_cache
from pathlib import Path

from mari_cli.errors import UserError
from mari_cli.places import is_there
from mari_cli.progress import say

SECONDS = 3.0
"""The time limit for an answer of the hub."""


@lru_cache(maxsize=1)
def settle() -> None:
    """Silence the hub's libraries, and set them to earlier downloads if the hub does not answer."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return
    say(f"{constants.ENDPOINT} does not answer: what was downloaded before is read")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for a later import of `datasets`, and for other processes
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def require_model(path: str | None) -> None:
    """Raise UserError for a model that is not on this machine, if the hub does not answer. The check comes
    before the import of torch, so that the user sees a typo within seconds."""
    from huggingface_hub import constants

    if path is None or path.startswith(("/", ".", "~")) or is_there(path):
        return
    downloaded = Path(constants.HF_HUB_CACHE) / f"models--{path.replace('/', '--')}"
    if downloaded.exists() or (not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)):
        return
    told = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
    raise UserError(
        f"`{path}` is no local directory, and cannot be loaded from the hub: {told}",
        "check the name and the connection, or give a local directory",
    )


def require_answer() -> None:
    """Refuse to go on where the hub cannot be reached."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, and this needs the hub", "unset it")
    if not _answers(constants.ENDPOINT):
        raise UserError(
            f"{constants.ENDPOINT} does not answer", "check the connection, and HF_ENDPOINT where it is set"
        )


@lru_cache
def _answers(endpoint: str) -> bool:
    """Whether ``endpoint`` answers, also with an error. The result is kept, because silence costs seconds."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    answered = []

    def ask() -> None:
        try:
            urlopen(Request(endpoint, method="HEAD"), timeout=SECONDS).close()
            answered.append(True)
        except HTTPError:  # an error of HTTP is an answer, too
            answered.append(True)
        except URLError as error:
            if isinstance(error.reason, ssl.SSLError):  # the hub's libraries may have other certificates
                answered.append(True)
        except (OSError, ValueError, HTTPException):
            pass

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name has no time limit
    asking.start()
    asking.join(SECONDS)
    return bool(answered)
