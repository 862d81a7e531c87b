"""What tracelet costs a loop over a DataLoader, whose workers are forked anew in each epoch, or once.

The same loop bare and under tracelet, in fresh processes that take turns; the ratio of their times is the figure. Workers
come and go by fork, so this is where a hook at a fork, a thread of ours or a lock would show; and on stderr.

    python benchmarks/dataloader.py --epochs 20 --workers 4 --rounds 5 --json dataloader.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from home import Home, temporary_home
from machine import describe
from report import Report, spread
from rich.console import Console

DEADLINE = 600.0
# The process that is measured: --loop KIND, with the number of epochs and of workers.
KINDS = ("new workers", "persistent workers")


def loop(kind: str, epochs: int, workers: int, recorded: bool) -> None:
    """Run the loop, and say how long it took; points are logged as scripts do it."""
    import warnings

    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from torch.utils.tensorboard import SummaryWriter

    warnings.filterwarnings("ignore", "This DataLoader will create")
    if recorded:
        import tracelet

        tracelet.start_logging(exp_name="loader")
    writer = SummaryWriter("runs")
    data = TensorDataset(torch.arange(512, dtype=torch.float32))
    loader: DataLoader[Any] = DataLoader(
        data, batch_size=8, shuffle=True, num_workers=workers, persistent_workers=kind == KINDS[1]
    )
    began = time.perf_counter()
    step = 0
    for _ in range(epochs):
        for (batch,) in loader:
            writer.add_scalar("sum", batch.sum().item(), step)
            step += 1
    seconds = time.perf_counter() - began
    writer.close()
    if recorded:
        tracelet.stop_logging()
    print(json.dumps({"seconds": seconds, "points": step}))


def measure(home: Home, kind: str, epochs: int, workers: int, *, recorded: bool) -> tuple[float, float, str]:
    """Seconds of the loop, of the whole process, and what it said on stderr."""
    words = [sys.executable, __file__, "--loop", kind, "--epochs", str(epochs), "--workers", str(workers)]
    began = time.perf_counter()
    done = subprocess.run(
        [*words, "--recorded"] if recorded else words,
        env=home.environment(),
        cwd=home.path,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    return float(json.loads(done.stdout)["seconds"]), time.perf_counter() - began, done.stderr


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--loop", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--recorded", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop:
        loop(given.loop, given.epochs, given.workers, given.recorded)
        return
    with temporary_home() as home:
        home.start_collector()
        report = Report(
            f"A DataLoader with {given.workers} workers over {given.epochs} epochs, {given.rounds} rounds",
            describe(home.path, ["torch"]),
        )
        for kind in KINDS:
            ratios, said = [], ""
            bare_seconds, ours_seconds, whole = [], [], []
            for number in range(given.rounds):
                Console(stderr=True).print(f"{kind}: round {number + 1} of {given.rounds}", style="dim")
                bare, bare_whole, _ = measure(home, kind, given.epochs, given.workers, recorded=False)
                ours, ours_whole, err = measure(home, kind, given.epochs, given.workers, recorded=True)
                bare_seconds.append(bare)
                ours_seconds.append(ours)
                whole.append(ours_whole - bare_whole)
                ratios.append(ours / bare)
                said += err
            middle = statistics.median(ratios)
            report.add(
                f"{kind}: time of the loop, tracelet / bare",
                spread(ratios, 3),
                beside=f"{statistics.median(ours_seconds):.2f} s / {statistics.median(bare_seconds):.2f} s",
                target="not measurable: ≤ 1.02",
                met=middle <= 1.02,
                rounds=ratios,
            )
            report.add(
                f"{kind}: whole process, more than bare (imports, start and stop)",
                f"{spread(whole, 2)} s",
                rounds=whole,
            )
            report.add(
                f"{kind}: lines on stderr", str(said.count("\n")), target="0", met=not said, rounds=[said.count("\n")]
            )
        report.show(given.json)


if __name__ == "__main__":
    main()
