"""Adopts spools: those that dead writers left, and, while they live, those of writers that send nothing themselves.

What is adopted goes through the same sequence rule as what is sent, so adoption can be cut short anywhere and begin anew:
the log trims what it has. A spool is deleted when everything that could be read of it is durable; what is foreign or cannot
be read is put aside in `spool-damaged`, and never holds up the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.json_format import ParseDict, ParseError

from tracelet.core.metrics import RunStatus
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as records
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolDirectory, SpoolInfo, SpoolItem, SpoolReader, SpoolVoid
from tracelet_collector.blobs import BlobStore
from tracelet_collector.committer import Committer
from tracelet_collector.damaged import put_aside, put_aside_whole, strangers
from tracelet_collector.feed import Feed, ImplausibleSpool, SpoolBlobs
from tracelet_collector.follow import Follower
from tracelet_collector.handshake import StreamKey, key_of
from tracelet_collector.log.base import Log, LogFailed, StreamRow
from tracelet_collector.partial import NoRoom
from tracelet_collector.pending import Restarts
from tracelet_collector.spools import NewerSpool, Spools, has_committed

__all__ = ["Adopter"]

_SCAN_EVERY: Final = 0.5
_READ_ALONG_EVERY: Final = 1.0
_TROUBLE_PAUSE: Final = 30.0
_NO_ROOM_PAUSE: Final = 5.0
_KILLED: Final = "the writer ended without saying so"
_log = logging.getLogger(__name__)


class Adopter:
    """The thread that looks after the spools of a home.

    Args:
        home: tracelet's home.
        spools: its spools.
        log: the log.
        committer: where batches go.
        blobs: where the blobs of spools go, before the batches that name them.
        is_open: whether a writer's stream is connected now. Its records are still coming by themselves.
    """

    def __init__(
        self,
        home: Path,
        spools: Spools,
        log: Log,
        committer: Committer,
        blobs: BlobStore,
        is_open: Callable[[StreamKey], bool],
    ) -> None:
        self._home = home
        self._spools = spools
        self._log = log
        self._committer = committer
        self._blobs = blobs
        self._is_open = is_open
        self._followers: dict[Path, _Followed] = {}
        self._restarts = Restarts(spools.waiting)
        self._newer: set[Path] = set()
        self._trouble: dict[Path, float] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._busy = True
        self._thread = threading.Thread(target=self._run, name="adopter", daemon=True)

    @property
    def busy(self) -> bool:
        """There is something to adopt, or a writer to read along with."""
        return self._busy

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    def stop(self, deadline: float) -> None:
        """Stop between two batches; what is left is adopted next time.

        Args:
            deadline: seconds to wait.
        """
        self._stopping.set()
        self._wake.set()
        self._thread.join(deadline)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._busy = self._scan()
            self._wake.wait(_SCAN_EVERY)
            self._wake.clear()

    def _scan(self) -> bool:
        busy = False
        spools = self._spools.all()
        there = {spool.path for spool in spools}
        for gone in self._followers.keys() - there:
            del self._followers[gone]
        self._restarts.forget_but(there)
        for spool in spools:
            if self._stopping.is_set():
                return True
            if self._trouble.get(spool.path, 0.0) > time.monotonic():
                continue
            try:
                busy = self._look_after(spool) or busy
            except _Stopped:
                return True
            except NoRoom:
                # The store has said it. Other spools may have smaller blobs, or none.
                self._trouble[spool.path] = time.monotonic() + _NO_ROOM_PAUSE
                busy = True
            except LogFailed:
                return True  # the committer has said it; the spool keeps what is in it
            except Exception:
                if not spool.path.exists():
                    continue  # its writer removed it meanwhile
                self._trouble[spool.path] = time.monotonic() + _TROUBLE_PAUSE
                _log.exception("a spool gives trouble; it is left for now", extra={"spool": str(spool.path)})
        return busy

    def _look_after(self, spool: SpoolDirectory) -> bool:
        """Do what is to be done for a spool. True: there will be more."""
        try:
            info, problem = self._identify(spool)
        except NewerSpool as error:
            if spool.path not in self._newer:
                self._newer.add(spool.path)
                _log.error("a spool is left for a newer collector: %s", error)
            return False
        descriptor = self._spools.take(spool)
        if descriptor is None:
            return info is not None and not info.sends and self._read_along(spool, info)
        try:
            self._followers.pop(spool.path, None)
            if info is not None:
                return self._adopt_claim(spool, info) if info.writer.get("claim") else self._adopt(spool, info)
            if not has_committed(spool, 0) and not strangers(spool):
                spool.remove()  # its writer died before it had recorded anything
            elif problem:
                put_aside_whole(self._home, spool, problem)
            return False
        finally:
            self._spools.free(spool, descriptor)

    def _identify(self, spool: SpoolDirectory) -> tuple[SpoolInfo | None, str]:
        """Whose spool it is, by its own word or by the log's memory of the stream that its folder is named after."""
        try:
            return self._spools.info(spool), ""
        except FileNotFoundError:
            problem = "it has no spool.json"
        except NewerSpool:
            raise
        except ValueError as error:
            problem = str(error)
        writer_id, _, epoch = spool.path.name.rpartition("-")
        for row in self._log.streams(spool.path.parent.name):
            if (row.writer_id, str(row.epoch)) == (writer_id, epoch):
                run = {"run_id": row.run_id}
                return SpoolInfo(run, {"writer_id": writer_id, "epoch": row.epoch, "owner": row.owner}), ""
        return None, problem

    # -- a dead writer's spool

    def _adopt(self, spool: SpoolDirectory, info: SpoolInfo) -> bool:
        try:
            run = ParseDict(dict(info.run), wire.RunSpec(), ignore_unknown_fields=True)
            writer = ParseDict(dict(info.writer), wire.WriterSpec(), ignore_unknown_fields=True)
        except ParseError as error:
            put_aside_whole(self._home, spool, f"its spool.json names no run: {error}")
            return False
        if self._is_open(key_of(run, writer)):
            return True
        # A process that began later goes on with the run: how it stands is for that one to say.
        goes_on = any(other.owner and other.epoch > writer.epoch for other in self._log.streams(run.run_id))
        if not goes_on and self._restarts.waits(spool.path, info.writer):
            return True
        row = self._log.open_stream(run, writer)
        feed = self._feed(spool, row)
        reader = SpoolReader(spool, writer.epoch)
        problem = ""
        try:
            for items in reader.read(row.next_seq):
                if self._stopping.is_set():
                    raise _Stopped
                feed.put([_without_end(item) for item in items] if goes_on else items)
        except ImplausibleSpool as error:
            problem = str(error)
        if writer.owner and not feed.ended and not goes_on:
            if not problem and self._restarts.pending(spool.path, info.writer):
                feed.flush()
                self._restarts.wait(spool.path)
                return True
            is_attempt = "restarts" in info.writer and "end" not in info.writer
            goes_on = is_attempt and not self._runs(run.run_id)  # another one has said how the run ended
            if not goes_on:
                says = self._end_left_since(spool, info) if is_attempt else info
                feed.put_batch(_end(says or info, feed.position, _time_of_death(spool, feed.last_wall_time)))
        feed.flush()
        if writer.owner and not goes_on and not self._log.open_stream(run, writer).ended:
            return True  # the writer's last frames came in between, beyond what its damaged spool has: again from there
        self._tell(spool, row, feed)
        if problem:
            put_aside_whole(self._home, spool, problem)
        else:
            if odd := [*reader.foreign, *strangers(spool)]:
                put_aside(self._home, spool, odd)
            spool.remove()
        return False

    def _feed(self, spool: SpoolDirectory, row: StreamRow) -> Feed:
        blobs = SpoolBlobs(self._blobs, spool)
        return Feed(self._committer, row, self._log.dictionary(row.stream), blobs)

    def _adopt_claim(self, spool: SpoolDirectory, info: SpoolInfo) -> bool:
        """The owner of a run died that had written nothing of it itself, as launchers do: the run ends with its last writer.

        Or it has left how the run ends, should it not be started again.
        """
        run_id = str(info.run["run_id"])
        later = (other for other in self._log.streams(run_id) if other.owner and other.epoch > info.epoch)
        if "end" in info.writer and not all(self._is_of_one_attempt(spool, info, other) for other in later):
            spool.remove()  # the next attempt has begun
            return False
        if self._restarts.waits(spool.path, info.writer):
            return True
        if self._restarts.pending(spool.path, info.writer):
            self._restarts.wait(spool.path)
            return True
        others = [path for path in spool.path.parent.iterdir() if path != spool.path]
        if not all(map(self._is_claim, others)):
            return True
        if "end" in info.writer and any(0 < self._time_of_end(path) < self._time_of_end(spool.path) for path in others):
            return True  # what failed first is what the run failed of
        if self._runs(run_id):
            return self._adopt(spool, info)
        spool.remove()  # nobody wrote anything, or the end was said
        return False

    def _is_claim(self, path: Path) -> bool:
        try:
            return bool(self._spools.info(SpoolDirectory(path)).writer.get("claim"))
        except (OSError, ValueError):
            return False

    def _end_left_since(self, spool: SpoolDirectory, info: SpoolInfo) -> SpoolInfo | None:
        """The first end that was left for the run in a spool's attempt, or after it."""
        left = [path for path in spool.path.parent.iterdir() if self._time_of_end(path)]
        for path in sorted(left, key=self._time_of_end):
            other = self._spools.info(SpoolDirectory(path))
            if other.epoch > info.epoch or other.writer.get("restarts") == info.writer["restarts"]:
                return other
        return None

    def _is_of_one_attempt(self, spool: SpoolDirectory, info: SpoolInfo, stream: StreamRow) -> bool:
        """Whether a stream whose spool is there, as it has not ended, is of the attempt in which an end was left.

        A rank may fail before the first one, which its launcher ends then, has begun the run.
        """
        path = spool.path.with_name(f"{stream.writer_id}-{stream.epoch}")
        try:
            return self._spools.info(SpoolDirectory(path)).writer.get("restarts") == info.writer.get("restarts")
        except (OSError, ValueError):
            return False

    def _time_of_end(self, path: Path) -> float:
        """Of an end that is left in a spool; 0.0 where there is none."""
        try:
            return float(self._spools.info(SpoolDirectory(path)).writer["end"]["wall_time"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def _runs(self, run_id: str) -> bool:
        return any(run.status is RunStatus.RUNNING for run in self._log.runs(run_id))

    def _tell(self, spool: SpoolDirectory, row: StreamRow, feed: Feed) -> None:
        adopted = feed.position - row.next_seq
        if feed.lost:
            _log.error(
                "a damaged spool was adopted: some of its records are gone",
                extra={"spool": str(spool.path), "positions": adopted, "lost": feed.lost},
            )
        else:
            _log.info("a spool was adopted", extra={"spool": str(spool.path), "positions": adopted})

    # -- a living writer's spool

    def _read_along(self, spool: SpoolDirectory, info: SpoolInfo) -> bool:
        followed = self._followers.get(spool.path)
        now = time.monotonic()
        if followed is None:
            if not has_committed(spool, 0):
                return True
            row = self._log.open_stream(
                ParseDict(dict(info.run), wire.RunSpec(), ignore_unknown_fields=True),
                ParseDict(dict(info.writer), wire.WriterSpec(), ignore_unknown_fields=True),
            )
            feed = self._feed(spool, row)
            followed = self._followers[spool.path] = _Followed(Follower(spool, info.epoch, row.next_seq), feed)
        elif now < followed.next_look:
            return True
        followed.next_look = now + _READ_ALONG_EVERY
        try:
            while (items := followed.follower.take()) is not None:
                if self._stopping.is_set():
                    raise _Stopped
                followed.feed.put(items)
            followed.feed.flush()
            followed.follower.release()
        except BaseException:
            del self._followers[spool.path]  # what it has read is not all in the log: begin anew
            raise
        self._spools.read_along[spool.path] = followed.feed.position
        return True


class _Stopped(Exception):
    """The collector exits; the rest is adopted next time."""


class _Followed:
    def __init__(self, follower: Follower, feed: Feed) -> None:
        self.follower = follower
        self.feed = feed
        self.next_look = 0.0


def _without_end(item: SpoolItem) -> SpoolItem:
    return SpoolVoid(item.seq) if isinstance(item, SpoolBlob) and item.kind is BlobKind.RUN_END else item


def _end(info: SpoolInfo, position: int, wall_time: float) -> records.Batch:
    """The end of a run whose owner did not say it: as it was left for this case, or killed."""
    end = records.RunEnd(status=codec.status_to_wire(RunStatus.KILLED), reason=_KILLED, wall_time=wall_time)
    try:
        left = info.writer["end"]
        status, reason, ended = RunStatus(left["status"]), str(left["reason"]), float(left["wall_time"])
        end = records.RunEnd(status=codec.status_to_wire(status), reason=reason, wall_time=ended)
    except (KeyError, TypeError, ValueError):
        pass  # nothing is left, or it is damaged
    return records.Batch(first_seq=position, count=1, events=[records.Event(run_end=end)])


def _time_of_death(spool: SpoolDirectory, last_wall_time: float) -> float:
    """When the writer was last seen: its newest point, or the newest change of its files; not in the future."""
    changed = [path.stat().st_mtime for _, path in spool.segments()] or [time.time()]
    return min(time.time(), max([last_wall_time, *changed]))
