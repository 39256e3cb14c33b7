"""A name that is no directory is looked for on the hub once, and a hub that does not answer is not waited for."""

import http.server
import socket
import threading
import time

import pytest
from huggingface_hub import constants
from uncollapse.core.compose import hub
from uncollapse.core.errors import RequestError


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    """A hub that may be asked, nothing of which has been downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setattr(hub, "PATIENCE_S", 2.0)
    hub.refusal.cache_clear()
    yield tmp_path
    hub.refusal.cache_clear()


@pytest.fixture
def silent(monkeypatch):
    """A hub that takes calls and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


@pytest.fixture
def empty(monkeypatch):
    """A hub that has nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def test_a_hub_that_never_answers_is_given_up(silent):
    started = time.monotonic()
    with pytest.raises(RequestError, match="no such directory, and the hub cannot be reached") as refused:
        hub.require("nobody/no-model", "model.path")
    assert time.monotonic() - started < 15
    assert (refused.value.exit_code, refused.value.where) == (2, "model.path")


def test_a_hub_that_never_answers_is_asked_no_more_where_the_model_has_been_downloaded(silent, online):
    snapshot = online / "models--nobody--a-model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert hub.refusal("nobody/a-model", "model") == ""
    assert constants.HF_HUB_OFFLINE is True


def test_what_the_hub_does_not_have_is_missed(empty):
    assert "no such model on the hub" in hub.refusal("nobody/no-model", "model")
    assert "no such dataset on the hub" in hub.refusal("nobody/no-rows", "dataset")


@pytest.mark.parametrize(
    "name", ["/no/model", "./no_model", "../no_model", "~nobody_at_all/x", "a/b/c", "a b", "", "a\0"]
)
def test_what_can_be_no_name_is_not_asked_for(monkeypatch, name):
    monkeypatch.setattr(hub, "_ask", lambda name, kind: pytest.fail("the hub was asked"))
    assert hub.refusal(name, "model")


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_ask", lambda name, kind: pytest.fail("the hub was asked"))
    assert "switched off" in hub.refusal("nobody/no-model", "model")
    assert hub.refusal("nobody/rows", "dataset") == ""  # the library looks in a cache of its own
