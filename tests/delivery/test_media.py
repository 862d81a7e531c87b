"""Media and artifacts from the log to MLflow, through a worker, into a store; `test_server` has them go through a server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.delivering import Desk, Writer, run_spec
from tests.support.mlflow_store import MlflowStore
from tests.support.uploading import content
from tracelet.core.metrics import Artifact, BlobRef, Media, Metric, Record, RunEnd, RunStatus

T0 = 1_700_000_000.0
END = RunEnd(RunStatus.FINISHED, "", T0 + 9)


def records(desk: Desk) -> list[Record]:
    return [
        Metric("loss", 1.0, 0, T0),
        Media("sample", "text", "grüße".encode(), "text/plain", 1, T0, tag="sample"),
        Media("sample", "text", b"second", "text/plain", 1, T0, tag="sample"),
        Media("päö 日本/x", "image", desk.blob(content(40_000)), "image/png", 2, T0, metadata={"width": 3}),
        Media("päö 日本/x", "image", b"small", "image/png", 2**70, T0),
        Artifact("a/b c.txt", b"inline", "text/plain", T0),
        Artifact("50% of#it?.bin", desk.blob(content(2_000_000, seed=2)), "", T0),
        Artifact("a", b"a file, and a folder", "", T0),
        Artifact("gone.bin", BlobRef("0" * 64, 77_000, ""), "application/x-gone", T0),
        Media("lost", "audio", BlobRef("1" * 64, 88_000, ""), "audio/wav", 5, T0),
        Metric("loss", 0.5, 1, T0),
        END,
    ]


def check(desk: Desk, run_id: str, root: Path) -> None:
    cursor = desk.cursor(run_id)
    assert (cursor.delivered, cursor.rerouted, cursor.collapsed, cursor.dead) == (9, 0, 0, 2)
    letters = {letter.name: json.loads(letter.point) for letter in desk.log.dead_letters(run_id)}
    gone, lost = letters["gone.bin"], letters["lost"]
    assert (gone["kind"], gone["size"], gone["sha256"]) == ("artifact", 77_000, "0" * 64)
    assert (lost["kind"], lost["size"], lost["step"], lost["media_type"]) == ("audio", 88_000, 5, "audio/wav")
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found["texts/sample/step_1.md"].decode() == "grüße"
    assert found["texts/sample/step_1_2.md"] == b"second"
    assert found["a/b c.txt"] == b"inline"
    (renamed,) = [path for path in found if path.startswith("50_ of_it_-")]
    assert found[renamed] == content(2_000_000, seed=2)
    (beside,) = [path for path in found if path.startswith("a-")]
    assert found[beside] == b"a file, and a folder"
    images = {path for path in found if path.startswith("images/päö 日本~x+step+")}
    assert len(images) == 4
    assert len(found) == 5 + 4


def test_into_a_store(tmp_path: Path) -> None:
    store = MlflowStore.fresh(tmp_path / "store")
    with Desk(tmp_path / "home") as desk:
        parent = Writer(desk.log, run_spec("parent", store.uri))
        parent.write([Metric("loss", 1.0, 0, T0)])
        desk.delivery.wake("parent")
        desk.until_settled("parent")
        spec = run_spec("r1", store.uri, parent="parent", group="g", notes="n", tags={"team": "blue"}, name="child")
        Writer(desk.log, spec).write(records(desk), cut=4)
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        (child,) = [run for run in store.runs() if run["name"] == "child"]
        check(desk, "r1", tmp_path / "store" / "mlruns" / "1" / child["id"] / "artifacts")
    tags = store.tags()
    assert (tags["tracelet.group"], tags["mlflow.note.content"], tags["team"]) == ("g", "n", "blue")
    (above,) = [run for run in store.runs() if run["name"] != "child"]
    assert (tags["tracelet.parent"], tags["mlflow.parentRunId"]) == ("parent", above["id"])
