"""A process that appends to a log and says what was acked: `python -m tests.support.log_writer DB BATCHES [HOW]`.

Each batch holds ten positions. On a failure it says so and tries the same batch again. It ends as if killed. The third
argument may be "grow": it lifts its own limit on the size of files after the third failure; or "frail": it is
killed the moment a commit fails.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from tracelet_collector.log.base import Append, LogFailed
from tracelet_collector.log.handle import WriteHandle
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import batch, opening, run_spec, writer_spec

RUN = "r"
EACH = 10


def say(words: str) -> None:
    os.write(1, f"{words}\n".encode())


def _die(handle: WriteHandle, error: object) -> None:
    say(f"FAILED {error}")
    os.kill(os.getpid(), signal.SIGKILL)


def arguments() -> tuple[Path, int, str]:
    return Path(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:])


def main(path: Path, batches: int, how: str) -> None:
    log = SqliteLog(path)
    if how == "frail":
        WriteHandle._give_up = _die  # type: ignore[method-assign]
    stream = log.open_stream(run_spec("mlflow", run_id=RUN), writer_spec()).stream
    failures = 0
    for number in range(batches):
        made = batch(number * EACH, EACH) if number else opening(EACH)
        while True:
            try:
                (outcome,) = log.append([Append(stream, made.SerializeToString())])
                say(f"ACK {outcome}")
                break
            except LogFailed as error:
                failures += 1
                say(f"FAILED {error}")
                if failures > 200:
                    sys.exit("it never went on")
                if how == "grow" and failures == 3:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*arguments())
