"""`mari push` against a hub on this machine: what arrives, what is refused, and that no token is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub, Repository, serving
from huggingface_hub import constants

from mari_cli import hub as hub_of_mari
from mari_cli.storage.run import Run

FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": bytes(range(256)) * 40,
    "README.md": b"---\ntags:\n- mari\n---\n\n# A model\n",
    "tokenizer.json": "{“ä”}".encode(),
}
ADAPTER = {
    "adapter_config.json": b'{"base_model_name_or_path": "/models/base"}',
    "adapter_model.safetensors": b"0" * 64,
    "base.json": b"{}",
    "README.md": FILES["README.md"],
}


def finished(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    run = Run.create(folder, "task: unlearn\n", command=["mari", "unlearn"], task="unlearn")
    (run.path / "checkpoint").mkdir()
    for name, content in files.items():
        (run.path / "checkpoint" / name).write_bytes(content)
    run.finish({"task": "unlearn", "models": {}}, {"models": {}, "places": {}})
    return run.path


@pytest.fixture
def run(tmp_path) -> Path:
    return finished(tmp_path / "runs" / "npo")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Hub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub_of_mari._answers.cache_clear()
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        yield found


def test_a_run_becomes_one_commit_to_a_new_private_repository(mari, hub, run):
    said = mari("push", str(run), "me/forgetful")
    assert said.code == 0, said.err
    made = hub.repositories["me/forgetful"]
    assert made.private
    assert {name: made.branches["main"][name] for name in FILES} == FILES
    assert len([call for call in hub.calls if "/commit/" in call]) == 1
    assert said.out.splitlines()[-1] == f"{hub.url}/me/forgetful/commit/1"
    assert "model.safetensors" in said.out
    assert TOKEN not in said.out + said.err


def test_the_command_by_itself_reads_token_and_hub_from_the_environment(hub, run, tmp_path):
    told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mari_cli", "push", str(run), "forgetful", "--public"],
        env={**os.environ, **told, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not hub.repositories["me/forgetful"].private
    assert TOKEN not in done.stdout + done.stderr


def test_a_dry_run_lists_files_and_sizes_and_needs_no_hub(mari, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    said = mari("push", str(run), "me/forgetful", "--dry-run")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["file", *sorted(FILES), "4"]
    assert "10.0 KiB" in said.out


def test_the_same_again_is_taken_and_another_content_only_where_it_is_told_to_replace(
    mari, hub, run, tmp_path
):
    assert mari("push", str(run), "me/x").code == 0
    assert mari("push", str(run), "me/x").code == 0
    other = finished(tmp_path / "runs" / "other", {**FILES, "config.json": b"{}"})
    hub.repositories["me/x"].branches["main"]["pytorch_model.bin"] = b"old"
    said = mari("push", str(other), "me/x")
    assert said.code == 2
    assert "error: `me/x` holds something else already: `config.json`, `pytorch_model.bin`" in said.err
    assert hub.repositories["me/x"].branches["main"]["config.json"] == FILES["config.json"]
    assert mari("push", str(other), "me/x", "--overwrite").code == 0
    held = hub.repositories["me/x"].branches["main"]
    assert held["config.json"] == b"{}"
    assert "pytorch_model.bin" not in held
    assert ".gitattributes" in held


def test_a_branch_is_made_where_it_is_named(mari, hub, run):
    assert mari("push", str(run), "me/x", "--revision", "second").code == 0
    branches = hub.repositories["me/x"].branches
    assert "config.json" in branches["second"]
    assert "config.json" not in branches["main"]
    assert mari("push", str(run), "me/x", "--revision", "second").code == 0


def test_nothing_goes_to_a_public_repository_unasked(mari, hub, run):
    hub.repositories["me/x"] = Repository(private=False)
    said = mari("push", str(run), "me/x")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: `me/x` is public: everybody could read what is pushed there\n")
    assert hub.repositories["me/x"].branches == {"main": {}}
    assert mari("push", str(run), "me/x", "--public").code == 0


def test_of_a_run_with_adapters_these_are_pushed_and_their_base_is_told(mari, hub, tmp_path):
    run = finished(tmp_path / "lora", ADAPTER)
    said = mari("push", str(run), "me/lora")
    assert said.code == 0
    assert set(ADAPTER) <= set(hub.repositories["me/lora"].branches["main"])
    assert "says that their base is `/models/base`, a folder here" in said.err


def test_a_run_that_is_not_what_its_manifest_says_is_pushed_only_by_its_own_word(mari, hub, run):
    (run / "checkpoint" / "config.json").write_bytes(b"{}")
    said = mari("push", str(run), "me/x")
    assert (said.code, said.out) == (2, "")
    assert "is not what its manifest says: `checkpoint/config.json` has changed" in said.err
    assert hub.calls == []
    said = mari("push", str(run), "me/x", "--unverified")
    assert said.code == 0
    assert "note: pushed although 1 file are not" in said.err


def refusal(said) -> str:
    assert (said.code, said.out) == (2, "")
    error, hint = said.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("  hint: ")
    assert TOKEN not in said.err
    return error


def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(mari, hub, run, tmp_path, monkeypatch):
    Run.create(tmp_path / "begun", "task: unlearn\n", command=["mari"], task="unlearn")
    (tmp_path / "folder").mkdir()
    assert "is not finished" in refusal(mari("push", "begun", "me/x"))
    assert "is no run directory" in refusal(mari("push", "folder", "me/x"))
    assert "no run directory `nowhere`" in refusal(mari("push", "nowhere", "me/x"))
    for name in ("me/x/y", "me/ x", "a..b", ""):
        assert "is no name of a repository" in refusal(mari("push", str(run), name))
    monkeypatch.setenv("HF_TOKEN", "")
    said = mari("push", str(run), "me/x")
    assert refusal(said) == "error: there is no token for the hub here"
    assert "hf auth login" in said.err
    monkeypatch.setenv("HF_TOKEN", "hf_ä ö")
    assert "has characters that none has" in refusal(mari("push", str(run), "me/x"))
    assert hub.calls == []


def test_what_the_hub_refuses_is_told_in_a_line_without_the_token(mari, hub, run, monkeypatch):
    hub.forbidden = True
    assert "the token may not write to `me/x`" in refusal(mari("push", str(run), "me/x"))
    hub.forbidden, hub.breaks = False, "/commit/"
    assert "the hub refuses with status 400" in refusal(mari("push", str(run), "me/x"))
    hub.breaks = None
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    said = mari("push", str(run), "me/new")
    assert "the hub does not know the token" in refusal(said)
    assert "hf_another" not in said.err


def test_a_hub_that_is_not_there_is_told(mari, hub, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub_of_mari._answers.cache_clear()
    assert "http://127.0.0.1:9 does not answer" in refusal(mari("push", str(run), "me/x"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(mari("push", str(run), "me/x"))
