"""What the two ends of a worker's socket owe each other when they are of different versions, or when it takes long."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tracelet_collector.delivery import Patience
from tracelet_collector.delivery import worker as worker_end
from tracelet_collector.delivery.frames import Channel
from tracelet_collector.delivery.process import Shipment, WorkerFailed, WorkerProcess, _Origin
from tracelet_collector.exporters.base import Item, Memory, Outcome, Run
from tracelet_collector.log.base import Chunk

from tests.support.delivering import run_spec

CHUNK = Chunk("r1", 0, 1, 0, [], {})


@pytest.fixture
def ends(tmp_path: Path) -> Any:
    """A worker as the scheduler sees it, and the socket at which somebody plays it."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    origin = _Origin(tmp_path, "mlflow", sys.executable, tmp_path / "log", 0)
    channel = Channel(theirs)
    yield WorkerProcess(process, Channel(ours), origin, Patience(export=0.2)), channel
    channel.close()
    process.kill()
    process.wait(60)


def export(process: WorkerProcess) -> Any:
    spec = run_spec("r1", "sqlite:////x.db", parent="p", tags={"a": "b"})
    shipment = Shipment(spec, spec.backends[0], CHUNK)
    process.send(shipment)
    return process.answer(shipment, lambda keys: {})


@pytest.mark.parametrize("said", [True, False])
def test_a_worker_that_says_so_may_take_longer(ends: Any, said: bool) -> None:
    process, channel = ends
    heard: list[Mapping[str, Any]] = []
    given_up = threading.Event()

    def play() -> None:
        heard.append(channel.receive(20)[0])
        if said:
            channel.send({"say": "working", "seconds": 60.0})
        given_up.wait(0.5)
        done = {"say": "exported", "delivered": 0, "collapsed": 0, "rerouted": 0, "dead": [], "state": None}
        if not given_up.is_set():
            channel.send(done)

    player = threading.Thread(target=play)
    player.start()
    if said:
        assert export(process).until == 1
    else:
        with pytest.raises(WorkerFailed, match="no answer within"):
            export(process)
        given_up.set()
    player.join(60)
    assert heard[0]["about"]["parent"] == "p"
    assert heard[0]["about"]["tags"] == {"a": "b"}
    assert heard[0]["run"].keys() == {"run_id", "name", "project", "target", "created"}, "what the first version knows"


class Witness:
    """An exporter that only looks."""

    kind: ClassVar[str] = "witness"
    batch_points: ClassVar[int] = 1

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        self.runs.append(run)
        return Outcome()

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("about", [None, {"parent": "p", "blobs": "/b"}, {"group": "g", "of_later": {"x": 1}}])
def test_a_worker_takes_what_it_knows_of_a_run(tmp_path: Path, about: dict[str, Any] | None) -> None:
    run = {"run_id": "r1", "name": "n", "project": "p", "target": "sqlite:////x.db", "created": 1.0}
    header: dict[str, Any] = {"run": run, "state": "", "dictionaries": [], "batches": []}
    if about is not None:
        header["about"] = about
    ours, theirs = socket.socketpair()
    with ours, theirs:
        witness = Witness()
        answer, _ = worker_end._answer(Channel(ours), witness, tmp_path / "locks", json.loads(json.dumps(header)), b"")
    assert answer["say"] == "exported"
    known = {name: value for name, value in (about or {}).items() if name != "of_later"}
    assert witness.runs == [Run(**run, **known)]
