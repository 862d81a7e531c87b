"""Imports on a thread of ours, kept apart from forks of the user's.

A child that is forked while another thread imports a module inherits the module's lock, locked for good: when the child
imports that module too, it hangs. So a fork waits until an import of ours is through: a fraction of a second, once.
"""

from __future__ import annotations

import logging  # noqa: F401 - see the end
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["EXITING", "importing"]

try:
    import concurrent.futures.thread  # noqa: F401 - see the end
except RuntimeError:  # the interpreter is about to exit, and takes no more of what gRPC needs
    EXITING = True
else:
    EXITING = False

# A fork in the middle of an import that ours waits for would wait for ever.
_PATIENCE: Final = 5.0
_lock = threading.Lock()
_forking = threading.local()


@contextmanager
def importing() -> Iterator[None]:
    """While this is open, no other thread forks."""
    with _lock:
        yield


def _before() -> None:
    _forking.holds = _lock.acquire(timeout=_PATIENCE)


def _in_parent() -> None:
    if getattr(_forking, "holds", False):
        _lock.release()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()


# Hooks run before a fork in reverse order: ours, which waits, must come before those of these modules, which take locks that an
# import may need. So they are imported above.
os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
