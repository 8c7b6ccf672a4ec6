"""A hub that does not answer is asked once; then what was downloaded before is read, and no word of tries."""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from mari_cli import hub
from mari_cli.config import ModelConfig
from mari_cli.errors import UserError
from mari_cli.models.load import load_tokenizer


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """As if the network were there, whatever tests/conftest.py has set."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    remembered = (hub.settle, hub._answers)  # as they are: a test may put another in its place
    for asked in remembered:
        asked.cache_clear()
    yield
    for asked in remembered:
        asked.cache_clear()


@pytest.fixture
def silent():
    """An address that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing():
    """An address where every request is refused, by an answer."""

    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("address", ["closed", "silent", "http://no-such-host.invalid", "no address at all"])
def test_without_an_answer_a_name_is_refused_in_two_lines_and_no_try_is_told(
    address, silent, monkeypatch, capfd
):
    monkeypatch.setattr(
        constants, "ENDPOINT", {"closed": "http://127.0.0.1:9", "silent": silent}.get(address, address)
    )
    with pytest.raises(UserError, match="cannot be loaded from the hub") as refusal:
        load_tokenizer(ModelConfig(name="x", path="some-owner/some-model"), [])
    assert "\n" not in str(refusal.value)
    assert "connection" in refusal.value.hint
    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    told = " ".join(capfd.readouterr().err.split())
    assert "does not answer: what was downloaded before is read" in told
    assert "Retry" not in told
    assert "Traceback" not in told


def test_a_hub_that_answers_is_used(refusing, monkeypatch, capfd):
    monkeypatch.setattr(constants, "ENDPOINT", refusing)
    hub.settle()
    assert not constants.HF_HUB_OFFLINE
    assert "does not answer" not in capfd.readouterr().err


def test_a_local_model_asks_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda endpoint: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="no model in"):
        load_tokenizer(ModelConfig(name="x", path=str(tmp_path)), [])


def test_a_name_that_nothing_can_be_read_from_is_refused_before_torch_is_loaded(
    monkeypatch, tmp_path, silent
):
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be loaded from the hub: http.* does not answer"):
        hub.require_model("nosuch/model")
    (tmp_path / "models--nosuch--model").mkdir()  # downloaded before
    hub.require_model("nosuch/model")
    hub.require_model(str(tmp_path))
    hub.require_model(None)
