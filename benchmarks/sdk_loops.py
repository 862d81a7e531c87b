"""What a script without tracelet reaches: one tracker's own SDK in a loop, in a process of its own.

    python benchmarks/sdk_loops.py mlflow FOLDER --runs 20 --points 2000

Each is written as somebody who knows the SDK would for speed: MLflow with `log_batch` of 1,000, Weights & Biases with a row for
each step, ClearML with `report_scalar`. The loop waits for a line on its standard input, so that several begin at once, and
prints the seconds it took, without imports and without making the store.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

TAGS = 10


def mlflow(folder: Path, template: Path | None) -> Callable[[int], None]:
    """Runs in a sqlite store."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    store = folder / "mlflow.db"
    if template is not None:
        shutil.copy(template, store)
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.create_experiment("loops", artifact_location=(folder / "artifacts").as_uri())

    def one(points: int) -> None:
        run = client.create_run(experiment).info.run_id
        now = int(time.time() * 1000)
        for start in range(0, points, 1000):
            client.log_batch(
                run,
                metrics=[
                    Metric(f"metric/{number % TAGS}", 1.0 / (number + 1), now + number, number // TAGS)
                    for number in range(start, min(start + 1000, points))
                ],
            )
        client.set_terminated(run)

    return one


def wandb(folder: Path, template: Path | None) -> Callable[[int], None]:
    """Offline runs, one after the other."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    import wandb

    settings = wandb.Settings(
        console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True, disable_code=True, silent=True
    )

    def one(points: int) -> None:
        run = wandb.init(mode="offline", reinit="create_new", dir=folder, project="loops", settings=settings)
        run.define_metric("*", step_metric="global_step")
        for step in range(points // TAGS):
            row = {f"metric/{tag}": 1.0 / (step * TAGS + tag + 1) for tag in range(TAGS)}
            run.log({**row, "global_step": step})
        run.finish()

    return one


def clearml(folder: Path, template: Path | None) -> Callable[[int], None]:
    """Offline tasks, one after the other."""
    os.environ |= {
        "CLEARML_CACHE_DIR": str(folder),
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CONFIG_FILE": str(folder / "none.conf"),
        "CLEARML_LOG_LEVEL": "ERROR",
    }
    from clearml import Task

    Task.set_offline(True)

    def one(points: int) -> None:
        task = Task._create(project_name="loops", task_name="run")
        logger = task.get_logger()
        for number in range(points):
            logger.report_scalar("metric", str(number % TAGS), 1.0 / (number + 1), number // TAGS)
        task.flush(wait_for_uploads=True)
        task.close()

    return one


LOOPS = {"mlflow": mlflow, "wandb": wandb, "clearml": clearml}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=LOOPS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--points", type=int, default=2000, help="of each run")
    parser.add_argument("--template", type=Path, help="a fresh MLflow store to begin with")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    one = LOOPS[args.kind](args.folder, args.template)
    one(1000)  # what is made once, is made
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
    for _ in range(args.runs):
        one(args.points)
    print(time.perf_counter() - begun, flush=True)
    sys.stdout.flush()
    os._exit(0)  # no exit hook of an SDK is measured, or waited for


if __name__ == "__main__":
    main()
