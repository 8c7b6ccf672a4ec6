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


def _answers(endpoint: str) -> bool:
    """Whether anything comes back from ``endpoint``, a refusal included."""
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
