"""W&B without a key, without a server, and with one that refuses: the run goes on offline and says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import wandb
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from helpers.wandb_files import logging_plan, offline_runs
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.training.tracking import tracked, usable_mode

NOWHERE = f"http://127.0.0.1:{find_free_network_port()}"


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A user of W&B without a key, whom no server answers."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    wandb.teardown()  # it has read the environment once
    yield monkeypatch
    monkeypatch.undo()
    wandb.teardown()


def log_in(patch: pytest.MonkeyPatch, key: str = 40 * "0") -> None:
    patch.setenv("WANDB_API_KEY", key)
    wandb.teardown()


def track_online(folder: Path) -> None:
    plan = logging_plan(folder, "logger.wandb.mode=online")
    with tracked(plan, plan.order, folder / "a", "base"):
        pass


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("panoptic_occ")]


def test_without_a_key_it_is_offline_and_only_a_wish_for_more_is_answered(
    stranger: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert usable_mode(None) == "offline" and not ours(caplog)
    assert usable_mode("disabled") == "disabled" and usable_mode("offline") == "offline"
    assert usable_mode("online") == "offline"
    assert ours(caplog) == [
        "W&B: there is no API key; `wandb login` stores one; going on offline, `wandb sync` uploads the run later"
    ]
    with pytest.raises(ConfigError, match=r"mode=on .*is unknown; .*allowed: disabled, offline, online"):
        usable_mode("on")
    log_in(stranger, "short")
    caplog.clear()
    assert usable_mode(None) == "offline"
    (message,) = ours(caplog)
    assert "40+ characters" in message


def test_without_a_server_it_is_offline_within_seconds(
    stranger: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question and never answers
        stranger.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        stranger.setenv("WANDB_HTTP_TIMEOUT", "1")
        log_in(stranger)
        start = time.monotonic()
        assert usable_mode("online") == usable_mode(None) == "offline"
        assert time.monotonic() - start < 5
    caplog.clear()
    stranger.setenv("WANDB_BASE_URL", NOWHERE)  # nobody listens there
    log_in(stranger)
    track_online(tmp_path)
    (message,) = ours(caplog)
    assert NOWHERE in message and message.endswith("going on offline, `wandb sync` uploads the run later")
    assert len(offline_runs(tmp_path / "a")) == 1


class Refusing(BaseHTTPRequestHandler):
    """A server that knows the user, but takes no run."""

    def do_POST(self) -> None:
        is_login = b"viewer" in self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if is_login else 401)
        self.end_headers()
        self.wfile.write(b'{"data": {"viewer": {"id": "1", "username": "me", "entity": "me"}}}' if is_login else b"")

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_does_not_take_the_run_is_no_reason_to_stop(
    stranger: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stranger.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        log_in(stranger)
        assert usable_mode(None) == "online"
        track_online(tmp_path)
        server.shutdown()
    (message,) = ours(caplog)
    assert "401" in message and message.endswith("`wandb sync` uploads the run later")
    assert [start.exit_code for start in offline_runs(tmp_path / "a")] == [0]
