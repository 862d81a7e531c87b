"""Awkward scalars of an untouched TensorBoard script: exact in the log, and in MLflow as its exporter's page says."""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import tracelet
from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine
from tracelet.core.metrics import Metric
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as pb

# Writes down, beside TensorBoard, what it passed: tag, float64 in hex, step, wall time.
SCRIPT = """
import json, math, sys, time
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

passed = []

def log(writer, label, tag, value, step=None, walltime=None):
    writer.add_scalar(tag, value, step, walltime)
    number = float(value)
    text = number.hex() if math.isfinite(number) else repr(number)
    passed.append([label, tag, text, step if step is None else int(step), walltime])

train, val = SummaryWriter("tb/train"), SummaryWriter("tb/val")
for writer, label in ((train, "train"), (val, "val")):
    for step in range(100):
        log(writer, label, "loss", 1 / (step + 3), step)             # no float32 holds it
    for value in (math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7976931348623157e308, -1e-300):
        log(writer, label, "odd", value, 7)
    for _ in range(5):
        log(writer, label, "same", 0.5, 3, 1.7e9)                      # identical to the millisecond
    for step in (5, 3, 1, 4):
        log(writer, label, "back", float(step), step)
    log(writer, label, "steps", 1.0, 2**53 + 1)
    log(writer, label, "steps", 1.0, -7)
    log(writer, label, "steps", 1.0, 2**63 - 1)
    log(writer, label, "steps", 1.0, np.int64(12))
    log(writer, label, "kinds", np.float32(0.1), 0)
    log(writer, label, "kinds", np.float64(0.1), 1)
    log(writer, label, "kinds", np.int64(3), 2)
    log(writer, label, "kinds", torch.tensor(0.1), 3)
    log(writer, label, "kinds", torch.tensor([0.25], dtype=torch.float64), 4)
    log(writer, label, "kinds", np.array([0.125]).item(), 5)
    log(writer, label, "kinds", True, 6)
    log(writer, label, "kinds", 2**60 + 1, 7)
    for _ in range(3):
        log(writer, label, "implied", 2.0)
    log(writer, label, "Verlust/größe µ", 1.0, 0)
    log(writer, label, "a%b#c", 1.0, 0)                                # two names that MLflow refuses,
    log(writer, label, "a#b%c", 2.0, 0)                                # and that become one when cleaned
    log(writer, label, "clock", 1.0, 1, 12.25)
    log(writer, label, "clock", 1.0, 2, 1.7e9 + 1e-6)
train.add_scalars("pair", {"a": 0.1, "b": 0.2}, 4, 1.6e9)
passed += [["train", "pair/a", (0.1).hex(), 4, 1.6e9], ["train", "pair/b", (0.2).hex(), 4, 1.6e9]]
json.dump(passed, open("passed.json", "w"))
train.close(); val.close()
"""


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """What is told here is told of runs, wherever they are."""
    return shared_spine


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def logged(home: Path, run_id: str) -> list[Metric]:
    """Everything of a run in the collector's log, decoded."""
    found = []
    names: dict[int, dict[int, pb.TagDef]] = {}
    with closing(sqlite3.connect(f"file:{home}/log/tracelet.db?mode=ro", uri=True)) as db:
        query = "SELECT stream, payload FROM batches JOIN runs USING (run) WHERE run_id = ? ORDER BY lsn"
        for stream, payload in db.execute(query, (run_id,)):
            records = codec.decode(pb.Batch.FromString(payload), names.setdefault(stream, {}))
            found += [record for _, record in records if isinstance(record, Metric)]
    return found


@pytest.fixture
def passed(spine: Spine) -> list[tuple[str, str, float, int | None, float | None]]:
    """What the script passed: label, tag, value, step, wall time. It has ended, and everything is delivered."""
    (spine.folder / "train.py").write_text(SCRIPT)
    done = tracelet("run", "--project", "faults", "train.py", cwd=spine.folder, environment=spine.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    spine.settle()
    said = json.loads((spine.folder / "passed.json").read_text())
    return [
        (label, tag, float.fromhex(value) if "0x" in value else float(value), step, wall)
        for label, tag, value, step, wall in said
    ]


def test_every_scalar_is_exact_in_the_log_and_accounted_in_mlflow(
    spine: Spine, passed: list[tuple[str, str, float, int | None, float | None]]
) -> None:
    # The log: value to the last bit, step and wall time, in order for each name.
    by_name: dict[str, list[Metric]] = {}
    for metric in logged(spine.home, spine.run().run_id):
        by_name.setdefault(metric.name, []).append(metric)
    expected: dict[str, list[tuple[float, int | None, float | None]]] = {}
    for label, tag, value, step, wall in passed:
        expected.setdefault(f"{label}/{tag}", []).append((value, step, wall))
    assert by_name.keys() == expected.keys()
    for name, points in expected.items():
        found = by_name[name]
        assert [bits(metric.value) for metric in found] == [bits(value) for value, _, _ in points], name
        implied = [step is None for _, step, _ in points]
        steps = [number if step is None else step for number, (_, step, _) in enumerate(points)]
        assert [metric.step for metric in found] == steps, name
        assert [metric.step_implied for metric in found] == implied, name
        assert all(wall in (None, metric.wall_time) for metric, (_, _, wall) in zip(found, points, strict=True)), name

    # MLflow: every point is there, once; the infinite ones flagged, and told as rerouted.
    (run,) = spine.status().runs
    (backend,) = run.backends
    infinite = sum(math.isinf(value) for _, _, value, _, _ in passed)
    assert run.durable == len(passed)
    assert (backend.delivered, backend.rerouted) == (len(passed) - infinite, infinite)
    assert (backend.collapsed, backend.dead, backend.lag_points) == (0, 0, 0)
    store = MlflowStore(spine.database)
    stored = store.points()
    short = Counter({name: len(points) for name, points in expected.items()}) - Counter(row.key for row in stored)
    assert len(stored) == len(passed), short
    for name in ("train/loss", "val/loss", "train/back", "val/steps", "train/kinds"):
        # (MLflow knows no order but its rows'; a later call has the later row.)
        assert [(row.value, row.step) for row in stored if row.key == name] == [
            (value, step) for value, step, _ in expected[name]
        ]
    assert Counter((row.value, row.step) for row in stored if row.key == "train/same") == {(0.5, 3): 5}
    assert sorted(row.timestamp for row in stored if row.key == "train/same") == [
        1_700_000_000_000 + n for n in range(5)
    ]
    assert [row.timestamp for row in stored if row.key == "val/clock"] == [12_250, 1_700_000_000_000]
    odd = [row.value for row in stored if row.key == "train/odd"]
    assert sum(map(math.isnan, odd)) == 1
    assert "±" in store.tags()["tracelet.metric.train/odd.infinite"]
    cleaned = {row.key for row in stored if row.key.startswith("train/a")}
    assert "train/a_b_c" in cleaned
    assert len(cleaned) == 2, "two names that clean to one stay apart"
    assert spine.tracked() == ["FINISHED"]
    assert {Path(log_dir).name: label for log_dir, label in run.labels.items()} == {"train": "train", "val": "val"}
