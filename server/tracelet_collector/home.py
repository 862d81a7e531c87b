"""The collector's place: its home, the lock that makes it the only one there, its socket, and its announcement."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tracelet.errors import HomeError, TraceletError
from tracelet.proto import codec
from tracelet.version import __version__

__all__ = ["MAX_SOCKET_PATH", "AlreadyServed", "HomeLock", "SocketError", "blobs_path", "log_path", "socket_path"]

MAX_SOCKET_PATH: Final = 100  # gRPC takes 107 bytes, macOS 103
_PATIENCE: Final = 15.0  # for one that is about to end
_POLL: Final = 0.05


class AlreadyServed(TraceletError):
    """Another collector serves the home."""


class SocketError(TraceletError):
    """There is no place for the collector's socket that is short enough and private."""


def log_path(home: Path) -> Path:
    """The log's file."""
    return home / "log" / "tracelet.db"


def blobs_path(home: Path) -> Path:
    """The folder of the content-addressed store."""
    return home / "log" / "blobs"


def socket_path(home: Path) -> Path:
    """Where the collector of a home listens: in a private folder, made when it is not there.

    The first of `$XDG_RUNTIME_DIR/tracelet` and `/tmp/tracelet-<uid>` that will do.

    Raises:
        SocketError: neither will.
    """
    name = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16] + ".sock"
    folders = [Path("/tmp") / f"tracelet-{os.getuid()}"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folders.insert(0, Path(runtime) / "tracelet")
    problems = []
    for folder in folders:
        path = folder / name
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            problems.append(f"{path} has more than {MAX_SOCKET_PATH} bytes")
        elif problem := _unfit(folder):
            problems.append(f"{folder} {problem}")
        else:
            return path
    raise SocketError(
        f"no place for the collector's socket: {'; '.join(problems)}. Set XDG_RUNTIME_DIR to a short path"
    )


def _unfit(folder: Path) -> str | None:
    """Why a folder cannot hold the socket: others could put theirs in its place."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder"
    if found.st_uid != os.getuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"is open to others (chmod 700 {folder})"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written to"
    return None


class HomeLock:
    """The right to serve a home: held until the process ends or `release` is called.

    A holder that has not announced itself is starting or ending: it is waited for, until it does or is gone.

    Args:
        home: tracelet's home; made when it is not there.
        patience: seconds to wait for it.

    Raises:
        HomeError: it cannot be used.
        AlreadyServed: another collector has it.
    """

    def __init__(self, home: Path, patience: float = _PATIENCE) -> None:
        self.home = home
        self._said = ""
        self._endpoint = home / "endpoint.json"
        self._path = home / "collector.lock"
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if home.stat().st_uid != os.getuid():
                raise HomeError(home, "it belongs to another user")
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except HomeError:
            raise
        except OSError as error:
            raise HomeError(home, error.strerror or str(error)) from error
        try:
            self._lock(time.monotonic() + patience)
        except BaseException:
            os.close(self._descriptor)
            raise
        # For people, and for commands that find no announcement: who it is. A full disk may not take it.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        # What a predecessor left that was killed.
        self._endpoint.unlink(missing_ok=True)

    def _lock(self, until: float) -> None:
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if self._endpoint.exists() or time.monotonic() >= until:
                    raise AlreadyServed(f"another collector serves {self.home}") from error
            except OSError as error:
                raise HomeError(self.home, f"it cannot be locked: {error.strerror}") from error
            else:
                return
            time.sleep(_POLL)

    def writable(self) -> None:
        """Check that files can be made in the home.

        Raises:
            HomeError: they cannot.
        """
        try:
            tempfile.TemporaryFile(dir=self.home).close()
        except OSError as error:
            raise HomeError(self.home, error.strerror or str(error)) from error

    def announce(self, address: str, more: Mapping[str, Any]) -> None:
        """Say in `endpoint.json` where the collector listens; it must accept connections by now."""
        said = {
            "pid": os.getpid(),
            "version": __version__,
            "address": address,
            "wire": [codec.WIRE_MAJOR, codec.WIRE_MINOR],
            "started": time.time(),
            **more,
        }
        self._said = json.dumps(said)
        self._announce()

    def _announce(self) -> None:
        draft = self._endpoint.with_name("endpoint.json.new")
        draft.write_text(self._said)
        draft.rename(self._endpoint)

    def withdraw(self) -> None:
        """Take the announcement back."""
        self._said = ""
        with suppress(OSError):  # somebody has put something in the home's place
            self._endpoint.unlink(missing_ok=True)

    def still_held(self, socket: Path) -> bool:
        """Whether others can still find this collector: the lock's file and the socket are where they were made.

        Somebody may have deleted the home, or a cleaner of temporary files the socket.
        """
        try:
            there, mine = self._path.stat(), os.fstat(self._descriptor)
            socket.lstat()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def repair(self) -> bool:
        """Announce again what somebody has deleted or spoiled.

        Returns:
            Whether there was anything to repair.

        Raises:
            OSError: it cannot be written now.
        """
        try:
            if not self._said or self._endpoint.read_bytes() == self._said.encode():
                return False
        except OSError:
            pass  # gone, or no file at all
        self._announce()
        return True

    def release(self) -> None:
        """Let another collector serve the home."""
        os.close(self._descriptor)
