"""Finds the local collector, or starts one: at most one for each home, however many scripts start at once."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tracelet.errors import CollectorError

__all__ = ["AS_IT_IS", "Endpoint", "Starting", "ensure", "find", "holder", "start", "take_over"]

_KEEP: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME",
)  # fmt: skip
_POLL: Final = 0.02
_TAIL: Final = 4096
_MORE: Final = 3  # collectors that are started in the place of one that was killed at its start
_OURS: Final = "tracelet_collector: "


@dataclass(frozen=True, slots=True)
class Starting:
    """How a collector is to be that is started here; None leaves it to the collector.

    Attributes:
        idle: seconds after which it exits when it has nothing to do.
        retention_days: days that it keeps a run's records after the run's end; 0 for ever.
        retention_bytes: bytes of log and blobs beyond which it gives up the oldest; 0 for no limit.
    """

    idle: float | None = None
    retention_days: float | None = None
    retention_bytes: int | None = None

    def words(self) -> list[str]:
        """Options of its command line."""
        said = [("idle", self.idle), ("retention-days", self.retention_days), ("retention-bytes", self.retention_bytes)]
        return [word for name, value in said if value is not None for word in (f"--{name}", str(value))]


AS_IT_IS: Final = Starting()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A collector that says it serves.

    Attributes:
        address: a gRPC target.
        pid: its process.
        version: tracelet's version there.
        wire: the wire's version there.
    """

    address: str
    pid: int
    version: str
    wire: tuple[int, int]


def find(home: Path) -> Endpoint | None:
    """The collector of a home, as it announced itself; None when none does, or its process is gone."""
    try:
        said = json.loads((home / "endpoint.json").read_text())
        major, minor = said["wire"]
        endpoint = Endpoint(str(said["address"]), int(said["pid"]), str(said["version"]), (int(major), int(minor)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return endpoint if _accepts(endpoint.address) else None


def ensure(home: Path, deadline: float, starting: Starting = AS_IT_IS) -> Endpoint:
    """The collector of a home; started when there is none.

    Args:
        home: tracelet's home.
        deadline: seconds.
        starting: how one is to be that is started here.

    Raises:
        CollectorError: none came up in time; the message says where its own words are.
    """
    until = time.monotonic() + deadline
    if (endpoint := find(home)) is not None:
        return endpoint
    with _only_starter(home, until):
        return find(home) or _start_and_find(home, until, starting)


def take_over(
    home: Path, older: Endpoint, leave: Callable[[], None], deadline: float, starting: Starting = AS_IT_IS
) -> Endpoint:
    """Start a collector in the place of another one. Whoever else wants one meanwhile waits, and finds this one.

    Args:
        home: tracelet's home.
        older: the one that serves it. When another one does by now, that is the answer.
        leave: asks it to leave.
        deadline: seconds.
        starting: as for `ensure`.

    Raises:
        CollectorError: it did not leave, or none came up in time.
    """
    until = time.monotonic() + deadline
    with _only_starter(home, until):
        if (endpoint := find(home)) is not None and endpoint.pid != older.pid:
            return endpoint
        leave()
        while (endpoint := find(home)) is not None and endpoint.pid == older.pid:
            if time.monotonic() >= until:
                raise CollectorError(f"the collector (pid {older.pid}, version {older.version}) did not leave in time")
            time.sleep(_POLL)
        return endpoint or _start_and_find(home, until, starting)


def holder(home: Path) -> int | None:
    """Who serves a home, announced or not: starting, ending, or with a spoiled announcement.

    Returns:
        Its process id; 0 when it does not say; None when nobody serves.
    """
    try:
        lock = os.open(home / "collector.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared, and for an instant: should a collector be about to start now, it tries again.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        said = os.pread(lock, 32, 0).strip()
        return int(said) if said.isdigit() else 0
    finally:
        os.close(lock)
    return None


def _start_and_find(home: Path, until: float, starting: Starting) -> Endpoint:
    words = home / "collector.err"
    before, older = _size(words), holder(home)
    start(home, starting)
    served, more = False, _MORE
    while time.monotonic() < until:
        if (endpoint := find(home)) is not None:
            return endpoint
        if said := _refusal(words, before):
            raise CollectorError(f"no collector can serve {home}: {said}")
        if (pid := holder(home)) not in (None, 0, older):
            served = True
        elif served and pid is None and more:
            # It was killed before anybody found it. Not one after the other, though, where each of them is.
            served, more = False, more - 1
            start(home, starting)
        time.sleep(_POLL)
    raise CollectorError(f"no collector came up for {home}; what it said is in {words}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _refusal(words: Path, since: int) -> str:
    """Why a collector that was started has ended, in its own words; empty when it has said nothing."""
    try:
        if words.stat().st_size <= since:
            return ""
        with words.open("rb") as file:
            file.seek(since)
            said = file.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""
    whole = [line for line in said.split("\n")[:-1] if line.startswith(_OURS) and not line.endswith("nothing to do")]
    return whole[-1].removeprefix(_OURS) if whole else ""


def start(home: Path, starting: Starting = AS_IT_IS) -> None:
    """Start a collector that outlives this process. It ends by itself when another serves the home already."""
    command = [sys.executable, "-m", "tracelet_collector", "serve", "--home", str(home), *starting.words()]
    environment = {name: os.environ[name] for name in _KEEP if name in os.environ}
    # Through a shell that ends at once: the collector is nobody's child, so the user's os.wait() never meets it, and it
    # stays no zombie. It inherits neither descriptors, terminal, folder nor environment of the script.
    script = 'exec </dev/null >>"$1" 2>&1 || exit; shift; "$@" &'
    shell = ["/bin/sh", "-c", script, "sh", str(home / "collector.err"), *command]
    try:
        subprocess.run(
            shell, cwd="/", env=environment, start_new_session=True, timeout=10, check=True, capture_output=True
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise CollectorError(f"cannot start a collector for {home}: {said or error}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise CollectorError(f"cannot start a collector for {home}: {error}") from error


def _accepts(address: str) -> bool:
    """Whether somebody listens there: a socket file may be stale, and a lock would disturb a collector that starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address.removeprefix("unix:"))
        except OSError:
            return False
    return True


@contextmanager
def _only_starter(home: Path, until: float) -> Iterator[None]:
    """One process at a time starts a collector; the others wait, and find it."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have deleted it under a running script
        lock = os.open(home / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CollectorError(f"cannot start a collector for {home}: {error}") from error
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise CollectorError(
                        f"another process has been starting a collector for {home} for too long"
                    ) from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(lock)
