"""What tracelet costs a training process: a call, a start, a stop, a loop beside it; and whether every point arrives.

Each measurement is a fresh process. Bare ones and those under tracelet take turns, so that both meet the same machine; CPU
time is the measure of a call, because wall time on a busy machine says more about the others. Points are counted in the
collector's log and in the MLflow store, not by the client.

    python benchmarks/intercept.py --points 20000 --rounds 5 --json intercept.json
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from home import Home, temporary_home
from machine import describe
from peers import PEERS
from report import Report, spread
from rich.console import Console

TRAINER = Path(__file__).with_name("trainer.py")
DEADLINE = 600.0
PAUSE = 0.0005


def trainer(home: Home, *arguments: str) -> dict[str, Any]:
    """Run the measured process; what it says."""
    done = subprocess.run(
        [sys.executable, TRAINER, *arguments],
        env=home.environment(),
        cwd=home.path,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    if "{" not in done.stdout:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode} and said nothing")
    # Some of the others talk on stdout, also at exit.
    said: dict[str, Any] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    return said


def stored(home: Home, run_id: str) -> int:
    """Points of a run in the MLflow store, asked of its database."""
    with sqlite3.connect(f"file:{home.path / 'mlflow.db'}?mode=ro", uri=True) as store:
        (count,) = store.execute(
            "SELECT count(*) FROM metrics JOIN tags USING (run_uuid) "
            "WHERE tags.key = 'tracelet.run_id' AND tags.value = ?",
            (run_id,),
        ).fetchone()
    return int(count)


def added(report: Report, home: Home, points: int, rounds: int) -> None:
    """CPU that tracelet adds to a call, in the thread that makes it."""
    home.start_collector()
    for title, pause, target in (
        ("CPU added to a call, training thread, one after another, µs", 0.0, 3.0),
        ("the same with a pause after every fourth (cold caches), µs", PAUSE, None),
    ):
        rows = []
        for _ in range(rounds):
            rows.append(trainer(home, "paired", "--points", str(points), "--pause", str(pause)))
            home.wait_delivered(rows[-1]["run_id"])
        took = [float(row["added_us"]) for row in rows]
        report.add(
            title,
            spread(took, 2),
            beside=f"bare {spread([float(row['bare_us']) for row in rows])}",
            target=f"≤ {target:g}" if target else "",
            met=statistics.median(took) <= target if target else None,
            rounds=took,
        )


def calls(report: Report, home: Home, points: int, rounds: int) -> None:
    """What a call takes and what the process spends, bare and under tracelet; then where the points are."""
    bare: list[dict[str, Any]] = []
    traced: list[dict[str, Any]] = []
    home.start_collector()
    words = ("log", "--points", str(points), "--pause", str(PAUSE))
    for _ in range(rounds):
        bare.append(trainer(home, *words))
        traced.append(trainer(home, *words, "--tracelet"))
        home.wait_delivered(traced[-1]["run_id"])  # the next round must not meet this one's delivery

    def column(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
        return [float(row[name]) for row in rows]

    spent = [
        with_it - bare_one
        for with_it, bare_one in zip(column(traced, "process_us"), column(bare, "process_us"), strict=True)
    ]
    report.add(
        "CPU added to a call, whole process, µs",
        spread(spent, 2),
        beside=f"bare {spread(column(bare, 'process_us'))}",
        target="≤ 6",
        met=statistics.median(spent) <= 6.0,
        rounds=spent,
    )
    for name, title in (("p50_us", "a call under tracelet, p50, µs"), ("p99_us", "a call under tracelet, p99, µs")):
        met = statistics.median(column(traced, name)) <= statistics.median(column(bare, name))
        report.add(
            title,
            spread(column(traced, name)),
            beside=f"bare {spread(column(bare, name))}",
            target="≤ bare" if name == "p99_us" else "",
            met=met if name == "p99_us" else None,
            rounds=column(traced, name),
        )
    sent = sum(row["sent"] for row in traced)
    durable = sum(home.durable(row["run_id"]) for row in traced)
    delivered = sum(stored(home, row["run_id"]) for row in traced)
    report.add(
        f"points that arrived, {rounds} clean runs",
        f"{durable:,} durable, {delivered:,} in MLflow",
        beside=f"{sent:,} sent",
        target="all",
        met=sent == durable == delivered,
    )


def kills(report: Report, home: Home, points: int, rounds: int) -> None:
    """Points of a trainer that is killed right after its last call."""
    killed = [
        trainer(home, "log", "--points", str(points), "--tracelet", "--before-stop", "die") for _ in range(rounds)
    ]
    home.wait_delivered()
    sent = sum(row["sent"] for row in killed)
    durable = sum(home.durable(row["run_id"]) for row in killed)
    report.add(
        f"points that arrived, {rounds} trainers killed by SIGKILL",
        f"{durable:,} durable",
        beside=f"{sent:,} sent",
        target="all",
        met=sent == durable,
    )


def stops(report: Report, points: int, rounds: int, parent: Path | None) -> None:
    """A stop right after a burst: with a running collector, one that this run started, and one that was just killed."""
    warm, fresh, after_kill = [], [], []
    words = ("log", "--points", str(points), "--tracelet")
    for _ in range(rounds):
        with temporary_home(parent) as home:
            home.start_collector()
            warm.append(trainer(home, *words)["stop_s"])
        with temporary_home(parent) as home:
            fresh.append(trainer(home, *words)["stop_s"])
        with temporary_home(parent) as home:
            home.start_collector()
            after_kill.append(trainer(home, *words, "--before-stop", "kill collector")["stop_s"])
    for collector, took, target in (
        ("running", warm, 0.5),
        ("started by the run", fresh, 2.0),
        ("just killed", after_kill, 2.0),
    ):
        report.add(
            f"stop_logging after {points:,} points, collector {collector}, s",
            spread(took, 3),
            target=f"< {target:g}",
            met=statistics.median(took) < target,
            rounds=took,
        )


def starts(report: Report, home: Home, rounds: int) -> None:
    """Import and start."""
    home.start_collector()
    imported = [float(trainer(home, "imports")["import_ms"]) for _ in range(rounds + 1)][1:]
    started = [trainer(home, "starts") for _ in range(rounds)]
    first, later = ([float(row[name]) for row in started] for name in ("first_ms", "later_ms"))
    for title, took, target in (
        ("import tracelet, ms", imported, 50),
        ("first start_logging of a process, ms", first, 300),
        ("later start_logging, ms", later, 20),
    ):
        report.add(title, spread(took), target=f"≤ {target}", met=statistics.median(took) <= target, rounds=took)


def beside(report: Report, home: Home, pairs: int, seconds: float) -> None:
    """A loop beside 1,000 points a second."""
    home.start_collector()
    said = trainer(home, "loop", "--pairs", str(pairs), "--seconds", str(seconds))
    for title, name, target in (
        ("a pure-Python loop beside 1,000 points/s, % slower", "slower_percent", 1.0),
        ("CPU of the process's other threads for it, % of a core", "taken_percent", None),
    ):
        percent = said[name]
        low, middle, high = statistics.quantiles(percent)
        report.add(
            title,
            f"{middle:.2f} (middle half {low:.1f} to {high:.1f})",
            beside="the same points without tracelet",
            target=f"≤ {target:g}" if target else "",
            met=middle <= target if target else None,
            rounds=percent,
        )


def others(report: Report, home: Home, points: int, rounds: int, budget: float) -> list[str]:
    """Other trackers that capture a SummaryWriter, and tracelet, beside a bare writer; which of them are not installed."""
    missing = [name for name, peer in PEERS.items() if find_spec(peer.package) is None]
    there = {name: peer for name, peer in PEERS.items() if name not in missing}
    if not there:
        return missing
    home.start_collector()
    words = ("log", "--points", str(points), "--pause", str(PAUSE), "--budget", str(budget))
    bare: list[dict[str, Any]] = []
    rows: dict[str, list[dict[str, Any]]] = {"tracelet": []} | {name: [] for name in there}
    for _ in range(rounds):
        bare.append(trainer(home, *words))
        rows["tracelet"].append(trainer(home, *words, "--tracelet"))
        home.wait_delivered(rows["tracelet"][-1]["run_id"])
        for name in there:
            rows[name].append(trainer(home, *words, "--peer", name))
    for name, taken in rows.items():
        how = f"{name} ({there[name].how})" if name in there else f"{name} (to the same store)"
        for column, title, digits in (
            ("thread_us", "CPU of a call, training thread", 2),
            ("mean_us", "a call, mean", 2),
            ("p99_us", "a call, p99", 2),
        ):
            ratios = [row[column] / plain[column] for row, plain in zip(taken, bare, strict=True)]
            beside = f"bare {spread([plain[column] for plain in bare])} µs"
            report.add(f"{how}: {title}, × bare", spread(ratios, digits), beside=beside, rounds=ratios)
        ends = [float(row["stop_s"]) for row in taken]
        calls = statistics.median(row["sent"] for row in taken)
        report.add(f"{how}: the end of the run, s", spread(ends, 2), beside=f"{calls:,.0f} calls", rounds=ends)
    return missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20_000, help="of each measured process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=40, help="phases of the loop, with and without")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each phase of the loop")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of calls under each other tracker")
    parser.add_argument("--only-others", action="store_true", help="only what other trackers cost")
    parser.add_argument(
        "--dir", type=Path, help="where to put the home and the store; by default among temporary files"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    console = Console(stderr=True)
    with temporary_home(args.dir) as home, console.status("") as status:
        packages = ("torch", "tensorboard", "grpcio", "wrapt", "mlflow", *(peer.package for peer in PEERS.values()))
        title = "interception by other trackers" if args.only_others else "interception"
        report = Report(title, describe(home.path, dict.fromkeys(packages)))
        if not args.only_others:
            status.update("import and start")
            starts(report, home, args.rounds)
            status.update("calls of the original and the patched method in turns")
            added(report, home, args.points, args.rounds)
            status.update(
                f"{args.rounds} rounds of {args.points:,} calls, bare and under tracelet, each until delivered"
            )
            calls(report, home, args.points, args.rounds)
            status.update("trainers that are killed")
            kills(report, home, args.points, 1)
            status.update(f"a loop beside 1,000 points/s: {2 * args.pairs} phases of {args.seconds:g} s")
            beside(report, home, args.pairs, args.seconds)
            status.update("stops: three kinds of collector")
            stops(report, args.points, args.rounds, args.dir)
        status.update(
            f"{args.rounds} rounds of at most {args.points:,} calls in {args.budget:g} s under other trackers"
        )
        missing = others(report, home, args.points, args.rounds, args.budget)
    report.show(args.json)
    for name in missing:
        console.print(f"{name} is not installed: not measured")


if __name__ == "__main__":
    main()
