"""Files of a run: kept as they are at the call, or, when they are live, whenever they have changed."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal

from tracelet.core.artifactpaths import artifact_path, files_below
from tracelet.core.logbook import Recording
from tracelet.core.metrics import MetaValue
from tracelet.core.plan import RunPlan
from tracelet.core.snapshot import Signature, Snapshot
from tracelet.core.values import as_meta
from tracelet.guard import Guard, say

__all__ = ["ArtifactLog", "Policy"]

Policy = Literal["now", "live"]

_LOGGING: Final = Guard("recording an artifact")
_LARGE: Final = 256 * 1024 * 1024  # a larger file is copied by a thread
_LOOK_EVERY: Final = 2.0
_AT_END: Final = 600.0
_SAY_AFTER: Final = 5.0
_POLL: Final = 0.01
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class ArtifactLog(Recording):
    """The part of an `Experiment`'s interface that is about files."""

    plan: RunPlan
    _forked: bool

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        policy: Policy = "now",
        type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a file, or a folder with all that is in it, as an artifact of the run.

        What is there at the call arrives, also when it is overwritten or deleted right after: it is cloned where the file
        system can (XFS, Btrfs, …), else copied, in the call. A file of more than 256 MiB that cannot be cloned is copied by a
        thread: it may be deleted or replaced meanwhile, but not written to (that is said). Stopping the run waits for that.

        Links are followed, and each folder is visited once; empty folders, sockets, devices and tracelet's own home are left
        out.

        Args:
            path: the file or folder.
            name: its path in the run; by default its own name. "models/" is a folder for it. The contents of a folder come
                below that path, and with "." directly into the run. Another one with the same path takes its place. A path that
                leads out of the run, or has characters or a length that trackers refuse, is made fit, and marked by a `~hash`.
            policy: "now"; or "live": kept now, and again whenever it has changed (a look every two seconds, and a last one
                when the run stops).
            type: a word for what it is: "model", "dataset", ….
            metadata: what belongs to it: numbers, strings, booleans; anything else as its `str`.
        """
        if not self.active:
            self._tell_not_recorded()
            return
        with _LOGGING:
            if policy not in ("now", "live"):
                raise ValueError(f"policy {policy!r} is neither 'now' nor 'live'")
            said = as_meta(metadata or {})
            if type is not None:
                said["type"] = str(type)
            wanted = _Wanted(os.fsdecode(path), name, said, self.plan.home)
            files = self._of_this_process()
            files.take(wanted)
            if policy == "live":
                files.watch(wanted)

    def record_artifact(
        self, path: str, content: bytes, media_type: str, metadata: Mapping[str, MetaValue] | None = None
    ) -> None:
        """Keep content that tracelet made, as a file of the run.

        Args:
            path: fit to be an artifact's.
            content: all of it.
            media_type: what it is.
            metadata: what belongs to it.
        """
        if self.active:
            (self._recorder or self._begin()).artifact(path, content, media_type, time.time(), metadata or {})

    def _of_this_process(self) -> _Files:
        # A forked child has none of its parent's threads.
        files: dict[int, _Files] = self.__dict__.setdefault("_files", {})
        return files.get(os.getpid()) or files.setdefault(os.getpid(), _Files(self, in_call=self._forked))

    def _finish_artifacts(self) -> None:
        """Before the run's end: look at live files once more, and wait for what a thread copies."""
        files = self.__dict__.get("_files", {}).pop(os.getpid(), None)
        if files is not None:
            with _LOGGING:
                files.finish()


class _Wanted:
    """What one call wants: a file, or the files of a folder. Remembers what they were when they were last kept."""

    def __init__(self, path: str, name: str | None, metadata: dict[str, MetaValue], home: Path) -> None:
        self.path = os.path.abspath(path) if path else ""  # which is no file; the working directory is "."
        self._home = home
        self.metadata = metadata
        self.seen: dict[str, Signature] = {}
        own = os.path.basename(self.path)
        self.name = own if name is None else name + own if name.endswith("/") else name

    def files(self) -> list[tuple[str, str]]:
        """Path in the run and path of each file."""
        if os.path.isdir(self.path):
            prefix = "" if self.name in ("", ".", "./") else f"{self.name}/"
            return [(prefix + below, path) for below, path in files_below(self.path, self._home)]
        return [(self.name, self.path)]


