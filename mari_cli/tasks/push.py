"""`mari push`: the checkpoint of a run, with its card, as one commit to a repository of the Hugging Face hub.

Everything is checked before anything is sent. No torch: files go as they are.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mari_cli import hub
from mari_cli.errors import UserError, counted, shell_path
from mari_cli.places import is_there
from mari_cli.storage.hashing import file_hash, git_blob_hash
from mari_cli.storage.json_files import read_object
from mari_cli.storage.layout import CHECKPOINT
from mari_cli.storage.manifest import changes, files_of
from mari_cli.tasks.models_of_run import require_checkpoint

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

CARD, ADAPTER = "README.md", "adapter_config.json"
OWN_OF_HUB = (".gitattributes",)
"""What the hub itself puts into a repository."""
LOGIN = "`hf auth login` stores one, or set HF_TOKEN; it needs the right to write"


@dataclass(frozen=True)
class Parcel:
    """What is sent, and where to."""

    run: Path
    repo: str
    files: Mapping[str, Path]
    """By their names in the repository."""
    notes: list[str]

    def size(self, name: str) -> int:
        return self.files[name].stat().st_size


def pack(run: Path, repo: str, *, unverified: bool = False) -> Parcel:
    """The checkpoint of ``run`` for ``repo``, `USER/NAME` or `NAME`.

    Raises UserError where the run is not finished, has no model, or, unless ``unverified``, is not what its
    manifest says.
    """
    _check_name(repo)
    manifest = require_checkpoint(run)
    notes = []
    if changed := changes(run, manifest):
        told = "; ".join(f"`{name}` {why}" for name, why in list(changed.items())[:3])
        if not unverified:
            raise UserError(
                f"`{run}` is not what its manifest says: {told}",
                f"`mari verify {shell_path(run)}` lists what has changed; put it back, or say `--unverified`",
            )
        notes.append(f"pushed although {counted(len(changed), 'file')} are not as the run wrote them: {told}")
    checkpoint = run / CHECKPOINT
    files = {name: checkpoint / name for name in files_of(checkpoint, ())}
    if CARD not in files:
        notes.append(f"the checkpoint has no `{CARD}`: the version of mari that made it wrote none")
    if ADAPTER in files:
        base = str(read_object(files[ADAPTER]).get("base_model_name_or_path"))
        if base.startswith(("/", "~", ".")) or is_there(base):
            notes.append(
                f"these are adapters, and `{ADAPTER}` says that their base is `{base}`, a folder here"
            )
    return Parcel(run, repo, files, notes)


def push(
    parcel: Parcel, *, public: bool = False, revision: str | None = None, overwrite: bool = False
) -> tuple[str, list[str]]:
    """Send ``parcel`` and return the address of the commit, and notes.

    A repository that is not there is made, private unless ``public``. Raises UserError where there is no
    token, where the hub refuses, where the repository is public and ``public`` was not said, and where it
    holds something else and ``overwrite`` was not said: what it holds is then replaced.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _told_as_errors(parcel.repo) as api:
        there = _existing(api, parcel.repo)
        notes = [] if there is None else _check_visibility(there, public=public)
        at = revision
        if there is not None and revision is not None and not api.revision_exists(there.id, revision):
            at = None  # a new branch begins as the main one is
        held = {} if there is None else _held(api, there.id, at)
        others = _others(held, parcel)
        if others and not overwrite:
            raise UserError(
                f"`{parcel.repo}` holds something else already: {_listed(others)}",
                "choose another name, or `--overwrite` replaces what it holds (its history keeps it)",
            )
        repo = api.create_repo(parcel.repo, private=not public).repo_id if there is None else there.id
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        gone = [CommitOperationDelete(name) for name in others if name not in parcel.files]
        adds = [CommitOperationAdd(name, path) for name, path in parcel.files.items()]
        commit = api.create_commit(
            repo,
            [*gone, *adds],
            commit_message=f"Upload the model of a run of mari ({parcel.run.resolve().name})",
            revision=revision,
        )
    return str(commit.commit_url), notes


# -- checks --------------------------------------------------------------------------------------------------


def _check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # it is documented

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(
            f"`{repo}` is no name of a repository", "as `USER/NAME`: letters, digits, `-`, `_` and `.`"
        ) from error


def _existing(api: "HfApi", repo: str) -> "ModelInfo | None":
    """What the hub knows of the repository; None: there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    whole = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
    try:
        return api.model_info(whole)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:  # the hub says so of a token that it does not know, too
            api.whoami()
        return None


def _check_visibility(there: "ModelInfo", *, public: bool) -> list[str]:
    if not there.private and not public:
        raise UserError(
            f"`{there.id}` is public: everybody could read what is pushed there",
            "say `--public` if that is meant, or choose another name",
        )
    return [f"`{there.id}` was private, and stays so"] if there.private and public else []


def _held(api: "HfApi", repo: str, revision: str | None) -> dict[str, str]:
    """The files of a repository with their hashes: of a large one SHA-256, of others git's."""
    from huggingface_hub.hf_api import RepoFile

    return {
        file.path: file.lfs.sha256 if file.lfs else file.blob_id
        for file in api.list_repo_tree(repo, recursive=True, revision=revision)
        if isinstance(file, RepoFile) and file.path not in OWN_OF_HUB
    }


def _others(held: Mapping[str, str], parcel: Parcel) -> list[str]:
    """Files of a repository that are not what is sent."""
    return [
        name
        for name, sha in held.items()
        if name not in parcel.files
        or sha not in (file_hash(parcel.files[name]), git_blob_hash(parcel.files[name]))
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


# -- the hub's own words -------------------------------------------------------------------------------------


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UserError("there is no token for the hub here", LOGIN)
    if not re.fullmatch(r"[\x21-\x7e]+", token):  # what sends it would print it
        raise UserError("the token for the hub has characters that none has", LOGIN)
    return token


@contextmanager
def _told_as_errors(repo: str) -> Iterator["HfApi"]:
    """The hub's interface; what it refuses is told in a line, in which no token stands."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined] # its base
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # it is documented

    token = _token()
    hub.require_answer()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield HfApi(token=token, library_name="mari")
    except HfHubHTTPError as error:
        status = error.response.status_code
        what = {401: "the hub does not know the token", 403: f"the token may not write to `{repo}`"}.get(
            status
        )
        said = (error.server_message or str(error)).replace(token, "…")
        raise UserError(
            f"{what or f'the hub refuses with status {status}'}: {said}",
            LOGIN if what else f"{constants.ENDPOINT} said so; nothing was committed",
        ) from None
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = (str(error) or type(error).__name__).replace(token, "…")
        raise UserError(
            f"the upload to {constants.ENDPOINT} broke off: {said}", "try again: nothing was committed"
        ) from None
