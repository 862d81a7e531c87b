"""What tracelet costs beside recording: the start of a Python child that is not intercepted, and saying what the run was.

    python benchmarks/children.py --json build/bench-children.json

Children start in turns, plain and with what `tracelet run` leaves in the environment. `start_logging` is measured in a process
for each figure, in turns with what the run was, system metrics and console on and off.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from home import Home, temporary_home
from machine import describe
from report import Report, spread

import tracelet
from tracelet.launch.arguments import Asked
from tracelet.launch.command import understand
from tracelet.launch.environment import leave
from tracelet.launch.interpreter import examine
from tracelet.launch.start import _intercepted

CHILDREN = {"that does nothing": "pass", "that imports argparse and json": "import argparse, json"}
STARTS = """
import sys, time
import tracelet
took = []
for _ in range(6):
    begun = time.perf_counter()
    tracelet.start_logging(project="bench")
    took.append((time.perf_counter() - begun) * 1e3)
    tracelet.stop_logging()
print(took[0], sorted(took[1:])[2])
"""
OFF = {"TRACELET_PROVENANCE": "0", "TRACELET_SYSTEM_EVERY": "0"}
ON = {"TRACELET_PROVENANCE": "1", "TRACELET_SYSTEM_EVERY": "10", "TRACELET_CONSOLE": "1"}


def children(report: Report, home: Home, rounds: int) -> None:
    """Start-up of a child under `tracelet run`."""
    plain = home.environment()
    command = understand([sys.executable, "-c", "pass"])
    interpreter = examine(command, (), plugins=True)
    injected = leave(plain, Asked(), home.path, command, interpreter, (*_intercepted(), *interpreter.plugins))
    for title, code in CHILDREN.items():
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * rounds + 2):
            under = number % 2 == 0
            took = started(code, injected if under else plain)
            if number > 1:  # the first two fill caches
                times[under].append(took)
        added = [on - off for on, off in zip(times[True], times[False], strict=True)]
        report.add(
            f"added to the start of a Python child {title}",
            f"{statistics.median(added):.1f} ms",
            beside=f"plain {spread(times[False])} ms",
            target="≤ 3 ms",
            met=statistics.median(added) <= 3,
            rounds=added,
        )


def started(code: str, environment: Mapping[str, str]) -> float:
    """Milliseconds from the start of a Python to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=dict(environment), check=True)
    return (time.perf_counter() - begun) * 1e3


def starts(report: Report, home: Home, rounds: int) -> None:
    """What `start_logging` takes with and without what this adds to a run."""
    home.start_collector()
    took: dict[bool, list[list[float]]] = {True: [], False: []}
    for number in range(2 * rounds):
        on = number % 2 == 0
        said = subprocess.run(
            [sys.executable, "-c", STARTS],
            env={**home.environment(), **(ON if on else OFF)},
            check=True,
            capture_output=True,
            text=True,
        )
        took[on].append([float(word) for word in said.stdout.split()])
    for at, (what, target) in enumerate([("first", 300), ("later", 20)]):
        on, off = ([each[at] for each in took[which]] for which in (True, False))
        added = statistics.median(a - b for a, b in zip(on, off, strict=True))
        report.add(
            f"{what} start_logging with all of it, ms",
            spread(on),
            beside=f"without {spread(off)}, added {added:.1f}",
            target=f"≤ {target}",
            met=statistics.median(on) <= target,
            rounds=on,
        )


def looks(report: Report, rounds: int) -> None:
    """CPU of a look at the machine."""
    from tracelet.provenance.system import Looks

    looking = Looks()
    report.add("CPU of a look of system metrics, ms", spread([_cpu(looking.look) for _ in range(10 * rounds)], 2))


def gathering(report: Report) -> None:
    """CPU of what is gathered once in a process, in this one."""
    from tracelet.provenance import facts
    from tracelet.provenance.parts import parts

    class Book:
        def tags(self, tags: Mapping[str, str]) -> None:
            pass

        def file(self, name: str, content: bytes, media_type: str = "text/plain") -> None:
            pass

    facts.packages.cache_clear()
    for name, gather in parts(Book(), "bench", ()):
        report.add(f"CPU of gathering {name}, ms", f"{_cpu(gather):.1f}")


def _cpu(call: Callable[[], object]) -> float:
    """Milliseconds of this process's CPU."""
    gc.collect()
    begun = time.process_time()
    call()
    return (time.process_time() - begun) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    report = Report("children, and what the run was", describe(Path(tempfile.gettempdir()), ["psutil"]))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with temporary_home() as home:
        children(report, home, args.rounds)
        starts(report, home, max(args.rounds // 4, 3))
    looks(report, args.rounds)
    gathering(report)
    report.show(args.json)
    assert tracelet.__version__


if __name__ == "__main__":
    main()
