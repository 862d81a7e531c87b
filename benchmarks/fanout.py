"""Three trackers at once: how fast each is fed, how soon a point is seen, and what one that is down costs the others.

**Rates.** 20 runs of one process go to an MLflow sqlite store, to offline runs of Weights & Biases and to offline sessions of
ClearML. Beside them, in turns, three processes write the same with each tracker's own SDK, at the same time (`sdk_loops.py`).
The clock of each tracker runs from the first point to the moment it has all; through tracelet that has the spool, the log and
its fsyncs in it.

**Latency.** A process logs 100 points a second; another connection to MLflow's database looks for each of them.

**Outage.** The same pace to all three, first with MLflow up, then with a server that refuses, then with one that never answers:
what the collector says of the other two's lag, ten times a second.

**Fairness.** One run is a million points behind MLflow; another one logs 10 points a second, and its lag is asked for.

    python benchmarks/fanout.py --points 2000 --runs 20 --rounds 3 --seconds 60
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from home import Home, temporary_home
from machine import describe
from report import Report, spread
from rich.console import Console

from tracelet.transport.wait import status

KINDS = ("mlflow", "wandb", "clearml")
TAGS = 10
PACE = 100  # points a second
DEADLINE = 600.0
NO_LAG = 0.01  # what is delivered so soon is mostly seen as no lag at all
PARTS = ("rates", "latency", "outage", "fairness")
LOOPS = Path(__file__).with_name("sdk_loops.py")


def environment(home: Home) -> dict[str, str]:
    """All three trackers, on this machine."""
    kept = {name: value for name, value in home.environment().items() if not name.startswith(("WANDB_", "CLEARML_"))}
    return kept | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(home.path / "wandb"),
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(home.path / "clearml"),
    }


# -- rates


def bare(folder: Path, template: Path, runs: int, points: int) -> Mapping[str, float]:
    """Points a second of three SDKs' own loops at the same time."""
    loops = {
        kind: subprocess.Popen(
            [sys.executable, str(LOOPS), kind, str(folder / kind), "--runs", str(runs), "--points", str(points)]
            + (["--template", str(template)] if kind == "mlflow" else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
        )
        for kind in KINDS
    }
    for loop in loops.values():
        assert loop.stdout is not None
        while (line := loop.stdout.readline()).strip() != "ready":
            if not line:
                raise RuntimeError("a loop ended before it began")
    for loop in loops.values():
        assert loop.stdin is not None
        loop.stdin.write("go\n")
        loop.stdin.flush()
    rates = {}
    for kind, loop in loops.items():
        said, _ = loop.communicate(timeout=DEADLINE)
        rates[kind] = runs * points / float(said.split()[-1])
    return rates


def through_tracelet(home: Home, runs: int, points: int) -> Mapping[str, float]:
    """Points a second of each tracker, from the first point of the first run to the last of the last."""
    import tracelet

    names: list[str] = []
    took: dict[str, float] = {}
    begun = time.perf_counter()
    all_named = threading.Event()

    def watch() -> None:
        address = home.start_collector().address
        while len(took) < len(KINDS) and time.perf_counter() < begun + DEADLINE:
            if all_named.is_set():
                reply = [run for run in status(address).runs if run.run_id in names]
                for kind in KINDS:
                    mine = [each for run in reply for each in run.backends if each.kind == kind]
                    done = sum(each.delivered + each.collapsed + each.rerouted for each in mine)
                    if kind not in took and done == runs * points and all(each.settled for each in mine):
                        took[kind] = time.perf_counter() - begun
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(runs):
        run = tracelet.start_logging(project="bench", backend=list(KINDS))
        names.append(run.id)
        for number in range(points):
            run.log_metric(f"metric/{number % TAGS}", 1.0 / (number + 1), number // TAGS)
        tracelet.stop_logging()
    all_named.set()
    watcher.join()
    if missing := [kind for kind in KINDS if kind not in took]:
        raise AssertionError(f"not everything arrived in {', '.join(missing)} within {DEADLINE:g} s")
    return {kind: runs * points / seconds for kind, seconds in took.items()}


def rates(home: Home, report: Report, rounds: int, runs: int, points: int, tell: Console) -> None:
    """The rates of both, in turns."""
    template = home.path / "template.db"
    shutil.copy(home.path / "mlflow.db", template)
    through_tracelet(home, 1, 1000)  # the workers are there
    mine: dict[str, list[float]] = {kind: [] for kind in KINDS}
    loops: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        tell.log(f"round {number + 1} of {rounds}: {runs} runs of {points:,} points each way")
        folder = home.path / f"bare-{number}"
        folder.mkdir()
        for kind, rate in bare(folder, template, runs, points).items():
            loops[kind].append(rate)
        shutil.rmtree(folder, ignore_errors=True)
        for kind, rate in through_tracelet(home, runs, points).items():
            mine[kind].append(rate)
    for kind in KINDS:
        ratios = [ours / loop for ours, loop in zip(mine[kind], loops[kind], strict=True)]
        report.add(
            f"{kind}: points/s, {runs} runs, all three at once",
            spread(mine[kind], 0),
            beside=f"its SDK in a loop {spread(loops[kind], 0)}",
            rounds=mine[kind],
        )
        report.add(
            f"{kind}: ratio to that loop",
            spread(ratios, 2),
            target="≥ 0.9",
            met=statistics.median(ratios) >= 0.9,
            rounds=ratios,
        )


# -- latency


def latency(home: Home, report: Report, seconds: float) -> None:
    """From the call to MLflow's database, at 100 points a second."""
    import tracelet

    seen: dict[int, float] = {}
    logged: dict[int, float] = {}
    over = threading.Event()

    def look() -> None:
        with closing(sqlite3.connect(f"file:{home.path / 'mlflow.db'}?mode=ro", uri=True, timeout=60)) as db:
            last = -1
            while not over.is_set():
                found = db.execute("SELECT max(step) FROM metrics WHERE key = 'latency'").fetchone()[0]
                now = time.perf_counter()
                for step in range(last + 1, (-1 if found is None else int(found)) + 1):
                    seen[step] = now
                last = max(last, -1 if found is None else int(found))
                time.sleep(0.01)

    run = tracelet.start_logging(project="bench", backend="mlflow")
    watcher = threading.Thread(target=look)
    watcher.start()
    begun = time.perf_counter()
    for step in range(int(seconds * PACE)):
        logged[step] = time.perf_counter()
        run.log_metric("latency", float(step), step)
        time.sleep(max(0.0, begun + (step + 1) / PACE - time.perf_counter()))
    tracelet.stop_logging()
    home.wait_delivered(run.id, DEADLINE)
    time.sleep(0.2)
    over.set()
    watcher.join()
    waits = sorted(seen[step] - at for step, at in logged.items())
    half, high = statistics.median(waits), waits[int(len(waits) * 0.95)]
    report.add(
        "from the call to MLflow's database, 100 points/s: p50 (p95), s",
        f"{half:.2f} ({high:.2f})",
        target="p50 < 1",
        met=half < 1,
        rounds=[half, high],
    )


# -- outage


def lags(home: Home, seconds: float, uri: str) -> Mapping[str, float]:
    """The p95 lag of each tracker, in seconds, of one run to all three."""
    import tracelet

    os.environ["MLFLOW_TRACKING_URI"] = uri
    run = tracelet.start_logging(project="bench", backend=list(KINDS))
    os.environ["MLFLOW_TRACKING_URI"] = home.store
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    over = threading.Event()

    def look() -> None:
        address = home.start_collector().address
        while not over.wait(0.1):
            for state in status(address, run.id).runs:
                for each in state.backends:
                    found[each.kind].append(each.lag_seconds)

    watcher = threading.Thread(target=look)
    watcher.start()
    begun = time.perf_counter()
    for step in range(int(seconds * PACE)):
        run.log_metric("loss", float(step), step)
        time.sleep(max(0.0, begun + (step + 1) / PACE - time.perf_counter()))
    over.set()
    watcher.join()
    tracelet.stop_logging()
    return {kind: sorted(all_of)[int(len(all_of) * 0.95)] for kind, all_of in found.items() if all_of}


def outage(home: Home, report: Report, seconds: float, tell: Console) -> None:
    """The other two's lag, while MLflow is up, refuses, and does not answer."""
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        refuses = f"http://127.0.0.1:{closed.getsockname()[1]}"
    lags(home, 5, home.store)  # all three are warm
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1000)) as silent:
        tell.log(f"MLflow up, {seconds:g} s")
        up = lags(home, seconds, home.store)
        tell.log(f"MLflow refuses, {seconds:g} s")
        refused = lags(home, seconds, refuses)
        tell.log(f"MLflow does not answer, {seconds:g} s")
        hung = lags(home, seconds, f"http://127.0.0.1:{silent.getsockname()[1]}")
    for kind in KINDS[1:]:
        for what, lag in (("refuses", refused[kind]), ("does not answer", hung[kind])):
            report.add(
                f"{kind}: p95 lag while MLflow {what}, ms",
                f"{lag * 1000:.0f}",
                beside=f"while it is up {up[kind] * 1000:.0f}",
                target="≤ 1.2 of it, or of 10 ms",
                met=lag <= 1.2 * max(up[kind], NO_LAG),
                rounds=[up[kind], lag],
            )


