"""`mari verify`: a byte that changed is found and named; what cannot be checked says so."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny import TINY

from mari_cli import launch
from mari_cli.data.corpora import load_corpora
from mari_cli.errors import UserError
from mari_cli.launch.saved_config import load_run_config
from mari_cli.storage.hashing import content_hash, file_hash
from mari_cli.storage.json_files import json_text
from mari_cli.storage.layout import MANIFEST, RESULT, SIGNATURE
from mari_cli.storage.manifest import files_of, read_manifest
from mari_cli.storage.signature import NotSigned, check_signature
from mari_cli.tasks.unlearn import unlearn
from mari_cli.tasks.verify import CheckVerdict, exit_code, verify

pytestmark = pytest.mark.smoke
CHANGES = 50


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache) -> Path:
    out = tmp_path_factory.mktemp("verify") / "run"
    words = [*TINY, f"out={out}", f"cache={cache}", "request.id=R-1,007", "request.note=of May, by post"]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", words)))
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def told(run: Path, **options) -> dict[str, CheckVerdict]:
    return {check.what: check.verdict for check in verify(run, **options)}


def test_a_run_as_it_was_written_holds(run):
    checks = verify(run)
    assert exit_code(checks) == 0
    assert {check.what for check in checks} == {"manifest.json", "files", "signature", "numbers", "report"}


def test_each_of_fifty_changes_of_one_byte_is_found_and_named(run):
    dice = random.Random(7)
    names = files_of(run, ())
    assert {MANIFEST, RESULT, "report.html", "checkpoint/model.safetensors", "run.json"} <= set(names)
    for number in range(CHANGES):
        name = names[number] if number < len(names) else dice.choice(names)
        path = run / name
        content = path.read_bytes()
        place = dice.randrange(len(content))
        other = (content[place] + dice.randrange(1, 256)) % 256
        path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
        checks = verify(run)
        assert exit_code(checks) == 1, (name, place, content[place], other)
        assert [check.what for check in checks if check.verdict is CheckVerdict.fails] == [name]
        path.write_bytes(content)
    assert exit_code(verify(run)) == 0


def test_what_is_missing_added_or_a_link_is_named(run):
    (run / "items.jsonl").unlink()
    (run / "checkpoint" / "more.py").write_text("print()")
    (run / "data.json").rename(run / "elsewhere")
    (run / "data.json").symlink_to("elsewhere")
    checks = {check.what: check.why for check in verify(run) if check.verdict is CheckVerdict.fails}
    assert checks == {
        "items.jsonl": "is missing",
        "checkpoint/more.py": "was added after the end of the run",
        "data.json": "is a link, and a run leaves none",
        "elsewhere": "was added after the end of the run",
    }


def test_the_card_of_the_model_is_covered_and_holds_ids_but_no_note_and_no_text(run):
    assert "checkpoint/README.md" in read_manifest(run)["files"]
    text = (run / "checkpoint" / "README.md").read_text()
    assert ModelCard(text).data.library_name == "transformers"
    assert "Asked for by `R-1` and `007`." in text
    assert "16 records were to be forgotten" in text
    assert "of May" not in text
    config = load_run_config(run)
    texts = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
    assert not any(record.text in text or str(record.prompt) in text for record in texts.forget)


def test_a_result_that_was_taken_away_is_named(run):
    (run / RESULT).unlink()
    assert told(run)[RESULT] is CheckVerdict.fails


def forged(run: Path, change) -> None:
    """Someone who can write makes the manifest anew, after ``change`` of what it says."""
    manifest = read_manifest(run)
    change(manifest)
    manifest["files"] = {name: file_hash(run / name) for name in manifest["files"]}
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    (run / MANIFEST).write_text(json_text({"sha256": content_hash(content), **content}))


def test_a_report_with_other_numbers_than_its_result_is_found_under_a_forged_manifest(run):
    result = json.loads((run / RESULT).read_text())
    result["models"]["unlearned"]["metrics"]["forget/answer_nll"]["value"] = 9.75
    (run / RESULT).write_text(json_text(result))
    forged(run, lambda manifest: manifest.update(metrics={}))
    assert told(run)["numbers"] is CheckVerdict.fails
    forged(run, lambda m: m.update(metrics={r: of["metrics"] for r, of in result["models"].items()}))
    found = told(run)
    assert found["numbers"] is CheckVerdict.holds
    assert found["report"] is CheckVerdict.fails


def test_the_manifest_holds_hashes_and_no_text_of_a_corpus(run):
    manifest = read_manifest(run)
    text = (run / MANIFEST).read_text()
    assert manifest["request"] == {"ids": ["R-1", "007"], "note": "of May, by post"}
    assert len(manifest["forget_records"]) == 16
    assert all(len(sha256) == 64 for sha256 in manifest["forget_records"])
    config = load_run_config(run)
    texts = load_corpora(forget=config.forget, retain=config.retain, holdout=config.holdout)
    assert [record.key for record in texts.forget] == manifest["forget_records"]
    assert not any(record.text in text or str(record.prompt) in text for record in texts.forget)
    assert {"models", "training", "seeds", "environment", "code", "lineage", "data"} <= set(manifest)
    assert manifest["training"]["kept_step"] is not None
    assert manifest["seeds"]["seed"] == 0


def test_a_run_that_cannot_be_checked_says_why(run, tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        verify(tmp_path / "nowhere")
    (run / MANIFEST).unlink()
    with pytest.raises(UserError, match="has no `manifest"):
        verify(run)
    (run / RESULT).unlink()
    with pytest.raises(UserError, match="is not finished"):
        verify(run)


def test_a_manifest_of_another_format_cannot_be_checked(run):
    forged(run, lambda manifest: manifest.update(schema_version=99))
    with pytest.raises(UserError, match="format 99"):
        verify(run)


@pytest.mark.parametrize("key", ["files", "signature", "not_covered", "lineage", "metrics", "code"])
@pytest.mark.parametrize("value", [None, 7, "absent"])
def test_a_manifest_with_a_right_hash_and_other_content_does_not_hold(run, key, value):
    if (key, value) == ("signature", None):
        pytest.skip("so it is in a run that is not signed")

    def change(manifest: dict) -> None:
        manifest[key] = value
        if value == "absent":
            del manifest[key]

    manifest = read_manifest(run)
    change(manifest)
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    (run / MANIFEST).write_text(json_text({"sha256": content_hash(content), **content}))
    assert exit_code(verify(run)) == 1


@pytest.mark.parametrize(("folder", "code"), [("wandb", 1), ("state", 2)])
def test_a_folder_that_came_after_the_end_is_told(run, folder, code):
    (run / folder).mkdir()
    (run / folder / "x").write_text("x")
    assert exit_code(verify(run)) == code


def test_a_key_that_is_not_there_cannot_be_checked_with(run, tmp_path):
    with pytest.raises(UserError, match="no key at"):
        verify(run, key=tmp_path / "nowhere.pub")


def test_a_run_leads_to_the_one_that_it_started_from(run, cache, tmp_path):
    out = tmp_path / "next"
    words = [*TINY[3:], f"model.path={run}", "train=unlearn_tiny", f"out={out}", f"cache={cache}"]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", words)))
    manifest = read_manifest(out)
    assert manifest["lineage"]["model"] == {"run": str(run), "manifest": read_manifest(run)["sha256"]}
    assert manifest["start"]["weights"] == read_manifest(run)["models"]["unlearned"]
    assert told(out)["lineage: model"] is CheckVerdict.holds
    shutil.rmtree(run)
    assert told(out)["lineage: model"] is CheckVerdict.left
    assert exit_code(verify(out)) == 0


@pytest.mark.slow
def test_a_run_on_a_cpu_is_done_again_to_the_bit(run):
    assert told(run, read_config=load_run_config)["replay"] is CheckVerdict.holds


def test_another_version_cannot_be_replayed(run, monkeypatch):
    monkeypatch.setattr("mari_cli.begun.version_of", lambda package: "0.0")
    check = next(check for check in verify(run, read_config=load_run_config) if check.what == "replay")
    assert check.verdict is CheckVerdict.unknown
    assert "torch was" in check.why


# -- signatures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    pytest.importorskip("model_signing", reason="signatures need the extra `sign`")
    if shutil.which("openssl") is None:
        pytest.skip("keys are made by openssl, which is not here")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        key = folder / name
        make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key]
        subprocess.run(make, check=True, capture_output=True)
        public = ["openssl", "ec", "-in", key, "-pubout", "-out", f"{key}.pub"]
        subprocess.run(public, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def signed_once(keys: Path, cache: Path) -> Path:
    words = [*TINY, f"out={keys / 'signed'}", f"cache={cache}", f"request.key={keys / 'ours'}"]
    launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", words)))
    return keys / "signed"


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "signed"))


def test_a_signature_is_checked_with_its_key_and_no_other(signed, keys):
    assert exit_code(verify(signed, key=keys / "ours.pub")) == 0
    assert exit_code(verify(signed)) == 2
    assert told(signed, key=keys / "theirs.pub")["signature"] is CheckVerdict.fails
    with pytest.raises(UserError, match="no public"):
        verify(signed, key=keys / "ours")
    with pytest.raises(UserError, match="no file"):
        verify(signed, key=keys / "none.pub")


def test_a_change_of_one_byte_in_a_signature_is_found(signed, keys):
    dice = random.Random(3)
    path = signed / SIGNATURE
    content = path.read_bytes()
    for _ in range(CHANGES):
        place = dice.randrange(len(content))
        other = (content[place] + dice.randrange(1, 256)) % 256
        path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
        with pytest.raises(NotSigned):
            check_signature(signed / MANIFEST, path, keys / "ours.pub")


def test_a_forged_manifest_is_found_by_its_signature(signed, keys):
    forged(signed, lambda manifest: manifest.update(forget_records=[]))
    assert told(signed, key=keys / "ours.pub")["signature"] is CheckVerdict.fails
    forged(signed, lambda manifest: manifest.update(signature=None))
    assert told(signed, key=keys / "ours.pub")["signature"] is CheckVerdict.fails
    (signed / SIGNATURE).unlink()
    assert told(signed, key=keys / "ours.pub")["signature"] is CheckVerdict.fails


def test_a_key_that_cannot_sign_is_refused_before_anything_is_written(keys, cache):
    (keys / "word").write_text("no key")
    for key in ("word", "ours.pub", "nothing"):
        words = [*TINY, f"out={keys / 'refused'}", f"cache={cache}", f"request.key={keys / key}"]
        prepared = launch.prepare(launch.Experiment("unlearn", words))
        with pytest.raises(UserError, match="key"):
            launch.run(unlearn, prepared)
        assert not (keys / "refused").exists()


def test_without_the_library_a_key_is_refused(tmp_path, cache, monkeypatch):
    (tmp_path / "key").write_text("")
    monkeypatch.setattr("mari_cli.storage.signature.find_spec", lambda name: None)
    words = [*TINY, f"out={tmp_path / 'run'}", f"cache={cache}", f"request.key={tmp_path / 'key'}"]
    with pytest.raises(UserError, match="model-signing"):
        launch.run(unlearn, launch.prepare(launch.Experiment("unlearn", words)))
