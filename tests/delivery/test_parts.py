"""The parts of delivery: frames, locks, seats, credentials, waits."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracelet_collector.delivery.backoff import Backoff, Patience
from tracelet_collector.delivery.credentials import worker_environment
from tracelet_collector.delivery.frames import Channel, Disconnected, pack, pack_pairs, unpack, unpack_pairs
from tracelet_collector.delivery.locks import exclusive
from tracelet_collector.delivery.seats import Seats
from tracelet_collector.exporters.base import Paused, Retryable
from tracelet_collector.exporters.table import EXPORTERS, Entry

from tests.support.processes import until

_int64 = st.integers(-(2**63), 2**63 - 1)


class TestFrames:
    @given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), st.binary(max_size=300_000))
    @settings(max_examples=30, deadline=None)
    def test_what_is_sent_is_received(self, header: dict[str, object], payload: bytes) -> None:
        ours, theirs = (Channel(end) for end in socket.socketpair())
        sender = threading.Thread(target=ours.send, args=(header, payload))
        sender.start()
        assert theirs.receive(10.0) == (header, payload)
        sender.join(60.0)
        ours.close()
        theirs.close()

    @given(st.dictionaries(_int64, _int64), st.lists(_int64))
    def test_integers(self, entries: dict[int, int], numbers: list[int]) -> None:
        assert unpack_pairs(pack_pairs(entries)) == entries
        assert unpack(pack(numbers)) == numbers

    def test_numbers_that_json_has_not(self) -> None:
        ours, theirs = (Channel(end) for end in socket.socketpair())
        ours.send({"nan": math.nan, "inf": math.inf})
        header, _ = theirs.receive(5.0)
        assert math.isnan(header["nan"])
        assert header["inf"] == math.inf

    def test_an_end_that_is_gone(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.send(b"\x05\x00")  # the beginning of a frame
        theirs.close()
        channel = Channel(ours)
        with pytest.raises(Disconnected):
            channel.receive(5.0)
        with pytest.raises(Disconnected):
            channel.send({"say": "hello"}, timeout=5.0)

    def test_nobody_answers(self) -> None:
        ours, theirs = socket.socketpair()
        with pytest.raises(TimeoutError):
            Channel(ours).receive(0.05)
        theirs.close()

    def test_something_else_at_the_other_end(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.send(b"HTTP/1.1 400 Bad Request\r\n")
        with pytest.raises(Disconnected, match="no frame"):
            Channel(ours).receive(5.0)


class TestLock:
    def test_a_target_has_one_holder_and_a_dead_one_has_none(self, tmp_path: Path) -> None:
        script = (
            "import sys; from pathlib import Path; from tracelet_collector.delivery.locks import exclusive\n"
            "with exclusive(Path(sys.argv[1]), 'sqlite:////x', 1.0): print('held', flush=True); input()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "locks")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Retryable, match="another worker"), exclusive(tmp_path / "locks", "sqlite:////x", 0.05):
            pass
        with exclusive(tmp_path / "locks", "sqlite:////y", 0.05):
            pass
        waited = threading.Event()

        def wait() -> None:
            with exclusive(tmp_path / "locks", "sqlite:////x", 20.0):
                waited.set()

        successor = threading.Thread(target=wait)
        successor.start()
        holder.kill()
        assert waited.wait(60.0)
        successor.join(60.0)
        holder.communicate()


class TestSeats:
    def test_who_waits_is_told_when_there_is_one(self) -> None:
        seats, told = Seats(1), list[str]()
        assert seats.take("a", lambda: told.append("a"))
        assert not seats.wanted
        assert not seats.take("b", lambda: told.append("b"))
        assert seats.wanted
        assert told == ["a"]  # somebody wants its place
        seats.leave("a")
        assert told == ["a", "b"]
        assert not seats.take("a", lambda: None)  # b is before it
        assert seats.take("b", lambda: None)
        seats.leave("a")
        assert not seats.wanted

    def test_who_gives_up_holds_up_nobody(self) -> None:
        seats, told = Seats(1), list[str]()
        assert seats.take("a", lambda: None)
        assert not seats.take("b", lambda: None)
        assert not seats.take("c", lambda: told.append("c"))
        seats.leave("b")
        seats.leave("a")
        assert "c" in told
        assert seats.take("c", lambda: None)


class TestBackoff:
    def test_waits_grow_and_end(self) -> None:
        import time

        backoff = Backoff(Patience(first=0.5, most=30.0))
        longest = 0.0
        for _ in range(50):
            now = time.monotonic()
            backoff.failed()
            wait = backoff.until - now
            assert 0.5 <= wait <= 30.1
            longest = max(longest, wait)
        assert longest > 5.0
        backoff.failed(at_least=120.0)
        assert backoff.until - time.monotonic() > 100.0
        backoff.succeeded()
        assert (backoff.until, backoff.failures) == (0.0, 0)


class TestCredentials:
    def keep(self, home: Path, env: object, mode: int = 0o600) -> None:
        folder = home / "credentials"
        folder.mkdir(exist_ok=True)
        (folder / "key.json").write_text(json.dumps({"env": env}))
        (folder / "key.json").chmod(mode)

    def test_a_worker_sees_little(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of the collector's first script")
        monkeypatch.setenv("PYTHONPATH", "/injected")
        monkeypatch.setenv("SECRET", "x")
        self.keep(
            tmp_path,
            {
                "MLFLOW_TRACKING_USERNAME": "me",
                "AWS_ACCESS_KEY_ID": "a",
                "https_proxy": "p",
                "NO_PROXY": "n",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "9",
                "MLFLOW_RUN_ID": "somebody's",
                "PYTHONPATH": "/evil",
                "LD_PRELOAD": "/evil.so",
                "PATH": "/evil",
            },
        )
        environment = worker_environment(tmp_path, "key", EXPORTERS["mlflow"])
        assert environment["MLFLOW_TRACKING_USERNAME"] == "me"
        assert (environment["AWS_ACCESS_KEY_ID"], environment["https_proxy"], environment["NO_PROXY"]) == (
            "a",
            "p",
            "n",
        )
        assert environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
        assert environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        assert environment["PATH"] == os.environ["PATH"]
        for name in ("MLFLOW_TRACKING_TOKEN", "PYTHONPATH", "SECRET", "LD_PRELOAD", "MLFLOW_RUN_ID"):
            assert name not in environment

    def test_what_is_wrong_with_them_is_told(self, tmp_path: Path) -> None:
        entry = Entry("m", "n", "p", "e")
        with pytest.raises(Paused, match="cannot be read"):
            worker_environment(tmp_path, "key", entry)
        self.keep(tmp_path, {"A": "b"}, 0o644)
        with pytest.raises(Paused, match="chmod 600"):
            worker_environment(tmp_path, "key", entry)
        self.keep(tmp_path, ["no", "mapping"])
        with pytest.raises(Paused, match="damaged"):
            worker_environment(tmp_path, "key", entry)
        for name in ("../key", "a/b", "", ".hidden", "x" * 200):
            if name:
                with pytest.raises(Paused, match="no name"):
                    worker_environment(tmp_path, name, entry)

    def test_none_are_needed(self, tmp_path: Path) -> None:
        assert "PYTHONSAFEPATH" in worker_environment(tmp_path, "", EXPORTERS["mlflow"])


def test_a_worker_outlives_no_parent(tmp_path: Path) -> None:
    """A worker that waits for its first word ends when the other end closes."""
    ours, theirs = socket.socketpair()
    worker = subprocess.Popen(
        [sys.executable, "-m", "tracelet_collector.delivery.worker", str(theirs.fileno())], pass_fds=(theirs.fileno(),)
    )
    theirs.close()
    ours.close()
    assert worker.wait(60) == 0


def test_versions_that_do_not_fit_are_told() -> None:
    ours, theirs = socket.socketpair()
    worker = subprocess.Popen(
        [sys.executable, "-m", "tracelet_collector.delivery.worker", str(theirs.fileno())], pass_fds=(theirs.fileno(),)
    )
    theirs.close()
    channel = Channel(ours)
    channel.send({"do": "hello", "version": 999, "kind": "mlflow", "locks": "/"})
    header, _ = channel.receive(30.0)
    assert header["say"] == "refused"
    assert "tracelet stop" in header["message"]
    channel.close()
    until(lambda: worker.poll() is not None)
