"""The sender: one thread that carries a spool to the collector, for ever if need be.

It looks every tenth of a second, cuts what was committed into batches, and lets go of segments when the collector has them.
Whatever goes wrong (no collector, a broken stream, a full log) it waits and comes back; the collector's welcome says from
which position. The training thread never waits for it.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tracelet.errors import CollectorError
from tracelet.guard import say
from tracelet.spoolfile import SpoolLost
from tracelet.transport import local
from tracelet.transport.background import importing
from tracelet.transport.spool import SpoolWriter

if TYPE_CHECKING:
    from tracelet.transport.session import Session

__all__ = ["Sender"]

_MIN_BACKOFF = 0.05
_MAX_BACKOFF = 5.0
_WELCOME_DEADLINE = 10.0
_FINISHING_INTERVAL = 0.02
_START_DEADLINE = 10.0
_DEGRADED_AFTER = 10.0


class Sender:
    """Carries one spool.

    Args:
        spool: the spool.
        home: tracelet's home.
        interval: seconds between two looks.
        idle: for a collector that is started here.
    """

    def __init__(self, spool: SpoolWriter, home: Path, interval: float, idle: float) -> None:
        self._spool = spool
        self._home = home
        self._interval = interval
        self._idle = idle
        self._wake = threading.Event()
        self._finishing = threading.Event()
        self._quit = threading.Event()
        self._done = threading.Event()
        self._durable = 0
        self._trouble_since: float | None = None
        self._last_error: str = ""
        self._thread = threading.Thread(target=self._run, name="tracelet-sender", daemon=True)

    @property
    def durable(self) -> int:
        """Positions that are durable in the collector's log."""
        return self._durable

    @property
    def last_error(self) -> str:
        """What keeps it from sending now; empty when nothing does."""
        return self._last_error

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: there may be no more threads.
        """
        self._thread.start()

    def hurry(self) -> None:
        """Nothing more will be recorded: send the rest without delay, and end."""
        self._finishing.set()
        self._wake.set()

    def finish(self, deadline: float) -> bool:
        """Hurry, and wait for the end.

        Args:
            deadline: seconds to wait.

        Returns:
            Everything that was recorded is durable in the collector's log.
        """
        self.hurry()
        self._done.wait(deadline)
        self._quit.set()
        self._wake.set()
        return self._durable >= self._spool.claimed

    # -- the thread

    def _run(self) -> None:
        backoff = _MIN_BACKOFF
        jitter = random.Random()  # of its own: the global one belongs to the user's seed
        # Importing gRPC takes the interpreter from the script for a tenth of a second: not while start_logging runs.
        self._finishing.wait(self._interval)
        while not self._quit.is_set():
            before, finishing = self._durable, self._finishing.is_set()
            try:
                self._carry()
                break
            except CollectorError as error:
                self._last_error = str(error)
                if getattr(error, "final", False):
                    say(f"{error}. Records are kept in {self._spool.directory.path}", key=str(error))
                    if finishing:
                        break
                    backoff = _MAX_BACKOFF
            except Exception as error:  # a fault of ours must not end the thread: the records wait in the spool
                self._last_error = repr(error)
                say(f"sending failed ({error!r}); records are kept in {self._spool.directory.path}", key="sender")
            self._tell_trouble()
            self._spool.prepare()
            if self._durable > before or self._finishing.is_set() != finishing:
                backoff = _MIN_BACKOFF
            # Not `_wake`: what comes in from a broken connection sets that.
            (self._quit if finishing else self._finishing).wait(backoff * jitter.uniform(0.5, 1.0))
            backoff = min(backoff * 2, _MAX_BACKOFF)
        self._done.set()

    def _carry(self) -> None:
        """Serve one connection until everything is sent and `finish` was called, or it breaks."""
        # Imported here: gRPC and protobuf take a tenth of a second that start_logging does not have.
        with importing():
            from google.protobuf.json_format import ParseDict

            from tracelet.proto.v1 import collector_pb2 as wire
            from tracelet.transport import outdated
            from tracelet.transport.session import Refused, Session

        info = self._spool.info
        endpoint = local.ensure(self._home, _START_DEADLINE, self._idle)
        hello = wire.Hello(
            run=ParseDict(dict(info.run), wire.RunSpec()), writer=ParseDict(dict(info.writer), wire.WriterSpec())
        )
        try:
            session = Session(endpoint.address, hello, self._wake, timeout=_WELCOME_DEADLINE)
        except Refused as refused:
            if refused.code == wire.Goodbye.CODE_VERSION and outdated.make_way(endpoint):
                raise CollectorError(
                    f"an older collector (pid {endpoint.pid}) makes way for one of this version"
                ) from refused
            raise
        try:
            self._follow(session)
        finally:
            session.close()

    def _follow(self, session: Session) -> None:
        from tracelet.proto import codec

        spool = self._spool
        self._durable = position = session.next_seq
        start = spool.rewind(position)
        if start > position:
            # Acked once, and forgotten by the collector since (its log was removed): said, not skipped.
            for batch in codec.encode([SpoolLost(position, start - position)]):
                session.send(batch)
        while True:
            finishing, durable, claimed = self._finishing.is_set(), session.next_seq, spool.claimed
            if durable > self._durable:
                self._durable, self._trouble_since = durable, None
                spool.release(durable)
            if durable >= claimed:
                self._trouble_since, self._last_error = None, ""
                if finishing:
                    return
            if session.broken is not None:
                raise session.broken
            if self._quit.is_set():
                return
            while (room := durable + session.credit - spool.taken) > 0:
                items = spool.take(min(room, session.max_records))
                if not items:
                    break
                for batch in codec.encode(items, session.max_records):
                    session.send(batch)
            spool.prepare()
            # An ack wakes this thread only when it waits for one: else every ack would cut a tiny batch.
            session.eager = finishing or room <= 0
            self._wait(_FINISHING_INTERVAL if finishing else self._interval)

    def _tell_trouble(self) -> None:
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        elif now - self._trouble_since > _DEGRADED_AFTER:
            say(
                f"no collector takes records now ({self._last_error}); they are kept in {self._spool.directory.path} "
                "and sent when one does",
                key="no collector",
            )

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()
