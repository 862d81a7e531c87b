"""How this process ends: finished, failed or interrupted.

No excepthook and no signal handler: other tools chain theirs, and a Python handler delays a signal. A run *failed* when an
uncaught exception was printed (`sys.last_value`) or a non-zero code went through `sys.exit`; under `tracelet run` its runner
sees every code and notes it here. A process that dies by a signal says nothing: the collector finds its spool unlocked.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from tracelet.core.metrics import RunStatus

__all__ = ["install", "keep_interrupt", "note", "of_exception", "outcome", "uninstall"]

_noted: tuple[int, str] | None = None
_original: Callable[..., NoReturn] | None = None
_installed: Callable[..., NoReturn] | None = None
_enabled = False


def note(code: int, reason: str) -> None:
    """The process will end with this code; minus a signal's number when it dies of that."""
    global _noted
    _noted = (code, reason)


def outcome() -> tuple[RunStatus, str]:
    """How the process stands: what a run that ends now ends as."""
    if _noted is not None:
        code, reason = _noted
        return (RunStatus.KILLED if code < 0 else RunStatus.FAILED if code else RunStatus.FINISHED), reason
    error = getattr(sys, "last_value", None)
    if error is not None and not hasattr(sys, "ps1"):  # at a prompt, an exception ends nothing
        return of_exception(error)
    return RunStatus.FINISHED, ""


def of_exception(error: BaseException) -> tuple[RunStatus, str]:
    """How a run ends that an exception ends: interrupted is *killed*, anything else *failed*."""
    status = RunStatus.KILLED if isinstance(error, KeyboardInterrupt) else RunStatus.FAILED
    return status, f"{type(error).__name__}: {error}".removesuffix(": ")[:500]


def keep_interrupt() -> None:
    """Have a process that an uncaught KeyboardInterrupt ends still die of SIGINT, whatever ran since.

    CPython forgets that it was interrupted whenever a string is executed, as imports at exit do (dataclasses, namedtuples), and
    then exits with 1. A string that ends by KeyboardInterrupt reminds it.
    """
    if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
        try:
            exec("raise KeyboardInterrupt")
        except KeyboardInterrupt:
            return


def install() -> None:
    """Watch `sys.exit`."""
    global _original, _installed, _enabled
    _enabled = True
    if _installed is not None:
        return
    original: Any = sys.exit
    _original = original

    def exit(code: Any = None, /) -> NoReturn:
        if _enabled and threading.current_thread() is threading.main_thread():
            failed = code is not None and code != 0
            number = code if isinstance(code, int) else 1
            note(number if failed else 0, f"exit code {number}" if failed else "")
        original(code)
        raise AssertionError("sys.exit returned")

    exit.__doc__ = original.__doc__
    _installed = exit
    sys.exit = exit


def uninstall() -> None:
    """Put `sys.exit` back, if it is still ours; else leave a pass-through."""
    global _installed, _enabled
    _enabled = False
    if _installed is not None and sys.exit is _installed and _original is not None:
        sys.exit = _original
        _installed = None