class _Files:
    """Keeps the files of one run, in this process.

    Args:
        run: the run.
        in_call: there is no thread: this process may end without a word.
    """

    def __init__(self, run: ArtifactLog, in_call: bool) -> None:
        self._run = run
        self._in_call = in_call
        self._large: SimpleQueue[tuple[str, str, Snapshot, dict[str, MetaValue]] | None] = SimpleQueue()
        self._under_way: deque[str] = deque()  # paths, of copies that the thread has not finished
        self._live: list[_Wanted] = []
        self._thread: threading.Thread | None = None
        self._starting: dict[str, threading.Thread] = {}

    def take(self, wanted: _Wanted, *, changed_only: bool = False) -> None:
        """Keep what there is; or what has changed since the last time."""
        for name, path in wanted.files():
            try:
                if changed_only:
                    found = os.stat(path)
                    if wanted.seen.get(path) == (found.st_ino, found.st_size, found.st_mtime_ns):
                        continue
                recorder = self._run._recorder or self._run._begin()
                snapshot = Snapshot(path, recorder.spool.blobs)
            except OSError as error:
                if not (changed_only and error.errno == errno.ENOENT):  # a live file may go
                    self._tell(path, error)
                continue
            wanted.seen[path] = snapshot.signature
            if snapshot.size > _LARGE and not self._in_call:
                self._under_way.append(path)
                self._large.put((name, path, snapshot, wanted.metadata))
                self._start()
            else:
                with snapshot:
                    self._record(name, path, snapshot, wanted.metadata)

    def watch(self, wanted: _Wanted) -> None:
        """Look at it now and then."""
        self._live.append(wanted)
        self._start()

    def finish(self) -> None:
        """Nothing more will be kept but what is under way, and what has changed of live files."""
        self._large.put(None)
        until, say_at = time.monotonic() + _AT_END, time.monotonic() + _SAY_AFTER
        while (self._thread is not None and self._thread.is_alive()) and time.monotonic() < until:
            if time.monotonic() > say_at and self._under_way:
                say(f"waiting until {self._under_way[0]} is copied", key="waiting for a copy")
            time.sleep(_POLL)
        for path in list(self._under_way):
            say(f"{path} is not recorded: copying it took longer than {_AT_END:.0f} s")
        self._in_call = True
        self._look()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="tracelet-artifacts", daemon=True)
        if self._starting.setdefault("thread", thread) is thread:
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # too many, or the interpreter is about to exit: then in the calls
                self._in_call = True
                self._drain()

    def _work(self) -> None:
        next_look = time.monotonic() + _LOOK_EVERY
        while True:
            try:
                job = self._large.get(timeout=max(next_look - time.monotonic(), 0.0))
            except Empty:
                with _LOGGING:
                    self._look()
                next_look = time.monotonic() + _LOOK_EVERY
                continue
            if job is None:
                return
            self._copy(*job)

    def _drain(self) -> None:
        while not self._large.empty():
            if (job := self._large.get()) is not None:
                self._copy(*job)

    def _copy(self, name: str, path: str, snapshot: Snapshot, metadata: dict[str, MetaValue]) -> None:
        with _LOGGING, snapshot:
            self._record(name, path, snapshot, metadata)
        self._under_way.remove(path)

    def _look(self) -> None:
        for wanted in list(self._live):
            self.take(wanted, changed_only=True)

    def _record(self, given: str, path: str, snapshot: Snapshot, metadata: dict[str, MetaValue]) -> None:
        recorder = self._run._recorder or self._run._begin()
        try:
            content = snapshot.finish()
        except OSError as error:
            if error.errno in _NO_ROOM:
                recorder.spool.count_dropped()
            self._tell(path, error)
            return
        name = artifact_path(given)
        if name != given and "~" in name:
            say(f"artifact {given!r:.300} is kept as {name!r}")
        recorder.artifact(name, content, _media_type(name), snapshot.taken, metadata)

    def _tell(self, path: str, error: OSError) -> None:
        why = "no room; it is counted as dropped" if error.errno in _NO_ROOM else error.strerror or str(error)
        say(f"artifact {path} is not recorded: {why}")


def _media_type(name: str) -> str:
    import mimetypes  # reads files of the system when it is asked first

    return mimetypes.guess_type(name)[0] or ""
