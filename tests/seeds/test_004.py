"""Document 004, formed's PyTorch integration: its blocks run, and what arrives is what formed's own callbacks were told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from formed.integrations.mlflow.workflow import MlflowWorkflowCache, MlflowWorkflowOrganizer
from formed.workflow import DefaultWorkflowExecutor, WorkflowGraph
from formed.workflow import step as workflow_step

import tracelet
from tests.seeds import reviews
from tests.seeds.blocks import HERE, block, check_blocks, check_tests, run_inside
from tests.seeds.histories import Points, arrived
from tests.seeds.reviews import train
from tests.support import commands
from tests.support.mlflow_store import MlflowStore
from tests.support.ports import free_port
from tests.support.spine import Spine
from tracelet.testing import Captured, capture

pytestmark = pytest.mark.timeout(240)

FOLDER = HERE / "004"
ROOT = HERE.parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, where early stopping keeps the best state.

    With one thread: on a machine that is busy, more of them wait for each other in every small step.
    """
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def cap() -> Iterator[Captured]:
    """What arrives."""
    with capture() as captured:
        yield captured


def check(captured: Captured, told: Points) -> Points:
    """What arrived under the names that formed logged is what it logged."""
    found = arrived(captured)
    assert told
    assert {name: found.get(name) for name in told} == told
    return found


# -- Models


def test_naming_a_model_s_types(cap: Captured) -> None:
    run_inside(block(2, FOLDER))
    assert (cap.points(), cap.params) == ([], {})


# -- Training infrastructure


def test_engine(cap: Captured) -> None:
    engine = run_inside(block(5, FOLDER))["engine"]
    found = check(cap, train(engine=engine))
    assert [len(found[name]) for name in ("train/loss", "val/loss")] == [9, 3]
    rates = [round(rate, 12) for _, rate in found["learning_rate"]]
    assert rates == [1e-3] * 3 + [1e-4] * 4 + [1e-5] * 2  # as it is when the step's values are logged
    said = {name: cap.params[f"trainer/engine/{name}"] for name in ("max_grad_norm", "lr_scheduler/class", "loss")}
    assert said == {
        "max_grad_norm": 1.0,
        "lr_scheduler/class": "torch.optim.lr_scheduler.StepLR",
        "loss": "loss",
    }
    assert cap.params["trainer/engine/optimizer/class"] == "torch.optim.adam.Adam"


def test_custom_engine(cap: Captured) -> None:
    engine = run_inside(block(6, FOLDER))["CustomTrainingEngine"]()
    found = check(cap, train(engine=engine))
    assert [step for step, _ in found["train/loss"]] == list(range(1, 10))
    assert cap.params["trainer/engine/class"] == "__main__.CustomTrainingEngine"


def test_trainer(cap: Captured) -> None:
    names = run_inside(block(7, FOLDER))
    assert arrived(cap) == {"epoch": [(3 * epoch, float(epoch)) for epoch in range(1, 11)]}
    assert names["state"].step == 30
    assert (cap.params["trainer/max_epochs"], cap.params["trainer/logging_interval"]) == (10, 100)
    sizes = [cap.params[f"trainer/{name}_dataloader/batch_size"] for name in ("train", "val")]
    assert sizes == [32, 64]


# -- Callbacks


def test_evaluation_callback(cap: Captured) -> None:
    found = check(cap, train(run_inside(block(9, FOLDER))["trainer"]))
    assert [len(found[name]) for name in ("train/accuracy", "val/accuracy")] == [9, 3]
    assert found["val/accuracy"][-1][1] > 0.5


def test_early_stopping(cap: Captured) -> None:
    callback = run_inside(block(10, FOLDER))["callback"]
    found = check(cap, train(callbacks=[callback]))
    assert len(found["val/loss"]) == 2
    assert Path("best_state.pth").exists()


@workflow_step("document_004_trains", format="json")
def _trains() -> int:
    reviews.train(callbacks=[run_inside(block(11, FOLDER))["callback"]])
    return 0


