"""Signing of a file with the user's key, and the check of a signature, both with `model-signing`.

The signature is a Sigstore bundle over the SHA-256 of the file, made with an elliptic-curve key (P-256, P-384
or P-521) in PEM. `model-signing` does all cryptography.
"""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mari_cli.errors import UserError, first_line
from mari_cli.places import place

MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out KEY; openssl ec -in KEY -pubout -out KEY.pub"


class NotSigned(Exception):
    """The signature does not belong to the file and the key; the message gives the reason."""


def check_key(key: str | Path) -> Path:
    """The path of the private key ``key``. Raises UserError where it cannot be read or cannot sign."""
    path = _require_file(key, "the signing key")
    signing = _library().signing
    with _explain_key(path, "private"):
        signing.Config().use_elliptic_key_signer(private_key=path)
    return path


def write_signature(file: Path, signature: Path, key: Path) -> None:
    """Sign ``file`` with the private ``key`` and write ``signature``."""
    library = _library()
    with _explain_key(key, "private"):
        signer = library.signing.Config().use_elliptic_key_signer(private_key=key)
    scratch = signature.with_name(f".tmp-{signature.name}")
    signer.sign(file, scratch)
    os.replace(scratch, signature)


def check_signature(file: Path, signature: Path, key: str | Path) -> None:
    """Raise NotSigned where ``signature`` does not belong to ``file`` and to the public ``key``. Raises
    UserError where ``key`` cannot be read."""
    path = _require_file(key, "the public key")
    library = _library()
    with _explain_key(path, "public"):
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=path)
    from cryptography.exceptions import InvalidSignature
    from google.protobuf.json_format import ParseError

    unsound = (InvalidSignature, ParseError, ValueError, LookupError, TypeError, AttributeError)
    try:
        with contextlib.redirect_stdout(None):  # the library prints warnings about old formats
            verifier.verify(file, signature)
    except unsound as error:
        raise NotSigned(first_line(error)) from error
    envelope = json.loads(signature.read_bytes())["dsseEnvelope"]
    for text in (envelope["payload"], *(one["sig"] for one in envelope["signatures"])):
        if base64.b64encode(base64.b64decode(text)).decode() != text:  # unused bits of base64 have changed
            raise NotSigned("its base64 is not as it was written")


def _library() -> Any:
    if find_spec("model_signing") is None:
        raise UserError(
            "signatures need the package `model-signing`", "`pip install 'mari-cli[sign]'` installs it"
        )
    import model_signing

    return model_signing


def _require_file(key: str | Path, what: str) -> Path:
    path = place(key)
    if not path.is_file():
        raise UserError(f"{what} `{key}` is no file", f"a key pair is made by `{MAKE}`")
    return path


@contextlib.contextmanager
def _explain_key(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:  # no PEM, another kind of key, or a password
        raise UserError(
            f"`{path}` is no {kind} elliptic-curve key in PEM without a password",
            f"a key pair is made by `{MAKE}`; `KEY` signs, and `KEY.pub` checks",
        ) from error
