"""Whether a writer that is gone is about to be started again: by a launcher that said so in its spool, and still lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final

__all__ = ["Restarts"]

_BLIND: Final = 600.0  # seconds to wait for a restart where nobody here can see the launcher


class Restarts:
    """The restarts that are pending.

    Args:
        waiting: where it keeps the spools that wait for one, and whose records are all in the log.
    """

    def __init__(self, waiting: set[Path]) -> None:
        self._waiting = waiting
        self._seen: dict[Path, float] = {}

    def pending(self, spool: Path, writer: Mapping[str, Any]) -> bool:
        """Whether the writer of a spool may be started again.

        Args:
            spool: its folder.
            writer: what `spool.json` says of it; without `restarts` nobody starts it again.
        """
        launcher = writer.get("restarts")
        if not isinstance(launcher, Mapping):
            return False
        try:
            lives = _lives(launcher, str(writer.get("host", "")))
        except (KeyError, TypeError, ValueError):
            return False
        except OSError:
            lives = None  # what tells it cannot be read here
        if lives is None:
            return time.monotonic() - self._seen.setdefault(spool, time.monotonic()) < _BLIND
        return lives

    def wait(self, spool: Path) -> None:
        """Everything of a spool is in the log; it stays until the restart, or until there will be none."""
        self._waiting.add(spool)

    def waits(self, spool: Path, writer: Mapping[str, Any]) -> bool:
        """Whether a spool was told to wait, and has to go on with it."""
        if spool in self._waiting and not self.pending(spool, writer):
            self._waiting.discard(spool)
        return spool in self._waiting

    def forget_but(self, there: Set[Path]) -> None:
        """Forget the spools that are gone."""
        self._waiting.intersection_update(there)
        for gone in self._seen.keys() - there:
            del self._seen[gone]


def _lives(launcher: Mapping[str, Any], host: str) -> bool | None:
    """Whether a process lives; None where it cannot be seen from here: on another machine, or in another container."""
    boot, pid, started = str(launcher["boot"]), int(launcher["pid"]), str(launcher["started"])
    if not Path("/proc/self/stat").exists():
        if host != socket.gethostname():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True
    if boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
        return False if host == socket.gethostname() else None  # it was started anew meanwhile
    if launcher["namespace"] != os.readlink("/proc/self/ns/pid"):
        return None
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return said[0] != "Z" and said[19] == started
