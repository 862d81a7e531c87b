"""A key that is refused: delivery pauses, says so, and goes on with the newest one that somebody left for the tracker."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tracelet_collector.delivery.credentials import newest
from tracelet_collector.home import log_path
from tracelet_collector.log.sqlite import SqliteLog

from tests.delivery.test_server import free_port, serve
from tests.support.commands import tracelet
from tests.support.delivering import Desk, Writer, run_spec
from tests.support.ledger import Ledger
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import stop_collector, until
from tracelet.core.metrics import Metric, RunEnd, RunStatus
from tracelet.core.targets import leave_key, resolve
from tracelet.transport.credentials import keep, leave

__all__ = ["serve"]

T0 = 1_700_000_000.0


def points(count: int, start: int = 0) -> list[Metric]:
    return [Metric("loss", float(step), step, T0 + step) for step in range(start, start + count)]


def token(home: Path, word: str) -> str:
    """The name of an entry with a key."""
    return keep(home, {"MLFLOW_TRACKING_TOKEN": word})


class TestNewest:
    def test_what_was_left_last(self, tmp_path: Path) -> None:
        assert newest(tmp_path, "mlflow", "http://a") is None
        assert leave(tmp_path, "mlflow", "http://a", "one")
        assert not leave(tmp_path, "mlflow", "http://a", "one")
        assert leave(tmp_path, "mlflow", "http://a", "two")
        assert leave(tmp_path, "mlflow", "http://b", "")
        assert newest(tmp_path, "mlflow", "http://a") == "two"
        assert newest(tmp_path, "mlflow", "http://b") == ""
        assert newest(tmp_path, "wandb", "http://a") is None
        (file, _) = (tmp_path / "credentials" / "newest").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("content", [b"", b"[]", b'{"entry": "../x"}', b"\xff", b'{"kind": "mlflow"}'])
    def test_a_damaged_word_is_no_word(self, tmp_path: Path, content: bytes) -> None:
        leave(tmp_path, "mlflow", "http://a", "one")
        (file,) = (tmp_path / "credentials" / "newest").iterdir()
        file.write_bytes(content)
        assert newest(tmp_path, "mlflow", "http://a") is None

    def test_a_word_that_others_can_write_is_no_word(self, tmp_path: Path) -> None:
        leave(tmp_path, "mlflow", "http://a", "one")
        (file,) = (tmp_path / "credentials" / "newest").iterdir()
        file.chmod(0o666)
        assert newest(tmp_path, "mlflow", "http://a") is None
        assert leave(tmp_path, "mlflow", "http://a", "one")
        assert newest(tmp_path, "mlflow", "http://a") == "one"

    def test_several_at_once_leave_one_whole(self, tmp_path: Path) -> None:
        names = [f"entry{number}" * 20 for number in range(16)]
        names = [name[:100] for name in names]
        with ThreadPoolExecutor(8) as pool:
            written = pool.map(lambda name: leave(tmp_path, "mlflow", "http://a", name), names * 20)
            assert any(written)
            for _ in range(200):
                assert newest(tmp_path, "mlflow", "http://a") in {None, *names}
        assert newest(tmp_path, "mlflow", "http://a") in names
        assert len(list((tmp_path / "credentials" / "newest").iterdir())) == 1

    def test_starting_a_run_leaves_its_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "one")
        (first,) = resolve(["mlflow"], tmp_path)
        assert newest(tmp_path, "mlflow", first.target) == first.credentials
        (second,) = resolve(["mlflow"], tmp_path, api_key="two")
        assert newest(tmp_path, "mlflow", first.target) == second.credentials != first.credentials

    def test_a_key_is_left_for_the_server_it_is_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            monkeypatch.delenv(name)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "one")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
        assert leave_key(tmp_path, "mlflow", "http://mine:5000")
        assert not leave_key(tmp_path, "mlflow", "http://mine:5000")
        assert not leave_key(tmp_path, "mlflow", "http://another:5000")
        assert newest(tmp_path, "mlflow", "http://another:5000") is None
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # no server is named: it is for whichever
        assert leave_key(tmp_path, "mlflow", "http://another:5000")
        assert not leave_key(tmp_path, "abacus", "http://another:5000")


class TestPausedRuns:
    def test_another_run_brings_the_right_key(self, tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
        ledger.rule(key="right")
        home = tmp_path / "home"

        def start(desk: Desk, name: str, word: str) -> Writer:
            key = token(home, word)
            leave(home, "ledger", ledger.target, key)
            spec = run_spec(name, ledger.target, kind="ledger", interpreter=ledger_python, credentials=key)
            writer = Writer(desk.log, spec)
            writer.write(points(5))
            desk.delivery.wake(name)
            return writer

        with Desk(home) as desk:
            old = [start(desk, f"old{number}", "wrong") for number in range(5)]
            for number in range(5):
                until(lambda number=number: desk.live(f"old{number}", "ledger").state == "paused")
            assert desk.live("old0", "ledger").last_error == "the key is refused"
            start(desk, "new", "right")
            names = ["new", *[f"old{number}" for number in range(5)]]
            until(lambda: all(desk.cursor(name, "ledger").settled for name in names), 60.0)
            calls = len(ledger.calls())
            for number, writer in enumerate(old):  # and it stays that way
                writer.write(points(5, start=5))
                desk.delivery.wake(f"old{number}")
            until(lambda: all(desk.cursor(name, "ledger").settled for name in names), 60.0)
            assert {call["key"] for call in ledger.calls()[calls:]} == {"right"}
            assert {desk.live(name, "ledger").state for name in names} == {"ok"}
        for number in range(5):
            assert ledger.values(f"old{number}") == [float(step) for step in range(10)]
        # Nobody delivered what somebody else had.
        assert len([row for row in ledger.path.read_text().splitlines() if row]) == len(ledger.rows())

    def test_its_own_key_becomes_right_again(self, tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
        """The newest one is refused, too: both are tried, in turn."""
        ledger.rule(key="neither")
        home = tmp_path / "home"
        mine = token(home, "mine")
        with Desk(home) as desk:
            spec = run_spec("r1", ledger.target, kind="ledger", interpreter=ledger_python, credentials=mine)
            Writer(desk.log, spec).write(points(5))
            leave(home, "ledger", ledger.target, token(home, "newest"))
            desk.delivery.wake("r1")
            until(lambda: len({call["key"] for call in ledger.calls()}) == 2, 60.0)
            assert desk.live("r1", "ledger").state == "paused"
            ledger.rule(key="mine")
            until(lambda: desk.cursor("r1", "ledger").settled, 60.0)

    @pytest.mark.parametrize("damage", ["missing", "damaged", "open"])
    def test_an_entry_that_cannot_be_read(
        self, tmp_path: Path, ledger: Ledger, ledger_python: str, damage: str
    ) -> None:
        ledger.rule(key="right")
        home = tmp_path / "home"
        mine = token(home, "right")
        path = home / "credentials" / f"{mine}.json"
        if damage == "missing":
            path.unlink()
        elif damage == "damaged":
            path.write_text("{")
        else:
            path.chmod(0o644)
        with Desk(home) as desk:
            for name in ("r1", "r2"):
                spec = run_spec(name, ledger.target, kind="ledger", interpreter=ledger_python, credentials=mine)
                Writer(desk.log, spec).write(points(5))
                desk.delivery.wake(name)
            for name in ("r1", "r2"):
                until(lambda name=name: desk.live(name, "ledger").state == "paused", 60.0)
                assert str(path) in desk.live(name, "ledger").last_error
            other = keep(home, {"MLFLOW_TRACKING_TOKEN": "right", "MLFLOW_TRACKING_USERNAME": "me"})
            leave(home, "ledger", ledger.target, other)
            until(lambda: all(desk.cursor(name, "ledger").settled for name in ("r1", "r2")), 60.0)


@pytest.fixture
def gate() -> Iterator[Callable[[str, str], str]]:
    """A server before another one, that lets only a key in; its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(behind: str, key: str) -> str:
        class Gate(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != f"Basic {b64encode(key.encode()).decode()}":
                    self._say(401, b"who are you?")
                    return
                headers = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
                request = urllib.request.Request(
                    behind + self.path, data=body or None, method=self.command, headers=headers
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        self._say(answer.status, answer.read())
                except urllib.error.HTTPError as error:
                    self._say(error.code, error.read())

            def _say(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.timeout(480)
def test_an_mlflow_server_that_wants_a_password(
    tmp_path: Path,
    serve: Callable[[MlflowStore, int], None],
    gate: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The script had a wrong one; the next script has the right one; the resumed run goes on with it, too."""
    behind, port = MlflowStore.fresh(tmp_path / "behind"), free_port()
    serve(behind, port)
    address = gate(f"http://127.0.0.1:{port}", "me:right")
    home = tmp_path / "home"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    with Desk(home) as desk:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        (backend,) = resolve(["mlflow"], home)
        writer = Writer(desk.log, run_spec("r1", backend.target, credentials=backend.credentials))
        writer.write(points(100))
        desk.delivery.wake("r1")
        live = desk.until_state("r1", "paused", seconds=90.0)
        assert f"MLflow at {address} refuses the credentials" in live.last_error
        assert "MLFLOW_TRACKING_PASSWORD" in live.last_error
        assert "`tracelet sync`" in live.last_error
        assert "wrong" not in live.last_error
        assert desk.cursor("r1").lag_points == 100
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "right")
        (again,) = resolve(["mlflow"], home)
        # As a resumed run: the log keeps what it was begun with.
        late = Writer(desk.log, run_spec("r1", again.target, credentials=again.credentials), epoch=2)
        late.write([*points(5, start=100), RunEnd(RunStatus.FINISHED, "", T0 + 200)])
        (row,) = desk.log.runs("r1")
        assert [each.credentials for each in row.spec.backends] == [backend.credentials]
        desk.delivery.wake("r1")
        desk.until_settled("r1", seconds=120.0)
        assert (desk.live("r1").state, desk.cursor("r1").delivered) == ("ok", 105)
    assert len(behind.points()) == 105
    assert behind.run()["status"] == "FINISHED"
    assert "right" not in json.dumps([str(path) for path in home.rglob("*")])


def test_sync_leaves_the_environments_key_for_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, address = tmp_path / "home", f"http://127.0.0.1:{free_port()}"
    with closing(SqliteLog(log_path(home))) as log:
        Writer(log, run_spec("r1", address, credentials="0123456789abcdef")).write(points(5))
    given = {
        "TRACELET_HOME": str(home),
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_TOKEN": "hush",
    }
    done = tracelet("sync", "--timeout", "0.1", cwd=tmp_path, environment=given)
    try:
        assert f"mlflow at {address}: the credentials of this environment are tried" in done.stdout
        assert "hush" not in done.stdout + done.stderr
        name = newest(home, "mlflow", address)
        assert name
        assert "hush" in (home / "credentials" / f"{name}.json").read_text()
        assert "tried" not in tracelet("sync", "--timeout", "0.1", cwd=tmp_path, environment=given).stdout
    finally:
        stop_collector(home)
