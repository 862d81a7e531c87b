"""How this process ends: finished, failed or interrupted.

No excepthook and no signal handler: other tools chain theirs, and a Python handler delays a signal. A run *failed* when an
uncaught exception was printed (`sys.last_value`), one was under way when the run was stopped, or a non-zero code went through
`sys.exit`; under `tracelet run` its runner sees every code and notes it here. A code that is given while an interrupt is being
handled says that the run was *killed*, as the interrupt would, and so does what Lightning leaves by after SIGTERM. A process
that dies by a signal says nothing: the collector finds its spool unlocked.
"""

from __future__ import annotations

import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

from tracelet.core.metrics import RunStatus
from tracelet.guard import swallow

__all__ = [
    "install",
    "is_terminated",
    "keep_interrupt",
    "note",
    "of_exception",
    "outcome",
    "passes",
    "told",
    "under_way",
    "uninstall",
]

_TERMINATED: Final = "SIGTERMException"  # Lightning's, a SystemExit of code 0

_MOST_WORDS: Final = 500  # of an exception

_noted: tuple[int, str] | None = None
_original: Callable[..., NoReturn] | None = None
_installed: Callable[..., NoReturn] | None = None
_enabled = False
_passing: weakref.ref[_Passing] | None = None


def note(code: int, reason: str) -> None:
    """The process will end with this code; minus a signal's number when it dies of that."""
    global _noted
    _noted = (code, reason)


def under_way() -> int:
    """What tells the exception that is being handled, or passes by on its way up, from others; 0: there is none."""
    error = sys.exc_info()[1]
    # A generator or an iterator that is over is no failure, though exceptions say it.
    return 0 if error is None or isinstance(error, StopIteration | StopAsyncIteration | GeneratorExit) else id(error)


def outcome(began_during: int = 0) -> tuple[RunStatus, str]:
    """How the process stands: what a run that ends now ends as.

    Args:
        began_during: what was `under_way` when the run began: that did not end it.
    """
    if under_way() not in (0, began_during):
        return of_exception(cast(BaseException, sys.exc_info()[1]))
    if _script_goes_on():
        return RunStatus.FINISHED, ""
    if _noted is not None:
        code, reason = _noted
        return (RunStatus.KILLED if code < 0 else RunStatus.FAILED if code else RunStatus.FINISHED), told(reason)
    error = getattr(sys, "last_value", None)
    if error is not None and not hasattr(sys, "ps1"):  # at a prompt, an exception ends nothing
        return of_exception(error)
    return RunStatus.FINISHED, ""


def of_exception(error: BaseException) -> tuple[RunStatus, str]:
    """How a run ends that an exception ends: interrupted or cancelled is *killed*, a non-zero exit code or others *failed*."""
    if isinstance(error, GeneratorExit):
        return RunStatus.FINISHED, ""
    if is_terminated(error):
        return RunStatus.KILLED, "SIGTERM"
    if isinstance(error, SystemExit):
        code = _exit_code(error.code)
        if code and (cause := _interrupt_behind(error)) is not None:
            return of_exception(cause)
        return (RunStatus.FAILED, f"exit code {code}") if code else (RunStatus.FINISHED, "")
    interrupted = isinstance(error, KeyboardInterrupt) or type(error).__name__ == "CancelledError"
    try:
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # the user's own __str__ fails
        said = type(error).__name__
    return RunStatus.KILLED if interrupted else RunStatus.FAILED, told(said)


def told(said: str) -> str:
    """The words of an exception as they may be told: without secrets, and not too many."""
    kind, colon, words = said[: 8 * _MOST_WORDS].partition(":")
    if not colon:
        return said[:_MOST_WORDS]
    try:
        from tracelet.secrets import learn_surroundings, redacted_text

        learn_surroundings()
        return f"{kind}:{redacted_text(words)}"[:_MOST_WORDS]
    except Exception as error:  # at the very end nothing can be imported
        swallow("telling why the run ended", error)
        return kind


def is_terminated(error: BaseException) -> bool:
    """Whether an exception says that the process was told to end, by SIGTERM, and does so gracefully, with code 0."""
    return isinstance(error, SystemExit) and type(error).__name__ == _TERMINATED


def passes(error: SystemExit) -> object:
    """Note how the process ends that a SystemExit leaves, where its code does not say it.

    Returns:
        What the caller keeps in its frame: it goes with the exception, and what was noted with it, when the script catches it.
    """
    global _passing
    if not _enabled or not is_terminated(error) or threading.current_thread() is not threading.main_thread():
        return None
    note(-signal.SIGTERM, "SIGTERM")
    passing = _Passing()
    _passing = weakref.ref(passing, _gone)
    return passing


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that was being handled when a script left by `sys.exit`, as Lightning does; None when there was none."""
    behind = None if error is None else error.__context__
    return behind if isinstance(behind, KeyboardInterrupt) else None


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
    global _original, _installed, _enabled, _noted
    _enabled = True
    if _script_goes_on():
        _noted = None  # a `sys.exit` that was caught
    if _installed is not None:
        return
    original: Any = sys.exit
    _original = original

    def exit(status: Any = None, /) -> NoReturn:
        global _passing
        if _enabled and threading.current_thread() is threading.main_thread():
            code = _exit_code(status)
            interrupted = code and isinstance(sys.exc_info()[1], KeyboardInterrupt)
            note(-signal.SIGINT if interrupted else code, _words(code, bool(interrupted)))
            passing = _Passing()  # in this frame, which the exception's traceback keeps
            _passing = weakref.ref(passing, _gone)
        original(status)
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


class _Passing:
    """That the exception of a `sys.exit` is under way."""


def _gone(_: object) -> None:
    """An exception of `sys.exit` is no more: the script caught it, or the interpreter has got it and is about to end."""
    global _noted
    if _script_goes_on():
        _noted = None


def _words(code: int, interrupted: bool) -> str:
    if interrupted:
        return "KeyboardInterrupt"
    return f"exit code {code}" if code else ""


def _exit_code(status: object) -> int:
    """The exit code that the interpreter makes of what `sys.exit` is given."""
    if isinstance(status, SystemExit):
        status = status.code
    if isinstance(status, tuple) and len(status) < 2:  # arguments of the exception
        status = status[0] if status else None
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


def _script_goes_on() -> bool:
    """Whether this is called from the script: it is not at its end, and exceptions that it caught are its own affair."""
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_name == "<module>":
            return True
    return False
