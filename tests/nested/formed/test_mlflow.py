"""Beside formed's own MLflow integration: each value arrives once, and its store has what it has without us."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from formed.integrations.mlflow.workflow import MlflowWorkflowCache, MlflowWorkflowOrganizer
from formed.workflow import DefaultWorkflowExecutor, WorkflowGraph

import tracelet
from tests.nested.formed.training import steps
from tests.seeds.histories import Points, arrived
from tests.support.mlflow_store import MlflowStore
from tracelet.testing import Captured

NAMED = "JOIN tags t USING (run_uuid) WHERE t.key = 'mlflow.runName'"
OF_RUNS = {
    "metrics": f"SELECT t.value, m.key, m.step, m.value FROM metrics m {NAMED}",
    "params": f"SELECT t.value, p.key, p.value FROM params p {NAMED}",
    "runs": "SELECT name, status FROM runs",
}


def kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Run the workflow with formed's organizer and callback; returns what its store has then."""
    folder.mkdir()
    store = MlflowStore.fresh(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_experiment("formed")
    config = steps()
    config["trained"]["trainer"]["callbacks"].append({"type": "mlflow"})
    monkeypatch.chdir(folder)
    # formed's own is where the tests were started.
    monkeypatch.setattr(MlflowWorkflowCache, "_DEFAULT_DIRECTORY", folder / "cache")
    file = folder / "config.json"
    file.write_text(json.dumps({"steps": config}))
    organizer = MlflowWorkflowOrganizer(experiment_name="formed", log_execution_metrics=True)
    organizer.run(DefaultWorkflowExecutor(), WorkflowGraph.from_jsonnet(file))
    with closing(sqlite3.connect(f"{store.path.as_uri()}?mode=ro", uri=True)) as db:
        return {what: sorted(db.execute(query).fetchall()) for what, query in OF_RUNS.items()}


def test_beside_the_organizer_and_the_callback(
    alone: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = kept(tmp_path / "bare", monkeypatch)
    with tracelet.start_logging("workflow"):
        listened = kept(tmp_path / "listened", monkeypatch)
    execution = {name for name, _ in bare["runs"]} ^ {name for name, _ in listened["runs"]}
    assert len(execution) == 2  # formed draws a name for each execution; all else is the same
    for what in OF_RUNS:
        of_steps = [[row for row in rows[what] if row[0] not in execution] for rows in (bare, listened)]
        assert of_steps[0] == of_steps[1]
    theirs: Points = {}
    for _, name, step, value in sorted(row for row in listened["metrics"] if row[0] not in execution):
        theirs.setdefault(name, []).append((step, value))
    ours = {name: points for run in alone.runs if run.begun for name, points in arrived(alone, run=run).items()}
    # Theirs has the learning rate and the norm again with each validation's values, and the result by its bare name.
    twice = ("learning_rate", "gradient_norm")
    assert {name: points for name, points in ours.items() if name not in (*twice, "test/loss")} == {
        name: points for name, points in theirs.items() if name not in (*twice, "loss")
    }
    for name in twice:
        assert ours[name] == sorted(set(theirs[name]))
    assert ours["test/loss"] == theirs["loss"]
