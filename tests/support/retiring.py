"""A process that retires a run and is killed in the middle of it: `python -m tests.support.retiring HOME RUN MOMENT`.

Moments are counted: before the mark, after it, after each content is removed (in the middle of a transaction), after each step.
It ends with 0 when there are not as many.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

from tracelet_collector.blobs import BlobStore
from tracelet_collector.home import blobs_path, log_path
from tracelet_collector.log import retiring
from tracelet_collector.log.sqlite import SqliteLog


def main(home: Path, run_id: str, moment: int) -> None:
    moments = count()

    def maybe_die() -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def remove(sha256: str) -> bool:
        gone = blobs.remove(sha256)
        maybe_die()
        return gone

    retiring.STEP_BYTES = 600  # several steps of a small log
    retiring._ROWS = 7
    retiring._BLOBS = 2
    log = SqliteLog(log_path(home))
    blobs = BlobStore(blobs_path(home))
    maybe_die()
    log.retire(run_id)
    maybe_die()
    for _ in log.purge(remove):
        maybe_die()
    for _ in log.shrink():
        maybe_die()
    log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
