"""Two versions of tracelet on one machine: the newer one's collector serves both, and nobody throws anybody out twice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from tracelet_collector.status import read_offline

from tests.support.collector import CollectorProcess
from tests.support.processes import collector_pid, until
from tests.support.stage import Stage
from tests.support.versions import Installation, finish, install
from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.transport import local, outdated
from tracelet.version import __version__

VERSIONS = [
    "",
    "0.0.9",
    "0.1.dev3",
    "0.1a1",
    "0.1.0b2",
    "0.1rc1",
    "0.1",
    "0.1.0.post1",
    "0.2.0.dev0",
    "0.2.0",
    "0.10",
    "1.0",
]


def test_versions_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = (codec.WIRE_MAJOR, codec.WIRE_MINOR)
    for number, ours in enumerate(VERSIONS):
        monkeypatch.setattr(outdated, "__version__", ours)
        older = [theirs for theirs in VERSIONS if outdated.is_older(local.Endpoint("", 1, theirs, wire))]
        assert older == VERSIONS[:number]
        assert outdated.is_older(local.Endpoint("", 1, "99.0", (wire[0], wire[1] - 1)))
        assert not outdated.is_older(local.Endpoint("", 1, "", (wire[0], wire[1] + 1)))
    for theirs in ("0.2", "0.2.0+local", "0.2.0.0"):
        monkeypatch.setattr(outdated, "__version__", "0.2.0")
        assert not outdated.is_older(local.Endpoint("", 1, theirs, wire))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An older tracelet, of an older wire."""
    return install(tmp_path_factory.mktemp("old") / "env", "0.0.9", wire_minor=0)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A newer tracelet of the same wire as ours."""
    return install(tmp_path_factory.mktemp("new") / "env", "9.0.0")


def version(home: Path) -> str:
    """Of the collector that serves."""
    return str(json.loads((home / "endpoint.json").read_text())["version"])


def served(home: Path) -> list[str]:
    """Versions of all collectors that ever served the home, in their order."""
    lines = [json.loads(line) for line in (home / "collector.log").read_text().splitlines()]
    return [line["version"] for line in lines if line["message"] == "the collector serves"]


def durable(home: Path) -> dict[str, int]:
    """Points of the runs that have finished."""
    runs = read_offline(home).runs
    return {run.name: run.durable for run in runs if run.status == pb.RUN_STATUS_FINISHED}


def test_a_newer_client_replaces_an_older_collector(home: Path, old: Installation, new: Installation) -> None:
    old.run(home, "first")
    assert version(home) == "0.0.9"
    new.run(home, "second")
    assert version(home) == "9.0.0"
    assert durable(home) == {"first": 50, "second": 50}
    assert served(home) == ["0.0.9", "9.0.0"]


def test_an_older_client_is_served_by_a_newer_collector(home: Path, old: Installation, new: Installation) -> None:
    new.run(home, "first")
    pid = collector_pid(home)
    old.run(home, "second")
    new.run(home, "third")
    assert collector_pid(home) == pid
    assert durable(home) == {"first": 50, "second": 50, "third": 50}
    assert served(home) == ["9.0.0"]


def test_both_at_once_do_not_take_turns(home: Path, old: Installation, new: Installation) -> None:
    stop = home / "stop"
    early = old.start(home, "early", 10, 0.001, stop)
    until(lambda: (home / "endpoint.json").exists() and any(run.durable for run in read_offline(home).runs))
    crowd = {
        f"{name}{number}": of.start(home, f"{name}{number}")
        for name, of in (("new", new), ("old", old))
        for number in (1, 2)
    }
    for script in crowd.values():
        assert finish(script) == 50
    stop.touch()
    counted = finish(early)
    expected = {"early": counted, **dict.fromkeys(crowd, 50)}
    until(lambda: durable(home) == expected, 20, "all of it")
    assert served(home) == ["0.0.9", "9.0.0"]


def test_what_an_older_one_left_is_read_by_a_newer_one(home: Path, old: Installation, new: Installation) -> None:
    """Its log, and the spool of a writer that was killed with it."""
    old.run(home, "whole")
    stop = home / "never"
    killed = old.start(home, "killed", 200, 0.001, stop)
    until(lambda: len([run for run in read_offline(home).runs if run.durable]) == 2)
    pid = collector_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed.kill()
    killed.communicate(timeout=60)
    new.run(home, "after")
    assert version(home) == "9.0.0"
    until(lambda: len([run for run in read_offline(home).runs if run.status != pb.RUN_STATUS_RUNNING]) == 3)
    states = {run.name: run for run in read_offline(home).runs}
    assert (states["whole"].durable, states["after"].durable) == (50, 50)
    assert states["killed"].status == pb.RUN_STATUS_KILLED
    assert states["killed"].durable > 0


def test_one_that_will_not_leave_still_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is older by its version alone: what it speaks will do."""
    monkeypatch.setattr(outdated, "__version__", "9.0.0")
    monkeypatch.setattr(outdated, "_PATIENCE", 0.0)
    monkeypatch.setattr(outdated, "_asked", [])
    with Stage(home):  # it has no Stop
        endpoint = outdated.current(home, 1.0)
        assert endpoint.version == __version__
        assert outdated.current(home, 1.0) == endpoint


def test_one_that_speaks_too_little_and_will_not_leave(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outdated, "_PATIENCE", 0.0)
    monkeypatch.setattr(outdated, "_asked", [])
    with Stage(home):
        path = home / "endpoint.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "wire": [0, 9]}))
        for _ in range(2):
            with pytest.raises(CollectorError, match="older than this process, and does not answer"):
                outdated.current(home, 1.0)


def test_what_it_starts_is_not_replaced_for_ever(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose installed collector is older than itself: as with a PYTHONPATH of its own."""
    monkeypatch.setattr(outdated, "__version__", "9.0.0")
    monkeypatch.setattr(outdated, "_asked", [])
    with CollectorProcess(home) as first:
        pids = {outdated.current(home, 20.0).pid for _ in range(6)}
        assert first.pid not in pids
        assert len(pids) <= outdated._MOST
