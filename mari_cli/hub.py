"""The Hugging Face hub: asked once, in seconds, whether it can be reached.

Where it cannot, its libraries would each try again for most of a minute, and tell of every try. They are
switched to what was downloaded before, as `HF_HUB_OFFLINE=1` does.
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
"""How long the hub may take to answer."""


@lru_cache(maxsize=1)
def settle() -> None:
    """Before anything is read from the hub: silence its tries; go on without it where it does not answer."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return
    say(f"{constants.ENDPOINT} does not answer: what was downloaded before is read")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for `datasets`, if it is yet to be imported, and for other processes
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def require_model(path: str | None) -> None:
    """Refuse the name of a model that nothing can be read from: it is no place on this machine, it was not
    downloaded, and the hub does not answer. Asked before torch is loaded: a typo is told in seconds."""
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


@lru_cache
def _answers(endpoint: str) -> bool:
    """Whether anything comes back from ``endpoint``, a refusal included. Asked once: its silence takes
    seconds."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    answered = []

    def ask() -> None:
        try:
            urlopen(Request(endpoint, method="HEAD"), timeout=SECONDS).close()
            answered.append(True)
        except HTTPError:  # a refusal
            answered.append(True)
        except URLError as error:
            if isinstance(error.reason, ssl.SSLError):  # the libraries may know other certificates
                answered.append(True)
        except (OSError, ValueError, HTTPException):
            pass

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name knows no time limit
    asking.start()
    asking.join(SECONDS)
    return bool(answered)
