"""How fast points reach MLflow through the collector, beside a script that calls `MlflowClient.log_batch` itself.

Both write to a sqlite store of their own, on one disk, in turns. The bare loop makes a run, calls `log_batch` with 1,000
metrics a time, and ends the run. Through tracelet, the clock runs from the first `log_metric` of a process to the moment the
last point is in the store, spool, log and fsyncs included; the worker has been started by an earlier run.

    python benchmarks/delivery.py --points 20000 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

from home import Home, temporary_home
from machine import describe
from report import Report, spread
from rich.console import Console

TAGS = 10
BATCH = 1_000
DEADLINE = 300.0


def count(store: Path) -> int:
    """Points in an MLflow store, asked of its database."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM metrics").fetchone()[0])


def bare(client: Any, experiment: str, points: int) -> float:
    """Seconds of a run that calls `log_batch` in a loop."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    begun = time.perf_counter()
    run = client.create_run(experiment).info.run_id
    for start in range(0, points, BATCH):
        chunk = [
            Metric(f"metric/{number % TAGS}", 1.0 / (number + 1), now + number, number // TAGS)
            for number in range(start, min(start + BATCH, points))
        ]
        client.log_batch(run, metrics=chunk)
    client.set_terminated(run)
    return time.perf_counter() - begun


def through_tracelet(home: Home, points: int) -> tuple[float, float]:
    """Seconds until everything is durable, and until everything is in MLflow."""
    import tracelet

    before = count(home.path / "mlflow.db")
    run = tracelet.start_logging(project="bench")
    begun = time.perf_counter()
    for number in range(points):
        run.log_metric(f"metric/{number % TAGS}", 1.0 / (number + 1), number // TAGS)
    tracelet.stop_logging()
    durable = time.perf_counter() - begun
    home.wait_delivered(run.id, DEADLINE)
    took = time.perf_counter() - begun
    arrived = count(home.path / "mlflow.db") - before
    if arrived != points:
        raise AssertionError(f"{arrived} of {points} points are in MLflow, though all are said to be delivered")
    return durable, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where to put the stores; by default among temporary files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    console = Console(stderr=True)
    with temporary_home(args.dir) as home, console.status("MLflow makes a store") as status:
        os.environ.update({**home.environment(), "MLFLOW_LOGGING_LEVEL": "WARNING"})
        from mlflow import MlflowClient

        client = MlflowClient(home.store)
        artifacts = (home.path / "artifacts").as_uri()
        client.create_experiment("bench", artifact_location=artifacts)
        other = home.path / "bare.db"
        shutil.copy(home.path / "mlflow.db", other)
        bare_client = MlflowClient(f"sqlite:///{other}")
        experiment = bare_client.get_experiment_by_name("bench").experiment_id

        report = Report("delivery to an MLflow sqlite store", describe(home.path, ("mlflow", "sqlalchemy")))
        status.update("a first run of each, not counted")
        bare(bare_client, experiment, BATCH)
        through_tracelet(home, BATCH)
        loops, whole, durable = [], [], []
        for number in range(args.rounds):
            status.update(f"round {number + 1} of {args.rounds}: {args.points:,} points each way")
            loops.append(args.points / bare(bare_client, experiment, args.points))
            until_durable, until_delivered = through_tracelet(home, args.points)
            durable.append(args.points / until_durable)
            whole.append(args.points / until_delivered)
    ratios = [mine / loop for mine, loop in zip(whole, loops, strict=True)]
    report.add("end to end, points/s", spread(whole, 0), beside=f"log_batch loop {spread(loops, 0)}", rounds=whole)
    report.add(
        "ratio to the log_batch loop",
        spread(ratios, 2),
        target="≥ 0.9",
        met=statistics.median(ratios) >= 0.9,
        rounds=ratios,
    )
    report.add("for the script (until durable), points/s", spread(durable, 0), rounds=durable)
    report.show(args.json)


if __name__ == "__main__":
    main()
