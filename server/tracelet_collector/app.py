"""The collector process: puts the rooms together, keeps them going, and takes them down in order."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Protocol, TypeAlias

from tracelet.errors import TraceletError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.version import __version__
from tracelet_collector.adopt import Adopter
from tracelet_collector.blobs import BlobStore
from tracelet_collector.committer import Committer
from tracelet_collector.home import HomeLock, blobs_path, log_path, socket_path
from tracelet_collector.log.base import Log, LogFailed
from tracelet_collector.log.sqlite import SqliteLog
from tracelet_collector.retention import Limits, Retention
from tracelet_collector.service import CollectorService, Health, Streams, make_server
from tracelet_collector.spools import Spools
from tracelet_collector.status import LiveState, report
from tracelet_collector.uploads import Uploads

__all__ = ["Collector", "DeliveryMaker", "DeliveryRoom", "ListenError", "check_listen"]

_TICK: Final = 0.5
_AT_ONCE: Final = 0.0
_LAST_WORDS: Final = 9.0  # seconds for what is under way when the drain is over
_log = logging.getLogger(__name__)


class DeliveryRoom(Protocol):
    """What brings the log's records to the trackers."""

    def start(self) -> None:
        """Begin with whatever is not delivered."""

    def wake(self, run_id: str) -> None:
        """There is something new for a run."""

    def stop(self, deadline: float) -> None:
        """Finish the chunk under way, within `deadline` seconds."""

    def live(self) -> Mapping[tuple[str, str], LiveState]:
        """How it stands, by run and backend."""


DeliveryMaker: TypeAlias = Callable[[Log, Path], DeliveryRoom]


class ListenError(TraceletError):
    """The collector cannot listen where it was told to."""


def check_listen(address: str) -> str:
    """A TCP address to listen on.

    Args:
        address: HOST:PORT; the host must be this machine's loopback: there are no tokens and no TLS yet.

    Raises:
        ListenError: it is none, or not on loopback.
    """
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ListenError(f"--listen {address!r}: expected HOST:PORT, for example 127.0.0.1:25010")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ListenError(
            f"--listen {address!r}: this collector has neither TLS nor tokens, so it listens on loopback only "
            "(127.0.0.1, ::1 or localhost)"
        )
    return address


