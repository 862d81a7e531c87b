"""A script of which nothing is set: what it was, and how its machine fared, is in MLflow with what it logged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.provenance.support import Repository
from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine

SCRIPT = """
import argparse
import tracelet

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--api-key")
args = parser.parse_args()
with tracelet.start_logging(exp_name="default", project="p", config={"batch": 4}) as run:
    for step in range(3):
        run.log_metric("loss", step / 3, step)
"""


def test_everything_at_its_default(shared_spine: Spine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spine = shared_spine
    for name in ("TRACELET_PROVENANCE", "TRACELET_SYSTEM_EVERY"):
        monkeypatch.delenv(name)
    for name, value in spine.environment.items():
        monkeypatch.setenv(name, value)
    repository = Repository(tmp_path / "code")
    commit = repository.commit({"train.py": SCRIPT})
    repository.write({"train.py": f"{SCRIPT}# changed\n"})
    words = [sys.executable, "train.py", "--lr", "0.5", "--api-key", "squirrel-7"]
    done = subprocess.run(words, cwd=repository.folder, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    (run,) = spine.settle().runs

    store = MlflowStore(spine.database)
    tags = store.tags()
    assert store.params() == {"lr": "0.5", "api_key": "REDACTED", "batch": "4"}
    assert (tags["mlflow.source.git.commit"], tags["git.dirty"], tags["mlflow.source.name"]) == (
        commit,
        "true",
        "train.py",
    )
    assert tags["command"].endswith("train.py --lr 0.5 --api-key REDACTED")
    client = MlflowClient(store.uri)
    run_id = store.run()["id"]
    kept = sorted(Path(file.path).name for file in client.list_artifacts(run_id, "provenance"))
    assert kept == ["changes.patch", "command.json", "environment.json", "packages.txt"]
    metrics = client.get_run(run_id).data.metrics
    assert {"system/memory_percent", "system/process/memory_bytes"} <= metrics.keys()
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [
        (step, step / 3) for step in range(3)
    ]
    system = sum(len(client.get_metric_history(run_id, name)) for name in metrics if name.startswith("system/"))
    assert run.durable == 3 + system + len(kept)
    assert all(b"squirrel-7" not in path.read_bytes() for path in store.artifacts().rglob("*") if path.is_file())
    assert b"squirrel-7" not in spine.database.read_bytes()
