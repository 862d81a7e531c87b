"""Two scripts that search together, by one storage: each has its run, and in it the trials that it has tried."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import optuna
import pytest

from tests.support.commands import TRACELET
from tests.support.spine import Spine

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    for step in range(3):
        trial.report(x * step, step)
    return x


study = optuna.load_study(study_name="shared", storage="sqlite:///trials.db")
study.optimize(objective, n_trials=4)
"""


def test_two_scripts_on_one_storage(shared_spine: Spine) -> None:
    spine = shared_spine
    storage = f"sqlite:///{spine.folder / 'trials.db'}"
    study = optuna.create_study(study_name="shared", storage=storage)
    (spine.folder / "search.py").write_text(SCRIPT)
    searches = [
        subprocess.Popen(
            [TRACELET, "run", "--name", name, "search.py"], cwd=spine.folder, env={**os.environ, **spine.environment}
        )
        for name in ("one", "two")
    ]
    assert [search.wait(120) for search in searches] == [0, 0]
    spine.settle()

    with closing(sqlite3.connect(f"file:{spine.database}?mode=ro", uri=True, timeout=60)) as db:
        runs = {run: (name, status) for run, name, status in db.execute("SELECT run_uuid, name, status FROM runs")}
        parents = dict(db.execute("SELECT run_uuid, value FROM tags WHERE key = 'mlflow.parentRunId'"))
        params = dict(db.execute("SELECT run_uuid, value FROM params WHERE key = 'x'"))
        metrics = db.execute("SELECT run_uuid, key, step, value FROM metrics").fetchall()
    assert {status for _, status in runs.values()} == {"FINISHED"}
    outers = {name: run for run, (name, _) in runs.items() if name in ("one", "two")}
    trials = {name: run for run, (name, _) in runs.items() if name not in outers}
    assert len(outers) == 2
    assert trials.keys() == {f"trial-{trial.number}" for trial in study.trials}
    assert len(study.trials) == len(runs) - 2 == 8
    assert sorted(parents.values()) == sorted([*outers.values()] * 4)
    for trial in study.trials:
        run = trials[f"trial-{trial.number}"]
        assert float(params[run]) == trial.params["x"]
        found = sorted((key, step, value) for of, key, step, value in metrics if of == run)
        assert found == [
            *(("intermediate_value", step, value) for step, value in sorted(trial.intermediate_values.items())),
            ("value", trial.number, trial.value),
        ]
