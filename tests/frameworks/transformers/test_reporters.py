"""TensorBoard, W&B and MLflow reported to at once: each value once, and each has what it has without us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

import tracelet
from tests.frameworks.lightning.training import events
from tests.frameworks.transformers.training import arrived, history, rows, trainer
from tests.support.mlflow_store import MlflowStore
from tests.support.wandb_file import history as wandb_history
from tracelet import testing


@pytest.fixture(autouse=True)
def _wandb_is_offline_and_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it keeps the settings that another test began it with
    yield
    wandb.teardown()


def test_each_value_once_beside_all_of_them(cap: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MlflowStore.fresh(Path("store").resolve())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    with tracelet.start_logging():
        ran = trainer(report_to=["wandb", "mlflow", "tensorboard", "tracelet"], eval_strategy="steps", eval_steps=2)
        ran.train()
        logged = history(ran)
        predicted = ran.predict(rows(8))
        wandb.finish()
    assert arrived(cap) == history(ran, predicted.metrics)
    assert len(events("out")) == len(logged)
    assert {(row.key, row.step) for row in store.points()} == _named(ran.state.log_history)
    (file,) = Path("wandb").rglob("*.wandb")
    losses = [row["train/loss"] for row in wandb_history(file) if "train/loss" in row]
    assert losses == [logs["loss"] for logs in ran.state.log_history if "loss" in logs]
    assert cap.params["learning_rate"] == 5e-5


def _named(logs: list[dict[str, float]]) -> set[tuple[str, int]]:
    return {(name, int(each["step"])) for each in logs for name in each if name != "step"}
