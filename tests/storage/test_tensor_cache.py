"""Tensors on disk are whole and theirs, or made anew."""

import resource
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mari_cli.errors import UserError
from mari_cli.storage import json_cache
from mari_cli.storage.tensor_cache import TensorSpec, cache_tensors, temporary_tensor

WANTED = {"states": TensorSpec((5, 3), torch.bfloat16), "sums": TensorSpec((4,), torch.float64)}
KEY = {"weights": "abc", "layer": None}


class Filler:
    """Fills with what it is given, and counts how often it was asked."""

    def __init__(self, start: int = 0) -> None:
        self.start, self.calls = start, 0

    def __call__(self, tensors: Mapping[str, Tensor]) -> None:
        self.calls += 1
        for tensor in tensors.values():
            assert not tensor.any()
            tensor.copy_(torch.arange(self.start, self.start + tensor.numel()).view(tensor.shape))


def files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.is_file() and file.name != "lock")


def test_what_was_filled_is_read_back_and_not_filled_again(tmp_path):
    fill = Filler()
    first = cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
    again = cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
    assert fill.calls == 1
    for tensors in (first, again):
        assert torch.equal(tensors["states"], torch.arange(15, dtype=torch.bfloat16).view(5, 3))
        assert torch.equal(tensors["sums"], torch.arange(4, dtype=torch.float64))
    assert [file.name for file in files(tmp_path)] == ["meta.json", "states.bin", "sums.bin"]
    assert sum(file.stat().st_size for file in files(tmp_path) if file.suffix == ".bin") == 15 * 2 + 4 * 8


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ({**KEY, "weights": "abd"}, WANTED),
        ({**KEY, "layer": 0}, WANTED),
        (KEY, {**WANTED, "sums": TensorSpec((4,), torch.float32)}),
        (KEY, {**WANTED, "states": TensorSpec((3, 5), torch.bfloat16)}),
    ],
)
def test_what_was_made_for_another_key_shape_or_type_is_not_used(key, wanted, tmp_path):
    cache_tensors(tmp_path, KEY, WANTED, Filler(), name="states")
    fill = Filler(7)
    assert cache_tensors(tmp_path, key, wanted, fill, name="states")["sums"][0] == 7
    assert fill.calls == 1


@pytest.mark.parametrize("name", ["meta.json", "states.bin", "sums.bin"])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_flipped_byte_is_detected_and_all_made_anew(name, place, tmp_path, capsys):
    cache_tensors(tmp_path, KEY, WANTED, Filler(), name="states")
    (path,) = tmp_path.rglob(name)
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    fill = Filler()
    tensors = cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
    assert fill.calls == 1
    assert torch.equal(tensors["sums"], torch.arange(4, dtype=torch.float64))
    assert "states: the cache in" in (said := capsys.readouterr().err)
    assert "is damaged and is made anew" in said
    cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
    assert fill.calls == 1


@pytest.mark.parametrize("name", ["meta.json", "states.bin"])
def test_a_missing_or_shortened_file_is_detected(name, tmp_path):
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])):
        cache_tensors(tmp_path, KEY, WANTED, Filler(), name="states")
        (path,) = tmp_path.rglob(name)
        damage(path)
        fill = Filler()
        cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
        assert fill.calls == 1


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_made_anew(tmp_path):
    for name in ("tensors", "meta.json", "states.bin"):
        cache_tensors(tmp_path, KEY, WANTED, Filler(), name="states")
        (path,) = tmp_path.rglob(name)
        if path.is_dir():
            shutil.rmtree(path)
            path.write_text("x")
        else:
            path.unlink()
            path.mkdir()
        fill = Filler()
        cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
        assert fill.calls == 1


@pytest.mark.parametrize("content", [b"", b"null", b"[" * 100_000, b'{"sha256": 1, "content": 2}', b"\xff"])
def test_a_damaged_value_is_told_and_made_anew(content, tmp_path, capsys):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    assert json_cache.read(path) is None
    assert "is damaged and is made anew" in capsys.readouterr().err
    assert json_cache.write(path, [1]) == [1]


def test_an_interrupted_writing_leaves_nothing_that_is_taken_for_whole(tmp_path):
    def interrupted(tensors: Mapping[str, Tensor]) -> None:
        tensors["states"].fill_(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_tensors(tmp_path, KEY, WANTED, interrupted, name="states")
    assert files(tmp_path) == []
    fill = Filler()
    cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
    assert fill.calls == 1


def test_what_a_killed_writing_left_is_cleaned_up(tmp_path):
    cache_tensors(tmp_path, KEY, WANTED, Filler(), name="states")
    (whole,) = tmp_path.rglob("tensors")
    whole.rename(whole.with_name(".tmp-0123"))  # killed before the last rename
    fill = Filler()
    cache_tensors(tmp_path, KEY, WANTED, fill, name="states")
    assert fill.calls == 1
    assert len(files(tmp_path)) == 3


def test_a_full_disk_is_told_before_anything_is_computed(tmp_path):
    fill = Filler()
    with pytest.raises(UserError, match="not enough disk space"):
        cache_tensors(tmp_path, KEY, {"states": TensorSpec((1 << 50, 8), torch.float64)}, fill, name="states")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a quota would
    try:
        with pytest.raises(UserError, match="file too large"):
            cache_tensors(tmp_path, KEY, {"states": TensorSpec((1000,), torch.float64)}, fill, name="states")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fill.calls == 0
    assert files(tmp_path) == []


def test_two_that_want_the_same_wait_for_one(tmp_path):
    calls = []

    def slow(tensors: Mapping[str, Tensor]) -> None:
        calls.append(threading.get_ident())
        time.sleep(0.2)
        tensors["sums"].fill_(1)

    runs = [
        threading.Thread(target=cache_tensors, args=(tmp_path, KEY, WANTED, slow), kwargs={"name": "states"})
        for _ in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(calls) == 1


def test_a_change_in_what_was_read_does_not_reach_the_file(tmp_path):
    cache_tensors(tmp_path, KEY, WANTED, Filler(), name="states")["sums"].zero_()
    fill = Filler()
    assert cache_tensors(tmp_path, KEY, WANTED, fill, name="states")["sums"][3] == 3
    assert fill.calls == 0


def test_a_tensor_without_entries_is_a_tensor(tmp_path):
    wanted = {"states": TensorSpec((0, 3), torch.float32)}
    for _ in range(2):
        assert cache_tensors(tmp_path, KEY, wanted, Filler(), name="states")["states"].shape == (0, 3)


def test_a_scratch_tensor_has_no_name_and_is_gone_with_itself(tmp_path):
    tensor = temporary_tensor(tmp_path / "cache", TensorSpec((3, 4), torch.bfloat16))
    tensor[1] = torch.arange(4).bfloat16()
    assert tensor[1].tolist() == [0, 1, 2, 3]
    assert list((tmp_path / "cache").iterdir()) == []
    mapped = f"{tmp_path}/cache/.scratch-"
    maps = Path("/proc/self/maps")
    if maps.exists():  # Linux
        assert mapped in maps.read_text()
        del tensor
        assert mapped not in maps.read_text()


def test_a_scratch_tensor_that_the_disk_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="not enough disk space"):
        temporary_tensor(tmp_path, TensorSpec((2**40, 2**10), torch.float32))
    assert list(tmp_path.iterdir()) == []