def test_mlflow_callback(folder: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """In a workflow with MLflow, as it needs; what it logs, tracelet has logged to a run of its own."""
    store = MlflowStore.fresh(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_experiment("formed")
    monkeypatch.setattr(
        MlflowWorkflowCache, "_DEFAULT_DIRECTORY", folder / "cache"
    )  # formed's own: where it was imported
    file = folder / "workflow.json"
    file.write_text(json.dumps({"steps": {"trains": {"type": "document_004_trains"}}}))
    with capture() as cap, tracelet.start_logging("workflow"):
        organizer = MlflowWorkflowOrganizer(experiment_name="formed")
        organizer.run(DefaultWorkflowExecutor(), WorkflowGraph.from_jsonnet(file))
    theirs: Points = {}
    for point in store.points():
        if (point.step, point.value) not in theirs.setdefault(point.key, []):  # the rates of both kinds of values
            theirs[point.key].append((point.step, point.value))
    assert arrived(cap) == theirs
    assert set(theirs) == {
        "train/accuracy",
        "train/loss",
        "val/accuracy",
        "val/loss",
        "learning_rate",
        "gradient_norm",
        "epoch",
    }
    assert cap.params["model/parameters"] == 32 * 8 + 8 * 2 + 2


def test_custom_callback(cap: Captured, capsys: pytest.CaptureFixture[str]) -> None:
    made = run_inside(block(12, FOLDER))["MyCallback"]()
    check(cap, train(callbacks=[made]))
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("Completed")] == [f"Completed epoch {n}" for n in (1, 2, 3)]
    assert len(said) == 3 + 9 + 3


# -- Distributed training


@pytest.mark.parametrize("number", [13, 15])
def test_distributors(number: int, cap: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process; what two do has tests with formed's other distributors."""
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    distributor = run_inside(block(number, FOLDER))["distributor"]
    source = block(16, FOLDER)
    names: dict[str, Any] = {"distributor": distributor}
    exec(source.given + source.text(), names)
    made = names["trainer"]
    made._callbacks = [reviews.EvaluationCallback(reviews.ReviewEvaluator())]
    found = check(cap, train(made))
    assert len(found["train/loss"]) == 9
    assert cap.params["trainer/distributor/class"].endswith(type(distributor).__name__)
    assert cap.params["model/class"].endswith(".BagOfWords")


# -- Workflow integration

WORKFLOW = """
local prepared(part) = {
  type: 'ml::generate_instances',
  datamodule: { type: 'ref', ref: 'datamodule_and_instances.datamodule' },
  dataset: { type: 'ref', ref: part },
};
{
  steps: {
    dataset: { type: 'reviews', part: 'train' },
    val_dataset: { type: 'reviews', part: 'val' },
    test_dataset: { type: 'reviews', part: 'test' },
    train_instances: prepared('dataset'),
    val_instances: prepared('val_dataset'),
    test_instances: prepared('test_dataset'),
  } + (import 'train.jsonnet').steps + (import 'evaluate.jsonnet').steps,
}
"""
SETTINGS = (
    "required_modules: [formed.integrations.ml, formed.integrations.torch, tests.seeds.reviews, text_classifier]\n"
)


def in_runs(database: Path, query: str) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of a query about runs, by the run: its name, and its place among those of that name."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=20)) as db:
        runs = db.execute("SELECT run_uuid, name FROM runs ORDER BY start_time").fetchall()
        found, count = {}, dict.fromkeys((name for _, name in runs), 0)
        for run, name in runs:
            count[name] += 1
            found[f"{name} {count[name]}"] = db.execute(query, (run,)).fetchall()
    return found


def test_workflow(shared_spine: Spine, folder: Path) -> None:
    """The document's model, training and evaluation, by formed's command line; and once more, when all is cached."""
    files = {"model.jsonnet": 4, "train.jsonnet": 17, "evaluate.jsonnet": 18, "text_classifier.py": 3}
    for name, number in files.items():
        source = block(number, FOLDER)
        Path(name).write_text(source.given + source.text())
    Path("workflow.jsonnet").write_text(WORKFLOW)
    Path("formed.yml").write_text(SETTINGS)
    environment = {
        **shared_spine.environment,
        "PYTHONPATH": f"{folder}:{ROOT}:{ROOT / 'server'}",
        "TRACELET_SYSTEM_EVERY": "1",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("first", "second"):
        words = ("run", "--name", name, "formed", "workflow", "run", "workflow.jsonnet")
        done = commands.tracelet(*words, cwd=folder, environment=environment, seconds=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    shared_spine.settle()

    told: Points = {}
    for line in Path("told").read_text().splitlines():
        name, step, value = line.split()
        told.setdefault(name, []).append((int(step), float(value)))
    assert [step for step, _ in told["train/loss"]] == [1, 3, 6, 9]
    database = shared_spine.database
    metrics = in_runs(database, "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step")
    assert list(metrics) == [
        "first 1",
        "trained_model 1",
        "evaluation 1",
        "second 1",
        "trained_model 2",
        "evaluation 2",
    ]
    assert [row for row in metrics["trained_model 1"] if row[0] in told] == [
        (name, *point) for name, points in sorted(told.items()) for point in points
    ]
    evaluated = {name: value for name, _, value in metrics["evaluation 1"]}
    assert set(evaluated) == {"test/accuracy", "test/loss"}
    assert evaluated["test/accuracy"] > 0.5
    assert any(name.startswith("system/") for name, _, _ in metrics["first 1"])
    assert metrics["trained_model 2"] == metrics["evaluation 2"] == []

    tags = {
        run: dict(rows) for run, rows in in_runs(database, "SELECT key, value FROM tags WHERE run_uuid = ?").items()
    }
    for name in ("trained_model", "evaluation"):
        made, cached = tags[f"{name} 1"], tags[f"{name} 2"]
        assert (cached["cached"], cached["cached_from"]) == ("true", made["tracelet.run_id"])
        assert made["tracelet.parent"] == tags["first 1"]["tracelet.run_id"]
        assert cached["tracelet.parent"] == tags["second 1"]["tracelet.run_id"]
    params = {
        run: dict(rows) for run, rows in in_runs(database, "SELECT key, value FROM params WHERE run_uuid = ?").items()
    }
    for of in ("trained_model 1", "trained_model 2"):
        wanted = {"random_seed": "42", "model/encoder/hidden_dim": "256", "trainer/engine/optimizer/lr": "0.001"}
        assert {name: params[of].get(name) for name in wanted} == wanted
    assert params["trained_model 1"]["trainer/max_epochs"] == "3"
    assert params["first 1"]["steps/dataset/part"] == "train"


# -- The complete example


def test_complete_example(cap: Captured) -> None:
    names = run_inside(block(19, FOLDER))
    found = check(cap, names["written"].points)
    assert [len(found[name]) for name in ("train/loss", "val/loss", "train/accuracy", "val/accuracy")] == [9, 3, 9, 3]
    assert [step for step, _ in found["val/loss"]] == [3, 6, 9]
    assert [step for step, _ in found["epoch"]] == [3, 6, 9]
    assert names["state"].step == 9


# -- The table


def test_every_block_is_there_as_the_document_has_it() -> None:
    check_blocks(FOLDER, 19)


def test_every_block_has_a_test_that_exists_or_a_reason() -> None:
    check_tests(FOLDER, globals())
