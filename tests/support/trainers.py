"""Training scripts of the tests, as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import BUSY

ROOT = Path(__file__).parents[2]

# Logs `steps` points, tells through a file how many calls have returned, and stops. Knows no torch.
PLAIN = """
import mmap, os, struct, sys, time
import tracelet
returned_path, steps, pace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
file = open(returned_path, "r+b")
returned = mmap.mmap(file.fileno(), 8)
run = tracelet.start_logging(exp_name="trainer", project="faults")
for step in range(steps):
    run.log_metric("train/loss", step / 7, step)
    struct.pack_into("<q", returned, 0, step + 1)
    if pace:
        time.sleep(pace)
tracelet.stop_logging()
"""
# Does not log its last points before it is told to, however slow the test's process is: by a file `go`.
LAST = 100
PATIENT = PLAIN.replace(
    "    run.log_metric(",
    f"    while step == steps - {LAST} and not os.path.exists('go'): time.sleep(0.01)\n    run.log_metric(",
)


class Trainer:
    """A running script that counts the calls that have returned."""

    def __init__(self, folder: Path, environment: dict[str, str], steps: int, pace: float, script: str = PLAIN) -> None:
        self._returned = folder / "returned"
        self._returned.write_bytes(bytes(8))
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, str(self._returned), str(steps), str(pace)],
                cwd=folder,
                env=os.environ | environment | {"PYTHONFAULTHANDLER": "1"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def returned(self) -> int:
        """Calls that have returned."""
        return int.from_bytes(self._returned.read_bytes(), "little")

    @property
    def over(self) -> bool:
        """It has ended."""
        return self.process.poll() is not None

    def kill(self) -> int:
        """Kill it with signal 9; how many calls had returned."""
        self.process.kill()
        self.process.wait(60)
        return self.returned

    def finish(self, seconds: float) -> int:
        """Wait for its end; the exit code. One that does not end says where its threads are."""
        try:
            return self.process.wait(seconds * BUSY)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(60)
            raise AssertionError(self.errors.read_text()) from None
