"""The sender: one thread that carries a spool to the collector, for ever if need be.

It looks every tenth of a second, cuts what was committed into batches, uploads the blobs that they name before them, and lets
go of segments and blobs when the collector has them.
Whatever goes wrong (no collector, a broken stream, a full log) it waits and comes back; the collector's welcome says from
which position. The training thread never waits for it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tracelet.errors import CollectorError
from tracelet.guard import say
from tracelet.spoolfile import SpoolLost
from tracelet.transport.background import importing
from tracelet.transport.comeback import come_back
from tracelet.transport.local import Starting
from tracelet.transport.spool import SpoolWriter

if TYPE_CHECKING:
    from tracelet.proto.v1 import records_pb2 as pb
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
        starting: how a collector is to be that is started here.

    Attributes:
        stage: what records have to pass before they are sent; it is called now and then, and says which positions have.
    """

    def __init__(self, spool: SpoolWriter, home: Path, interval: float, starting: Starting) -> None:
        self._spool = spool
        self._home = home
        self._interval = interval
        self._starting = starting
        self.stage: Callable[[], int] | None = None
        self._wake = threading.Event()
        self._finishing = threading.Event()
        self._quit = threading.Event()
        self._done = threading.Event()
        self._durable = 0
        self._trouble_since: float | None = None
        self._last_error: str = ""
        # For each record under way that names a blob: up to where all must be durable, and which.
        self._blobs: deque[tuple[int, str]] = deque()
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
            self._ready()
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
            from tracelet.transport.session import Session

        info = self._spool.info
        endpoint = outdated.current(self._home, _START_DEADLINE, self._starting)
        hello = wire.Hello(
            run=ParseDict(dict(info.run), wire.RunSpec()),
            # What else it says of the writer is for who finds the spool.
            writer=ParseDict(dict(info.writer), wire.WriterSpec(), ignore_unknown_fields=True),
        )
        session = Session(endpoint.address, hello, self._wake, timeout=_WELCOME_DEADLINE)
        try:
            self._follow(session)
        finally:
            session.close()

    def _follow(self, session: Session) -> None:
        from tracelet.proto import codec

        spool = self._spool
        self._durable = position = session.next_seq
        self._let_go_of_blobs(position)
        self._blobs.clear()  # what is left is named again
        there: set[str] = set()
        sent = spool.taken
        start = spool.rewind(position)
        if position > sent and not self._finishing.is_set():  # at the end, the spool may have been given up on purpose
            come_back(spool, position)
        if start > position:
            # Acked once, and forgotten by the collector since (its log was removed): said, not skipped.
            for batch in codec.encode([SpoolLost(position, start - position)]):
                session.send(batch)
        while True:
            finishing, durable, claimed = self._finishing.is_set(), session.next_seq, spool.claimed
            if durable > self._durable:
                self._durable, self._trouble_since = durable, None
                spool.release(durable)
                self._let_go_of_blobs(durable)
            if durable >= claimed:
                self._trouble_since, self._last_error = None, ""
                if finishing:
                    return
            if session.broken is not None:
                raise session.broken
            if self._quit.is_set():
                return
            while (room := durable + session.credit - spool.taken) > 0:
                ready = self._ready() - spool.taken
                items = spool.take(min(room, ready, session.max_records)) if ready > 0 else []
                if not items:
                    break
                for batch in codec.encode(items, session.max_records):
                    self._upload_blobs(batch, session, there)
                    session.send(batch)
            spool.prepare()
            # An ack wakes this thread only when it waits for one: else every ack would cut a tiny batch.
            session.eager = finishing or room <= 0
            self._wait(_FINISHING_INTERVAL if finishing else self._interval)

    def _upload_blobs(self, batch: pb.Batch, session: Session, there: set[str]) -> None:
        """Bring the collector what a batch names, but for what is `there` since this connection began."""
        from tracelet.proto import codec
        from tracelet.transport.upload import BlobGone, lose, upload

        end, run_id = batch.first_seq + batch.count, str(self._spool.info.run["run_id"])

        def between() -> None:
            if session.broken is not None:
                raise session.broken
            if self._quit.is_set():
                raise CollectorError("the run was stopped before everything was uploaded")
            self._spool.prepare()

        for sha256, size in list(codec.blobs(batch)):
            self._blobs.append((end, sha256))
            if sha256 in there:
                continue
            try:
                upload(session.stub, self._spool.blobs.path(sha256), size, run_id, between)
                there.add(sha256)
            except BlobGone as gone:
                if lost := lose(batch, sha256):
                    say(f"{gone}: {lost} record(s) with that content are lost")

    def _let_go_of_blobs(self, durable: int) -> None:
        while self._blobs and self._blobs[0][0] <= durable:
            self._spool.blobs.let_go(self._blobs.popleft()[1])
        self._spool.blobs.sweep()

    def _ready(self) -> int:
        """Positions before this one may be sent."""
        claimed = self._spool.claimed  # first: the stage may come any moment, and is for what comes after it
        return claimed if self.stage is None else self.stage()

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