class Collector:
    """One collector, serving one home.

    Args:
        lock: the right to serve it.
        idle: seconds without anything to do after which it exits.
        listen: a TCP address to listen on, beside the socket.
        delivery: makes the room that delivers.
        limits: how long records are kept.

    Raises:
        SocketError: there is no place for the socket.
        ListenError: it cannot listen.
        LogFailed: the log cannot be used.
    """

    def __init__(
        self, lock: HomeLock, idle: float, listen: str | None, delivery: DeliveryMaker, limits: Limits | None = None
    ) -> None:
        self._lock = lock
        self._idle = idle
        self._stops: SimpleQueue[float] = SimpleQueue()
        home = lock.home
        self._socket = socket_path(home)
        self._log = SqliteLog(log_path(home))
        try:
            blobs = BlobStore(blobs_path(home))
        except OSError as error:
            raise LogFailed(f"cannot make the folder of blobs {blobs_path(home)}: {error}") from error
        self._uploads = Uploads(blobs)
        self._delivery = delivery(self._log, home)
        self._committer = Committer(self._log, self._delivery.wake)
        self._spools = Spools(home)
        self._streams = Streams(self._on_stream_closed)
        self._adopter = Adopter(home, self._spools, self._log, self._committer, blobs, self._streams.is_open)
        self._retention = Retention(self._log, blobs, limits or Limits(), self._in_use)
        self._health = Health()
        service = CollectorService(
            self._log,
            self._committer,
            self._streams,
            blobs,
            self._uploads,
            self.status,
            self._delivery.wake,
            self._stops.put,
        )
        self._server = make_server(service, self._health)
        self._listens = self._bind(listen)
        self._unrepaired = ""

    def _bind(self, listen: str | None) -> dict[str, str]:
        # A predecessor that was killed left its socket. It is dead: we hold the home's lock.
        self._socket.unlink(missing_ok=True)
        try:
            self._server.add_insecure_port(self._address)
            if listen is None:
                return {}
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {listen or self._address}: {error}") from error
        return {"listen": f"{listen.rpartition(':')[0]}:{port}"}

    @property
    def _address(self) -> str:
        return f"unix:{self._socket}"

    def _on_stream_closed(self) -> None:
        self._adopter.wake()

    def _in_use(self, run_id: str) -> bool:
        return self._streams.writes(run_id) or bool(self._spools.pending(run_id))

    def status(self, run_id: str | None) -> wire.StatusReply:
        """Answer `Status`."""
        return wire.StatusReply(
            collector=wire.CollectorInfo(
                pid=os.getpid(), version=__version__, address=self._address, home=str(self._lock.home)
            ),
            # Before the log: a spool that is gone from here is there.
            pending_spools=self._spools.pending(run_id),
            streams=self._streams.count,
            runs=report(self._log.overview(run_id), self._delivery.live(), self._committer.under_way),
        )

    def run(self) -> None:
        """Serve until somebody says stop, nobody needs it any more, or nobody can find it any more."""
        # SimpleQueue.put may be called from a signal handler, whatever this thread is doing.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stops.put(_AT_ONCE))
        self._committer.start()
        self._delivery.start()
        self._adopter.start()
        self._retention.start()
        self._health.set(True)
        self._server.start()
        self._lock.announce(self._address, self._listens)
        _log.info(
            "the collector serves",
            extra={"home": str(self._lock.home), "address": self._address, "version": __version__, **self._listens},
        )
        try:
            drain = self._serve()
        except BaseException:
            _log.exception("the collector fails")
            self._close(_AT_ONCE)
            raise
        self._close(drain)

    def _serve(self) -> float:
        """Wait for an end. Returns the seconds to drain."""
        quiet_since = time.monotonic()
        while True:
            try:
                drain = self._stops.get(timeout=_TICK)
            except Empty:
                pass
            else:
                _log.info("the collector is told to stop", extra={"drain_seconds": drain})
                return drain
            if not self._lock.still_held(self._socket):
                _log.error("the home or the socket is gone: nobody can find this collector any more")
                return _AT_ONCE
            if self._log.removed:
                _log.error(
                    "somebody has deleted the log under this collector: what it had and no tracker has yet is gone. "
                    "The next collector begins a new log",
                    extra={"log": str(log_path(self._lock.home))},
                )
                return _AT_ONCE
            self._repair()
            if not (self._committer.alive and self._adopter.alive):
                _log.error("a thread has ended that never should: another collector can do better")
                return _AT_ONCE
            self._health.set(self._log.healthy)
            now = time.monotonic()
            if self._streams.count or self._uploads.count or self._adopter.busy or self._retention.busy:
                quiet_since = now
            elif now - quiet_since >= self._idle:
                if self._all_settled() and self._streams.close_if_none():
                    _log.info("the collector is idle and exits", extra={"idle_seconds": self._idle})
                    return _AT_ONCE
                quiet_since = now - self._idle + min(self._idle, 1.0)

    def _repair(self) -> None:
        try:
            if self._lock.repair():
                _log.warning("somebody has deleted or changed the announcement of this collector: it is written again")
            self._unrepaired = ""
        except OSError as error:
            if str(error) != self._unrepaired:
                _log.error("this collector cannot announce itself: %s", error)
            self._unrepaired = str(error)

    def _all_settled(self) -> bool:
        try:
            return all(cursor.settled for cursor in self._log.cursors()) and not self._spools.pending()
        except LogFailed:
            return False

    def _close(self, drain: float) -> None:
        """Take no more, finish what came, and go."""
        until = time.monotonic() + drain
        self._lock.withdraw()  # first: whoever needs a collector now starts one, which waits for this one's end
        self._health.set(False)
        self._streams.drain()
        self._uploads.drain()
        self._adopter.wake()
        while not self._all_settled() and (left := until - time.monotonic()) > 0:
            try:
                self._stops.get(timeout=min(left, _TICK / 5))
            except Empty:
                continue
            break  # told again: a signal, in the middle of it
        end = time.monotonic() + _LAST_WORDS
        self._retention.stop(2.0)
        self._adopter.stop(2.0)
        self._committer.stop(end - time.monotonic() - 3.0)
        self._server.stop(1.0).wait(2.0)
        self._delivery.stop(max(end - time.monotonic(), 1.0))
        self._log.close()
        self._socket.unlink(missing_ok=True)
        _log.info("the collector has ended")
