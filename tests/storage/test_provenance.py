"""Environment and hashes: what a result depends on, and nothing about who ran it."""

import getpass
import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import mari_cli
from mari_cli.storage.environment import describe_environment
from mari_cli.storage.hashing import content_hash, directory_hash, file_hash


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_environment_names_versions_and_device_but_no_host_or_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARI_TEST_SECRET", "a-secret-of-the-environment")
    found = describe_environment(device={"device": "cpu"})
    assert found["mari"] == mari_cli.__version__
    assert {"torch", "transformers", "numpy"} <= set(found["packages"])
    assert found["device"] == {"device": "cpu"}
    assert found["git"] is None
    assert set(found) == {"python", "platform", "cpu_count", "mari", "packages", "git", "device"}
    assert "a-secret-of-the-environment" not in json.dumps(found)
    assert not {socket.gethostname(), getpass.getuser()} & set(found["platform"].split("-"))


def test_the_commit_of_the_current_project_is_named_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init")
    assert describe_environment()["git"] is None  # no commit yet
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "untracked.txt").touch()
    assert describe_environment()["git"] == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.txt").write_text("2")
    assert describe_environment()["git"]["dirty"] is True


def test_the_environment_is_quiet_where_git_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert describe_environment()["git"] is None
    assert capfd.readouterr() == ("", "")


def test_a_run_can_be_handled_with_the_standard_library_alone() -> None:
    project = Path(mari_cli.__file__).parents[1]
    without_site_packages = [sys.executable, "-S", "-c", "import mari_cli.storage.run"]
    done = subprocess.run(without_site_packages, cwd=project, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_content_hash_ignores_the_order_of_keys_only() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": [1, 2]}) != content_hash({"a": [2, 1]})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})
    assert content_hash("é") == hashlib.sha256('"é"'.encode()).hexdigest()


def test_a_file_hash_is_the_sha256_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_a_directory_hash_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    def fill(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return directory_hash(tmp_path / name)

    first = fill("first", {"a": "1", "sub/b": "2"})
    assert fill("same", {"sub/b": "2", "a": "1"}) == first
    assert fill("content", {"a": "1", "sub/b": "3"}) != first
    assert fill("name", {"a": "1", "sub/c": "2"}) != first
    assert fill("moved", {"a": "1", "b": "2"}) != first
