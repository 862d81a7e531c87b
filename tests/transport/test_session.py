"""One connection: what it says first, what it makes of the answers, and that it leaves nothing behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.batches import opening, run_spec, writer_spec
from tests.support.processes import until
from tests.support.stage import Scene, Stage
from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport.local import find
from tracelet.transport.session import Refused, Session
from tracelet.version import __version__


def connect(home: Path, progressed: threading.Event | None = None, timeout: float = 10.0) -> Session:
    endpoint = find(home)
    assert endpoint is not None
    hello = wire.Hello(run=run_spec(), writer=writer_spec())
    return Session(endpoint.address, hello, progressed or threading.Event(), timeout)


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_hello_and_welcome(home: Path) -> None:
    with Stage(home, Scene(credit=77)) as stage:
        session = connect(home)
        assert (session.next_seq, session.credit, session.max_records) == (0, 77, 1000)
        assert session.broken is None
        (hello,) = stage.hellos
        assert (hello.wire.major, hello.wire.minor) == (codec.WIRE_MAJOR, codec.WIRE_MINOR)
        assert hello.client_version == __version__
        session.close()


def test_acks_come_and_wake_who_waits_for_them(home: Path) -> None:
    progressed = threading.Event()
    with Stage(home):
        session = connect(home, progressed)
        session.send(opening(10))
        until(lambda: session.next_seq == 10)
        assert not progressed.is_set()
        session.eager = True
        session.send(opening(20))
        assert progressed.wait(60)
        assert session.next_seq == 20
        session.close()


@pytest.mark.parametrize(
    ("code", "final"),
    [
        (wire.Goodbye.CODE_VERSION, True),
        (wire.Goodbye.CODE_MALFORMED, True),
        (wire.Goodbye.CODE_STORAGE, False),
        (wire.Goodbye.CODE_DRAINING, False),
        (wire.Goodbye.CODE_BUSY, False),
    ],
)
def test_a_goodbye_instead_of_a_welcome(home: Path, code: wire.Goodbye.Code.ValueType, final: bool) -> None:
    with Stage(home, Scene(refuse=code)):
        with pytest.raises(Refused, match="not now") as refused:
            connect(home)
        assert (refused.value.code, refused.value.final) == (code, final)


def test_a_goodbye_in_the_middle(home: Path) -> None:
    progressed = threading.Event()
    with Stage(home, Scene(batches=1, goodbye=wire.Goodbye.CODE_DRAINING)):
        session = connect(home, progressed)
        session.send(opening(10))
        assert progressed.wait(60)
        assert isinstance(session.broken, Refused)
        assert session.next_seq == 10
        session.close()


def test_a_connection_that_breaks(home: Path) -> None:
    progressed = threading.Event()
    with Stage(home) as stage:
        session = connect(home, progressed)
        stage.cut()
        assert progressed.wait(60)
        assert isinstance(session.broken, CollectorError)
        assert "broke" in str(session.broken)
        session.close()


@pytest.mark.parametrize("answers", [True, False])
def test_no_welcome_in_time(home: Path, answers: bool) -> None:
    with Stage(home, Scene(silent=True), answers=answers):
        with pytest.raises(CollectorError, match=r"did not answer within|broke"):
            connect(home, timeout=0.2)


def test_it_leaves_no_thread(home: Path) -> None:
    with Stage(home):
        connect(home).close()
        session = connect(home)
        session.close()
        session.close()
        until(lambda: "tracelet-acks" not in names())
        until(lambda: not [name for name in names() if "consume_request_iterator" in name])