def fairness(home: Home, report: Report, seconds: float, points: int, tell: Console) -> None:
    """A run's lag beside one that is far behind."""
    import tracelet

    tell.log(f"one run is {points:,} points behind")
    far = tracelet.start_logging(project="bench", backend="mlflow")
    for number in range(points):
        far.log_metric("far", float(number), number)
    tracelet.stop_logging()
    run = tracelet.start_logging(project="bench", backend="mlflow")
    address = home.start_collector().address
    found: list[float] = []
    begun = time.perf_counter()
    for step in range(int(seconds * 10)):
        run.log_metric("loss", float(step), step)
        found += [each.lag_seconds for state in status(address, run.id).runs for each in state.backends]
        time.sleep(max(0.0, begun + (step + 1) / 10 - time.perf_counter()))
    tracelet.stop_logging()
    left = sum(each.lag_points for state in status(address, far.id).runs for each in state.backends)
    if not left:
        raise AssertionError("the other run was not behind all the time: give more points")
    high = sorted(found)[int(len(found) * 0.95)]
    report.add(
        f"p95 lag of a run of 10 points/s beside one that is {points:,} points behind, s",
        f"{high:.2f}",
        beside=f"{left:,} still to come",
        target="≤ 2",
        met=high <= 2,
        rounds=[high],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2_000, help="of each run")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase of latency and outage")
    parser.add_argument("--behind", type=int, default=1_000_000, help="points of the run that is behind")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--dir", type=Path, help="where to put the stores; by default among temporary files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args(arguments)
    only = args.only or PARTS
    tell = Console(stderr=True)
    with temporary_home(args.dir) as home:
        os.environ.clear()
        os.environ.update({**environment(home), "MLFLOW_LOGGING_LEVEL": "WARNING"})
        (home.path / "wandb").mkdir()
        from mlflow import MlflowClient

        tell.log("MLflow makes a store")
        MlflowClient(home.store).create_experiment("bench", artifact_location=(home.path / "artifacts").as_uri())
        report = Report("three trackers at once", describe(home.path, ("mlflow", "wandb", "clearml")))
        if "rates" in only:
            rates(home, report, args.rounds, args.runs, args.points, tell)
        if "latency" in only:
            latency(home, report, args.seconds)
        if "outage" in only:
            outage(home, report, args.seconds, tell)
        if "fairness" in only:
            fairness(home, report, args.seconds, args.behind, tell)
        report.show(args.json)


if __name__ == "__main__":
    main()
