"""Starts worker processes, all from one thread that outlives them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeAlias

__all__ = ["Spawner"]

_WAIT: Final = 60.0
_Process: TypeAlias = "subprocess.Popen[bytes]"


class Spawner:
    """The thread that starts workers.

    A worker asks Linux to kill it when its parent dies. Linux means the *thread* that started it: a worker started by a
    thread that ends later would die for no reason.
    """

    def __init__(self) -> None:
        self._requests: SimpleQueue[tuple[Sequence[str], Mapping[str, str], int, Path, Future[_Process]] | None]
        self._requests = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="worker-spawner", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and with it (on Linux) every worker that still runs."""
        self._requests.put(None)
        if self._thread.is_alive():
            self._thread.join(5.0)

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], descriptor: int, log: Path) -> _Process:
        """Start a process: folder `/`, a session of its own, output to `log`.

        Args:
            command: program and arguments.
            environment: all of it.
            descriptor: the one that the process inherits.
            log: is appended to.

        Raises:
            OSError: the program cannot be started.
        """
        result: Future[_Process] = Future()
        self._requests.put((command, environment, descriptor, log, result))
        return result.result(_WAIT)

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            command, environment, descriptor, log, result = request
            try:
                result.set_result(_start(command, environment, descriptor, log))
            except BaseException as error:
                result.set_exception(error)


def _start(command: Sequence[str], environment: Mapping[str, str], descriptor: int, log: Path) -> _Process:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(descriptor,),
            start_new_session=True,  # a Ctrl-C in the collector's terminal is not the worker's
        )
