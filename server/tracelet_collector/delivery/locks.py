"""One worker at a time per target: a file lock that dies with its holder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tracelet_collector.exporters.base import Retryable

__all__ = ["exclusive"]

_POLL: Final = 0.02


@contextmanager
def exclusive(folder: Path, target: str, patience: float) -> Iterator[None]:
    """Hold the lock of a target.

    Two workers can meet at one target: an orphan whose collector was killed finishes its call while the next collector's
    worker begins, and two interpreters may deliver to one SQLite file.

    Args:
        folder: where the lock files are.
        target: the tracker's URI.
        patience: seconds to wait for another holder.

    Raises:
        Retryable: another process held it all the time.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    descriptor = os.open(folder / f"target-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Retryable("another worker is still delivering to the same target") from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)
