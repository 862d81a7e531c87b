"""Ray Tune's trials as runs: what arrives in MLflow is what Ray has written down of them. One session of Ray for all tests."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import TRACELET
from tests.support.mlflow_store import MlflowStore
from tests.support.pages import examples
from tests.support.spine import Spine, shared_home

pytestmark = pytest.mark.timeout(400)

SCRIPT = Path(__file__).with_name("ray_script.py")
ROOT = SCRIPT.parents[2]
Results = list[dict[str, Any]]


@dataclass
class Run:
    """A run in MLflow."""

    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    points: dict[str, list[tuple[int, float]]]


@dataclass
class Searched:
    """What there is after the script.

    Attributes:
        results: what Ray has, by experiment and trial.
        runs: what MLflow has: the trials' by Ray's id, the outer one by an empty one.
        parents: MLflow's id of what each trial's run is within.
        outer: MLflow's id of the outer one.
        stderr: the script's.
        without: what was said in a worker that has no tracelet.
    """

    results: dict[str, dict[str, Results]]
    runs: dict[str, Run]
    parents: set[str]
    outer: str
    stderr: str
    without: str


@pytest.fixture(scope="module")
def searched() -> Iterator[Searched]:
    """The script under `tracelet run`, and everything delivered."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets lie in it: a path that is not long
    (folder / "example.py").write_text(examples("docs/reference/frameworks/ray.md")["Overview"])
    MlflowStore.fresh(folder)
    try:
        with shared_home() as home:
            spine = Spine(home, folder)
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("TRACELET_")},
                **spine.environment,
                "TRACELET_RAISE_INTERNAL": "1",
                "TRACELET_PROVENANCE": "0",
                "TRACELET_SYSTEM_EVERY": "0",
                "TRACELET_STOP_WAIT": "durable",
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT),
                "RAY_TMPDIR": str(folder),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_AUTH_MODE": "disabled",
                "OMP_NUM_THREADS": "1",
            }
            command = [TRACELET, "run", "--name", "search", str(SCRIPT), "example.py"]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stderr
            spine.settle()
        yield _read(folder, spine.database, done.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path, database: Path, stderr: str) -> Searched:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as db:
        found = {
            run: Run(name, how, {}, {}, {}) for run, name, how in db.execute("SELECT run_uuid, name, status FROM runs")
        }
        for run, key, value in db.execute("SELECT run_uuid, key, value FROM params"):
            found[run].params[key] = value
        for run, key, value in db.execute("SELECT run_uuid, key, value FROM tags"):
            found[run].tags[key] = value
        for run, key, step, value in db.execute("SELECT run_uuid, key, step, value FROM metrics ORDER BY step, rowid"):
            if ".meta/" not in key:
                found[run].points.setdefault(key, []).append((step, value))
    results = json.loads((folder / "said.json").read_text())
    without = results.pop("without")
    return Searched(
        results=results,
        runs={run.tags.get("ray.trial_id", ""): run for run in found.values()},
        parents={run.tags["mlflow.parentRunId"] for run in found.values() if "ray.trial_id" in run.tags},
        outer=next(key for key, run in found.items() if "ray.trial_id" not in run.tags),
        stderr=stderr,
        without=without,
    )


def reported(results: Results, *names: str) -> dict[str, list[tuple[int, float]]]:
    """What Ray has of some metrics, as points."""
    return {f"ray/tune/{name}": [(row["training_iteration"], row[name]) for row in results] for name in names}


def test_all_trials_are_runs_within_the_driver_s(searched: Searched) -> None:
    """And nothing else is: Optuna's search asks for trials of its own, and Tune's TensorBoard files are of the same numbers."""
    trials = {trial for experiment in searched.results.values() for trial in experiment}
    assert searched.runs.keys() == {"", *trials}
    assert len(trials) == 2 + 4 + 3 + 2
    assert searched.parents == {searched.outer}
    assert searched.runs[""].name == "search"
    assert searched.runs[""].status == "FINISHED"
    assert searched.runs[""].points == {}
    params = searched.runs[""].params
    assert params.keys() >= {"ray/scheduler", "ray/search_alg", "ray/experiment"}
    others = {name: params[f"{name}/ray/scheduler"] for name in ("fated", "climbing", "broken")}
    assert others == {"fated": "Impatient", "climbing": "FIFOScheduler", "broken": "FIFOScheduler"}
    assert not [tag for tag in searched.runs[""].tags if tag.startswith("param.")]  # as where one is told two ways


def test_the_documentation_s_example(searched: Searched) -> None:
    for trial, results in searched.results["example"].items():
        run = searched.runs[trial]
        assert run.points == reported(results, "loss")
        assert len(results) == 5
        assert float(run.params["lr"]) == results[0]["config"]["lr"]
        assert run.name == f"train_{trial}"
        assert (run.status, run.tags["ray.status"]) == ("FINISHED", "terminated")


def test_fates_of_trials(searched: Searched) -> None:
    """What a worker logged is in its trial's run, also of one that was killed, and the driver knows how each ended."""
    ends = {}
    for trial, results in searched.results["fated"].items():
        run = searched.runs[trial]
        fate = results[0]["config"]["fate"]
        assert run.params == {"fate": fate, "deep/rate": "0.1"}
        rows = [{**row, "deep/epoch": row["deep"]["epoch"]} for row in results]
        expected = reported(rows, "loss", "deep/epoch")
        epochs = {"well": 4, "stopped": 2, "fails": 4, "dies": 4}[fate]
        assert run.points == {**expected, "inner": [(epoch, epoch / 3) for epoch in range(epochs)]}
        ends[fate] = (len(results), run.status, run.tags["ray.status"], run.tags.get("ray.stopped_by"))
    assert ends == {
        "well": (4, "FINISHED", "terminated", None),
        "stopped": (2, "FINISHED", "terminated", "Impatient"),
        "fails": (3, "FAILED", "error", None),
        "dies": (3, "FAILED", "error", None),
    }
    reasons = {run.params.get("fate"): run.tags.get("tracelet.end_reason") for run in searched.runs.values()}
    assert reasons["fails"] == "ValueError: no such luck"


def test_a_trial_that_never_begins_and_one_whose_experiment_fails(searched: Searched) -> None:
    runs = {searched.runs[trial].params["fate"]: searched.runs[trial] for trial in searched.results["broken"]}
    ends = {fate: (run.status, run.tags["ray.status"], run.tags["tracelet.end_reason"]) for fate, run in runs.items()}
    assert ends == {
        "never begins": ("FAILED", "error", "RuntimeError: no such thing at https://REDACTED@there"),
        "unlucky": ("FAILED", "interrupted", "RuntimeError: no such callback"),
    }


def test_a_worker_that_has_one_trial_after_the_other(searched: Searched) -> None:
    assert len({row["pid"] for rows in searched.results["climbing"].values() for row in rows}) < 3
    for trial, results in searched.results["climbing"].items():
        run = searched.runs[trial]
        x = results[0]["config"]["x"]
        assert run.points == {**reported(results, "y"), "inner": [(step, x) for step in range(3)]}
        assert float(run.params["x"]) == x
        assert run.status == "FINISHED"


def test_a_worker_without_tracelet_goes_on(searched: Searched) -> None:
    """It says so, once."""
    (line,) = searched.without.splitlines()
    assert "what this worker logs is not recorded" in line
    assert "your script goes on without it" not in searched.stderr
