"""What a real TensorBoard shows of the folder: asked over HTTP, with either of its loaders."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.tensorboard import TensorBoardExporter

from tests.contract.samples import KINDS, sample
from tests.support.exporting import Courier
from tests.support.processes import until
from tests.support.tensorboard_folder import TensorBoardFolder
from tracelet.core.metrics import Media, Metric, Params, RunEnd, RunStatus

T0 = 1_700_000_000.5
ROOT = "vision/a run-r-1"
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TensorBoardFolder:
    """A run with everything, and one that goes on."""
    folder = TensorBoardFolder(tmp_path_factory.mktemp("server") / "tb")
    first, second = (
        Courier(TensorBoardExporter, Run(run_id, "a run", "vision", folder.uri, T0)) for run_id in ("r-1", "r-2")
    )
    first.deliver(Params({"lr": 0.5, "name": "bfo", "deep": True, "bad": math.nan}, T0))
    first.deliver(*[Metric("loss", 1 / (step + 1), step, T0 + step, tag="loss") for step in range(50)])
    first.deliver(Metric("loss", math.nan, 50, T0), Metric("loss", math.inf, 51, T0), Metric("loss", 1, 52, math.nan))
    first.deliver(*[Metric("train/loss", float(step), step, T0, tag="loss", log_dir="runs/train") for step in range(9)])
    first.deliver(Metric("fit", 1.0, 1, T0, "fitness"))
    for kind in KINDS:
        for seed in range(2):
            made = sample(kind, seed)
            first.deliver(Media(kind, kind, made.data, made.media_type, seed, T0, made.metadata, tag=kind))
    first.deliver(RunEnd(RunStatus.FINISHED, "", T0 + 60))
    second.deliver(Params({"lr": 0.25, "more": 1}, T0), Metric("loss", 7.0, 0, T0), Metric("loss", 8.0, 1, T0))
    return folder


@pytest.fixture(scope="module", params=["fast", "slow"])
def ask(request: pytest.FixtureRequest, folder: TensorBoardFolder) -> Iterator[Ask]:
    """A server, which has read the folder."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder.path), "--host", "127.0.0.1"]
    command += ["--reload_interval", "1"]
    log = folder.path.parent / f"{request.param}.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, "--port", "0", f"--load_fast={'true' if request.param == 'fast' else 'false'}"],
            stdout=file,
            stderr=file,
            cwd=folder.path.parent,
        )
    try:
        found = until(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()) or server.poll(), 60, "a server")
        assert isinstance(found, re.Match), log.read_text()
        page = f"{found[0]}/data/"

        def ask(path: str, body: Any = None, **query: Any) -> Any:
            request = urllib.request.Request(
                f"{page}{path}?{urllib.parse.urlencode(query)}",
                None if body is None else json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        until(lambda: len(ask("plugin/scalars/tags").get("vision/a run-r-2", {})) == 1, 60, "the last run")
        yield ask
    finally:
        server.terminate()
        server.wait(30)


def test_the_runs(ask: Ask) -> None:
    assert sorted(run for run in ask("runs") if run.startswith("vision/a run")) == [
        ROOT,
        f"{ROOT}/train",
        "vision/a run-r-2",
    ]


def test_scalars(ask: Ask, request: pytest.FixtureRequest) -> None:
    tags = ask("plugin/scalars/tags")
    assert {run: sorted(found) for run, found in tags.items() if run.startswith("vision/a run")} == {
        ROOT: ["fit", "loss"],
        f"{ROOT}/train": ["loss"],
        "vision/a run-r-2": ["loss"],
    }
    said = tags[ROOT]["fit"]["description"]  # the fast loader has none for scalars
    assert said in ("", "<p>type: <code>fitness</code></p>")
    assert said or request.node.callspec.params["ask"] == "fast"
    shown = ask("plugin/scalars/scalars", run=ROOT, tag="loss")
    assert [(time, step) for time, step, _ in shown] == [(T0 + step, step) for step in range(50)] + [
        (T0, 50),
        (T0, 51),
        (T0, 52),
    ]
    assert [value for *_, value in shown[:50]] == [pytest.approx(1 / (step + 1), rel=6e-8) for step in range(50)]
    assert [value for *_, value in shown[50:]] == ["NaN", "Infinity", 1.0]
    train = ask("plugin/scalars/scalars", run=f"{ROOT}/train", tag="loss")
    assert [(step, value) for _, step, value in train] == [(step, float(step)) for step in range(9)]


def test_media(ask: Ask) -> None:
    def steps(path: str, tag: str, **more: Any) -> list[int]:
        return [entry["step"] for entry in ask(f"plugin/{path}", run=ROOT, tag=tag, **more)]

    for kind in ("image", "figure", "video"):
        assert steps("images/images", kind, sample=0) == [0, 1]
    assert steps("audio/audio", "audio", sample=0) == [0, 1]
    assert [step for _, step, _ in ask("plugin/histograms/histograms", run=ROOT, tag="histogram")] == [0, 1]
    texts = ask("plugin/text/text", run=ROOT, tag="text/text_summary")
    assert [entry["step"] for entry in texts] == [0, 1]
    assert "<strong>bold</strong> ü" in texts[0]["text"]
    (table, _) = ask("plugin/text/text", run=ROOT, tag="table/text_summary")
    assert table["text"].count("<tr>") == 6
    assert "<th>x</th>" in table["text"]
    curves = ask("plugin/pr_curves/pr_curves", run=ROOT, tag="pr_curve")[ROOT]
    assert [entry["step"] for entry in curves] == [0, 1]
    meshes = ask("plugin/mesh/meshes", run=ROOT, tag="mesh", sample=0)
    assert {(entry["step"], entry["content_type"]) for entry in meshes} == {(0, 1), (0, 2), (1, 1), (1, 2)}
    assert ask("plugin/graphs/info")[ROOT]["run_graph"] is True
    assert ask("plugin/custom_scalars/layout")["category"][0]["title"] == "losses"


def test_embeddings(ask: Ask) -> None:
    assert ask("plugin/projector/runs") == [ROOT]
    shown = ask("plugin/projector/info", run=ROOT)["embeddings"]
    assert [(entry["tensorName"], entry["tensorShape"]) for entry in shown] == [
        ("embedding:00000", [5, 3]),
        ("embedding:00001", [5, 3]),
    ]


def test_hyperparameters(ask: Ask) -> None:
    every = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    asked = {"allowedStatuses": every, "colParams": [], "startIndex": 0, "sliceSize": 10}
    groups = {group["name"]: group for group in ask("plugin/hparams/session_groups", asked)["sessionGroups"]}
    assert groups[ROOT]["hparams"] == {"lr": 0.5, "name": "bfo", "deep": True, "bad": "nan"}
    assert groups["vision/a run-r-2"]["hparams"] == {"lr": 0.25, "more": 1.0}
    (session,) = groups[ROOT]["sessions"]
    assert (session["status"], session["startTimeSecs"], session["endTimeSecs"]) == ("STATUS_SUCCESS", T0, T0 + 60)
    values = {(v["name"]["group"], v["name"]["tag"]): v["value"] for v in groups[ROOT]["metricValues"]}
    assert values == {("", "loss"): 1.0, ("", "fit"): 1.0, ("train", "loss"): 8.0}
    known = {info["name"] for info in ask("plugin/hparams/experiment", {})["hparamInfos"]}
    assert known == {"lr", "name", "deep", "bad", "more"}


def test_a_running_server_reads_on(ask: Ask, folder: TensorBoardFolder, request: pytest.FixtureRequest) -> None:
    """Also where a crash cut off what the server had read: it is written again, to the byte."""
    which = request.node.callspec.params["ask"]
    courier = Courier(TensorBoardExporter, Run(which, "live", "vision", folder.uri, T0))
    courier.deliver(Metric("x", 0.0, 0, T0))

    def shown() -> list[int]:
        tags = ask("plugin/scalars/tags")
        if f"vision/live-{which}" not in tags:
            return []
        return [step for _, step, _ in ask("plugin/scalars/scalars", run=f"vision/live-{which}", tag="x")]

    until(lambda: shown() == [0], 60, "the first point")
    items = courier.items([Metric("x", float(step), step, T0) for step in range(1, 30)])
    courier.deliver_uncommitted(items)
    until(lambda: len(shown()) == 30, 60, "what was written before the crash")
    courier.restart()
    courier.deliver_items(items[:10])
    courier.deliver_items(items[10:])
    courier.deliver(Metric("x", 30.0, 30, T0))
    until(lambda: len(shown()) >= 31, 60, "the last point")
    assert shown() == list(range(31))
