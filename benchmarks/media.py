"""What recording media costs the training thread: CPU of a SummaryWriter's call under tracelet, and of the same call without.

Both take turns in one process, so that they meet the same machine. An artifact is compared with a copy of the same file.

    python benchmarks/media.py --calls 300 --rounds 5 --json media.json
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from home import temporary_home
from machine import describe
from report import Report, spread

MIB = 1024 * 1024


def calls() -> dict[str, Callable[[Any, int], None]]:
    """What is called, by its name in the table."""
    import numpy as np

    rng = np.random.default_rng(0)
    picture, noise = np.zeros((3, 64, 64), np.uint8), rng.integers(0, 255, (3, 64, 64), dtype=np.uint8)
    picture[:, 16:48, 16:48] = 200
    large, values = rng.integers(0, 255, (3, 256, 256), dtype=np.uint8), rng.normal(size=10_000)
    return {
        "add_image 64x64, a drawing": lambda writer, step: writer.add_image("drawing", picture, step),
        "add_image 64x64, noise": lambda writer, step: writer.add_image("noise", noise, step),
        "add_image 256x256, noise": lambda writer, step: writer.add_image("large", large, step),
        "add_histogram, 10k values": lambda writer, step: writer.add_histogram("values", values, step),
        "add_text, 100 characters": lambda writer, step: writer.add_text("text", "words " * 16, step),
    }


def paired(writer: Any, framework: Any, call: Callable[[Any, int], None], count: int) -> tuple[float, float]:
    """CPU of a call in this thread, in µs: bare, and recorded."""
    spent = {False: 0, True: 0}
    for step in range(2 * count):
        framework.tracking = recorded = step % 2 == 1
        begun = time.thread_time_ns()
        call(writer, step)
        spent[recorded] += time.thread_time_ns() - begun
        time.sleep(0.002)  # TensorBoard's own thread, and the sender
    return spent[False] / count / 1e3, spent[True] / count / 1e3


def artifact(run: Any, folder: Path, size: int) -> tuple[float, float]:
    """Seconds to copy a file and hash it, and to log it as an artifact."""
    source = folder / "model.pt"
    source.write_bytes(os.urandom(size))
    begun = time.perf_counter()
    shutil.copyfile(source, folder / "copy.pt")
    with (folder / "copy.pt").open("rb") as file:
        hashlib.file_digest(file, "sha256")
    copied = time.perf_counter() - begun
    begun = time.perf_counter()
    run.log_artifact(source)
    return copied, time.perf_counter() - begun


def measure(report: Report, count: int, rounds: int) -> None:
    """Measure all of it, in this process."""
    from torch.utils.tensorboard import SummaryWriter

    import tracelet

    with temporary_home() as home, tempfile.TemporaryDirectory() as folder:
        os.environ.update(home.environment())
        os.chdir(home.path)
        run = tracelet.start_logging(exp_name="media")
        writer = SummaryWriter(folder)
        for title, call in calls().items():
            for step in range(20):
                call(writer, step)  # what is loaded by the first call
            rows = [paired(writer, run._frameworks["pytorch"], call, count) for _ in range(rounds)]
            added = [recorded - bare for bare, recorded in rows]
            ratios = statistics.median(recorded / bare for bare, recorded in rows)
            report.add(
                f"CPU added to {title}, training thread, µs",
                spread(added, 0),
                beside=f"bare {spread([bare for bare, _ in rows], 0)}; {ratios:.2f} of it",
                rounds=added,
            )
        times = [artifact(run, Path(folder), 64 * MIB) for _ in range(rounds)]
        ratio = [logged / copied for copied, logged in times]
        report.add(
            "log_artifact of 64 MiB, as a multiple of copying and hashing it",
            spread(ratio, 2),
            beside=f"copied in {spread([copied * 1e3 for copied, _ in times], 0)} ms",
            rounds=ratio,
        )
        tracelet.stop_logging()
        writer.close()
        os.chdir("/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200, help="of each kind, recorded and not, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    file = args.json.absolute() if args.json else None
    packages = ("torch", "tensorboard", "numpy", "pillow", "wrapt")
    report = Report("media and artifacts", describe(Path(tempfile.gettempdir()), dict.fromkeys(packages)))
    measure(report, args.calls, args.rounds)
    report.show(file)


if __name__ == "__main__":
    main()
