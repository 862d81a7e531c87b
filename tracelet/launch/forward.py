"""A command that is no Python (bash, make, a binary): run as a child, with signals and exit code passed through.

Replacing this process, as for a Python, would leave nobody to say how the run ended: a shell has no tracelet. So this
process stays, owns the run that the command's Python children write, and ends it as the command ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

__all__ = ["describe", "die_of", "run_child"]

_PASSED: Final = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGCONT,
        signal.SIGWINCH,
    }
)
_PR_SET_PDEATHSIG: Final = 1
_TICK: Final = 0.5
_LONG: Final = 60.0


class Child:
    """A program that runs; signals to this process reach it."""

    def __init__(self, program: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        watched = _PASSED | {signal.SIGCHLD}
        # Held back until somebody waits for them: none is missed while the child starts.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        self._watched = watched
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(program, words, environment, before, parent)

    def wait(self, meanwhile: Callable[[], bool]) -> int:
        """Wait for its end, passing signals on.

        Args:
            meanwhile: called twice a second, until it says that it has nothing left to do.

        Returns:
            Its exit code, or minus the number of the signal that killed it.
        """
        busy = True
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            number, had_it = _next_signal(self._watched, _TICK if busy else _LONG)
            if number == 0:
                busy = busy and not meanwhile()
            elif number != signal.SIGCHLD and not had_it:
                os.kill(self.pid, number)


def run_child(program: str, words: Sequence[str], environment: Mapping[str, str]) -> Child:
    """Start a program as a child.

    Args:
        program: its path.
        words: its arguments, its own name first.
        environment: its environment.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    return Child(program, words, environment)


def describe(code: int) -> str:
    """How a child ended, in words; empty for a success."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def die_of(number: int) -> None:
    """End this process by a signal, as its child ended, so that whoever waits for it sees the same."""
    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)


def _next_signal(watched: frozenset[signal.Signals], seconds: float) -> tuple[int, bool]:
    """The next signal, and whether the child has had it too: the terminal sends to both. 0 when none comes in time."""
    if hasattr(signal, "sigtimedwait"):
        info = signal.sigtimedwait(watched, seconds)
        return (info.si_signo, info.si_code > 0) if info is not None else (0, False)
    number = signal.sigwait(watched)
    return number, number in {signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH} and os.isatty(0)


def _become(
    program: str, words: Sequence[str], environment: Mapping[str, str], mask: set[signal.Signals | int], parent: int
) -> NoReturn:
    """In the child: turn into the program."""
    try:
        if sys.platform == "linux":
            # kill -9 of this process is kill -9 of the command.
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(128 + signal.SIGKILL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a child would inherit
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(program, list(words), dict(environment))
    except OSError as error:
        os.write(2, f"tracelet: cannot start {program}: {error.strerror}\n".encode())
    finally:
        os._exit(126)
