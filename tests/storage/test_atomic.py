"""A write that fails leaves what was there before; a limit on file size stands in for a full disk."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mari_cli.errors import UserError
from mari_cli.storage.atomic import (
    atomic_directory,
    atomic_write_bytes,
    atomic_write_text,
    recover,
    retold_disk_errors,
)
from mari_cli.storage.json_files import atomic_write_json
from mari_cli.storage.room_on_disk import check_disk


@contextmanager
def no_file_longer_than(limit: int) -> Iterator[None]:
    """Writes go on up to ``limit`` bytes and fail there (Python ignores SIGXFSZ), as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_file_is_written_with_its_directories(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a" / "b.txt", "né\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "né\n".encode()
    assert names(tmp_path / "a") == ["b.txt"]


def test_a_write_that_fails_midway_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    atomic_write_text(path, "old")
    with no_file_longer_than(1000), pytest.raises(UserError) as refused:
        atomic_write_bytes(path, b"x" * 10_000)
    assert str(refused.value) == f"cannot write `{path}`: file too large"
    assert refused.value.hint is not None
    assert "free some space" in refused.value.hint
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_full_disk_is_told_as_the_users_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="no space left on device"),
        retold_disk_errors(tmp_path),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_another_error_of_the_system_is_not_retold(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), retold_disk_errors(tmp_path):
        (tmp_path / "nowhere").read_text()


def test_text_that_cannot_be_encoded_leaves_the_old_content(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write_text(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "old"


def test_json_stays_standard_where_numbers_are_not_finite(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"a": [float("nan"), (float("inf"), 1.5)], "b": "NaN"})
    compact = "".join((tmp_path / "a.json").read_text().split())
    assert compact == '{"a":[null,[null,1.5]],"b":"NaN"}'


def test_a_directory_appears_once_it_is_whole(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "deep" / "checkpoint") as scratch:
        (scratch / "weights").mkdir()
        (scratch / "weights" / "a.bin").write_bytes(b"abc")
        assert not (tmp_path / "deep" / "checkpoint").exists()
    assert (tmp_path / "deep" / "checkpoint" / "weights" / "a.bin").read_bytes() == b"abc"
    assert names(tmp_path / "deep") == ["checkpoint"]


def fill_and_fail(path: Path) -> None:
    with atomic_directory(path) as scratch:
        (scratch / "half").write_text("half")
        raise KeyboardInterrupt


def test_a_directory_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill_and_fail(tmp_path / "checkpoint")
    assert names(tmp_path) == []


def test_a_directory_that_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError), atomic_directory(tmp_path / "there"):
        pass
    assert names(tmp_path) == ["there"]


def test_a_directory_that_appears_meanwhile_is_refused(tmp_path: Path) -> None:
    def two_at_once() -> None:
        with atomic_directory(tmp_path / "there") as scratch:
            (scratch / "ours").touch()
            atomic_write_text(tmp_path / "there" / "theirs", "")

    with pytest.raises(OSError, match=r"not empty|exists") as refused:
        two_at_once()
    assert refused.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    assert names(tmp_path / "there") == ["theirs"]
    assert names(tmp_path) == ["there"]


def test_what_a_kill_left_is_taken_away(tmp_path: Path) -> None:
    for name in ("checkpoint", ".tmp-1a"):
        atomic_write_text(tmp_path / name / "content", name)
    atomic_write_text(tmp_path / ".tmp-2b", "half a file")
    recover(tmp_path)
    assert names(tmp_path) == ["checkpoint"]
    assert (tmp_path / "checkpoint" / "content").read_text() == "checkpoint"


def test_too_little_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there", 1)
    with pytest.raises(UserError) as refused:
        check_disk(tmp_path / "not" / "there", 2**60)
    message = str(refused.value)
    assert message.startswith(f"not enough disk space: `{tmp_path}/not/there` needs 1073741824.0 GiB, ")
    assert message.endswith("iB free")
    assert refused.value.hint is not None
