"""Lightning's TensorBoard, CSV, W&B and MLflow loggers together: each value once, and each has what it has without us."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
import wandb

from tests.frameworks.lightning.training import Given, csv_rows, data, events, fit, given, module_class, trainer
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import until
from tests.support.wandb_file import history, records
from tracelet import testing


@pytest.fixture(autouse=True)
def _wandb_is_offline_and_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.finish()


@pytest.fixture(autouse=True, scope="module")
def _wandb_core_ends() -> Iterator[None]:
    wandb.teardown()  # it keeps the settings that another test began it with
    yield
    wandb.teardown()


def wandb_logger(package: ModuleType) -> Any:
    return package.loggers.WandbLogger(
        project="p", save_dir=Path.cwd(), offline=True, settings=wandb.Settings(x_disable_stats=True, console="off")
    )


def rows_of(logger: Any) -> list[dict[str, Any]]:
    """What a logger's run was told, when all of it is in its file."""
    wandb.finish()
    (file,) = Path("wandb").glob(f"offline-run-*/run-{logger.version}.wandb")
    until(lambda: any(record.HasField("exit") for record in records(file)), 20, "the end of W&B's run")
    return history(file)


def wandb_rows(logger: Any) -> Given:
    """What is in the file of a logger's run, which ends with that."""
    return [
        (name, float(value), int(row["trainer/global_step"]))
        for row in rows_of(logger)
        for name, value in row.items()
        if not name.startswith("_") and name != "trainer/global_step" and isinstance(value, int | float)
    ]


def single(points: Given) -> Counter[tuple[str, float, int]]:
    """As event files have them."""
    return Counter((name, float(torch.tensor(value)), step) for name, value, step in points)


def test_all_of_them_together(package: ModuleType, cap: testing.Captured) -> None:
    class Direct(module_class(package)):  # type: ignore[misc]
        def on_train_end(self) -> None:
            for logger in self.loggers:
                logger.log_metrics({"direct": 0.5}, step=50)
            self.loggers[0].experiment.log({"own": 1.0})  # W&B's own: left alone
            self.loggers[1].experiment.log_metric(self.loggers[1].run_id, "own", 1.0)

    store = MlflowStore.fresh(Path("store").resolve())
    loggers = [
        wandb_logger(package),
        package.loggers.MLFlowLogger(experiment_name="e", tracking_uri=store.uri),
        package.loggers.CSVLogger("csv"),
        package.loggers.TensorBoardLogger("tb", default_hp_metric=False),
    ]
    fit(package, Direct(), logger=loggers)
    expected = [*given(package), ("direct", 0.5, 50)]
    assert Counter((point.name, point.value, point.step) for point in cap.points()) == Counter(expected)
    assert Counter(csv_rows(Path("csv/lightning_logs/version_0/metrics.csv"))) == Counter(expected)
    assert single(events("tb")) == single(expected)
    stored = [(point.key, point.value, point.step) for point in store.points() if point.key != "own"]
    assert Counter(stored) == Counter(expected)
    assert [(point.value, point.step) for point in store.points("own")] == [(1.0, 0)]
    rows = wandb_rows(loggers[0])
    assert Counter(row for row in rows if row[0] != "own") == Counter(expected)


def test_media_of_wandbs_logger(package: ModuleType, cap: testing.Captured) -> None:
    grey = numpy.arange(12, dtype="uint8").reshape(3, 4)

    class Drawing(module_class(package)):  # type: ignore[misc]
        def on_train_end(self) -> None:
            logger = self.logger
            logger.log_image("one", [grey], step=3)
            logger.log_image(
                key="three", images=[grey[..., None].repeat(3, -1), wandb.Image(grey), grey], caption=["a", "b", "c"]
            )
            logger.log_audio("sound", [numpy.zeros(100, "f4")], 4, sample_rate=[8000])
            Path("film.gif").write_bytes(b"GIF89a")
            logger.log_video("film", ["film.gif"], step=5)
            logger.log_table("table", ["a", "b"], [[1, "x|y"], [2, None]], step=6)
            logger.log_text(key="words", columns=["t"], data=[["hello"]])

    logger = wandb_logger(package)
    trainer(package, logger=[logger, package.loggers.CSVLogger("csv")], max_epochs=1).fit(Drawing(), data())
    media = [(each.name, each.kind, each.step, each.media_type) for each in cap.media()]
    assert media == [
        ("one", "image", 3, "image/png"),
        ("three/0", "image", 0, "image/png"),
        ("three/1", "image", 0, "image/png"),
        ("three/2", "image", 0, "image/png"),
        ("sound", "audio", 4, "audio/wav"),
        ("film", "video", 5, "image/gif"),
        ("table", "table", 6, "application/json"),
        ("words", "table", 0, "application/json"),
    ]
    assert [cap.media(f"three/{n}")[0].metadata["caption"] for n in range(3)] == ["a", "b", "c"]
    pictures = {each.content for each in cap.media() if each.kind == "image"}
    assert len(pictures) == 2  # grey as such, and in three channels: Pillow tells them apart
    (table,) = cap.media("table")
    assert json.loads(table.content) == {"columns": ["a", "b"], "data": [[1, "x|y"], [2, None]]}
    assert cap.media("sound")[0].metadata == {"sample_rate": 8000, "frames": 100}
    assert cap.media("film")[0].content == b"GIF89a"
    assert not [name for name in cap.names if name in ("one", "three", "sound", "film", "table", "words")]
    names = {name.partition(".")[0] for row in rows_of(logger) for name in row}
    assert {"one", "three", "sound", "film", "table", "words"} <= names


def test_what_wandb_refuses_is_not_recorded(package: ModuleType, cap: testing.Captured) -> None:
    logger = wandb_logger(package)
    with pytest.raises(TypeError):
        logger.log_image("x", torch.zeros(3, 2, 2))
    assert not cap.media()
