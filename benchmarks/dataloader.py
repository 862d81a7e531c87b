"""What tracelet costs a loop over a DataLoader, whose workers are forked anew in each epoch, or once.

The same loop bare and under tracelet, in fresh processes that take turns; the ratio of their times is the figure. Workers
come and go by fork, so this is where a hook at a fork, a thread of ours or a lock would show; and on stderr. The first epoch
is told apart, with what comes once: a thread of ours imports gRPC, and forks wait for that. On a busy machine, CPU time says
more than the clock; both count the workers.

    python benchmarks/dataloader.py --epochs 20 --workers 4 --rounds 5 --json dataloader.json
"""

from __future__ import annotations

import argparse
import json
import os
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
    marks = [(time.perf_counter(), cpu())]
    step = 0
    for epoch in range(epochs):
        for (batch,) in loader:
            writer.add_scalar("sum", batch.sum().item(), step)
            step += 1
        if epoch == 0:
            until = time.monotonic() + 20
            while recorded and "tracelet.transport.session" not in sys.modules and time.monotonic() < until:
                time.sleep(0.01)
            marks.append((time.perf_counter(), cpu()))
    del loader  # and with it workers that stayed
    marks.append((time.perf_counter(), cpu()))
    writer.close()
    if recorded:
        tracelet.stop_logging()
    (began, _), (first, first_cpu), (ended, ended_cpu) = marks
    print(json.dumps({"first": first - began, "rest": ended - first, "cpu": ended_cpu - first_cpu}))


def cpu() -> float:
    """CPU time of this process and of the workers that have ended, in seconds."""
    return sum(os.times()[:4])


def measure(home: Home, kind: str, epochs: int, workers: int, *, recorded: bool) -> tuple[dict[str, float], int]:
    """Seconds of the loop, and lines that the process wrote to stderr."""
    words = [sys.executable, __file__, "--loop", kind, "--epochs", str(epochs), "--workers", str(workers)]
    done = subprocess.run(
        [*words, "--recorded"] if recorded else words,
        env=home.environment(),
        cwd=home.path,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds, done.stderr.count("\n")


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
            bare, ours, lines = [], [], 0
            for number in range(given.rounds):
                Console(stderr=True).print(f"{kind}: round {number + 1} of {given.rounds}", style="dim")
                bare.append(measure(home, kind, given.epochs, given.workers, recorded=False)[0])
                seconds, said = measure(home, kind, given.epochs, given.workers, recorded=True)
                ours.append(seconds)
                lines += said
            for measured, what in (("cpu", "CPU time"), ("rest", "time")):
                ratios = [mine[measured] / plain[measured] for mine, plain in zip(ours, bare, strict=True)]
                middle = statistics.median(ratios)
                report.add(
                    f"{kind}: {what} of all epochs but the first, tracelet / bare",
                    spread(ratios, 3),
                    beside=" / ".join(
                        f"{statistics.median(each[measured] for each in all_):.2f} s" for all_ in (ours, bare)
                    ),
                    target="≤ 1.02" if measured == "cpu" else "",
                    met=middle <= 1.02 if measured == "cpu" else None,
                    rounds=ratios,
                )
            more = [mine["first"] - plain["first"] for mine, plain in zip(ours, bare, strict=True)]
            report.add(f"{kind}: first epoch, more than bare", f"{spread(more, 2)} s", rounds=more)
            report.add(f"{kind}: lines on stderr", str(lines), target="0", met=not lines)
        report.show(given.json)


if __name__ == "__main__":
    main()
