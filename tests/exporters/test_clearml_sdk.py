"""ClearML's own SDK and what we make: it takes our requests for its own, reads our tasks, imports our sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracelet_collector.exporters import clearml_plots as plots
from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.clearml import ClearmlExporter

from tests.contract.samples import KINDS, sample
from tests.support.clearml_offline import Session, sessions
from tests.support.clearml_server import ClearmlServer, environment
from tests.support.exporting import Courier
from tracelet.core import contents, tables
from tracelet.core.metrics import Artifact, Media, Metric, Params, Record, RunEnd, RunStatus, Tags

pytestmark = pytest.mark.filterwarnings("ignore")  # of clearml's own code

T0 = 1_700_000_000.0


def everything() -> list[Record]:
    records: list[Record] = [
        Params({"lr": 0.1, "opt/n": 3}, T0),
        Tags({"stage": "one"}, T0),
        *[
            Metric("train/loss", 1 / (step + 1), step, T0 + step, tag="train/loss", metadata={"n": step})
            for step in range(30)
        ],
        *[Metric("twice", float(n), 1, T0, tag="twice") for n in range(2)],
        Artifact("a/b.txt", b"an artifact", "text/plain", T0),
    ]
    for kind in KINDS:
        made = sample(kind, 1)
        records.append(Media(f"{kind}/x", kind, made.data, made.media_type, 3, T0, made.metadata, tag=f"{kind}/x"))
    return [*records, RunEnd(RunStatus.FINISHED, "", T0 + 99)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClearmlServer]:
    server = ClearmlServer()
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()
    assert not server.problems


def sdk(code: str, folder: Path, server: ClearmlServer | None = None, **variables: str) -> Any:
    """Run code in a process of its own, which the SDK has all for itself; what it leaves in `said`."""
    environment_ = {name: value for name, value in os.environ.items() if not name.startswith("CLEARML_")}
    environment_ |= environment(server) if server is not None else {}
    environment_ |= {"CLEARML_CACHE_DIR": str(folder / "cache"), "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1", **variables}
    script = folder / "sdk.py"
    script.write_text(f"{code}\nimport json, os\njson.dump(said, open('said.json', 'w'))\nos._exit(0)\n")
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment_, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads((folder / "said.json").read_text())


@pytest.mark.timeout(600)
def test_the_sdk_would_send_the_same_requests(server: ClearmlServer, tmp_path: Path) -> None:
    """Each of ours is one of the schema of its version, with nothing that it does not know."""
    from clearml.backend_api.services.v2_13 import events, projects, tasks

    services = {"tasks": tasks, "projects": projects, "events": events}
    seen: set[str] = set()

    def check(action: str, body: Any) -> None:
        seen.add(action)
        service, _, verb = action.partition(".")
        if action == "events.add_batch":
            kinds = {
                "training_stats_scalar": events.MetricsScalarEvent,
                "plot": events.MetricsPlotEvent,
                "training_debug_image": events.MetricsImageEvent,
            }
            for event in body:
                made = kinds[event["type"]](**{name: value for name, value in event.items() if name != "type"})
                made.validate()
                assert made.to_dict() == event
            return
        name = "".join(word.capitalize() for word in verb.split("_")) + "Request"
        request = getattr(services[service], name)(
            **{n: v for n, v in body.items() if not n.startswith("hyperparams.")}
        )
        request.validate()
        if verb in ("create", "edit", "add_or_update_artifacts"):
            unknown = set(body) - set(request.to_dict())
            assert not unknown, f"{action}: {unknown}"

    server.check = check
    run = Run("r-1", "a run", "proj/sub", server.url, T0, notes="n", group="g", blobs=str(tmp_path / "blobs"))
    courier = Courier(ClearmlExporter, run)
    courier.deliver(*everything())
    courier.deliver(Artifact("late", b"", "", T0))
    courier.exporter.close()
    assert not courier.dead
    assert seen >= {"tasks.create", "tasks.edit", "tasks.started", "tasks.completed", "tasks.add_or_update_artifacts"}


READ = """
from clearml import Task
task = Task.get_task(task_id={task!r})
said = {{
    "name": task.name, "project": task.get_project_name(), "status": task.get_status(), "tags": sorted(task.get_tags()),
    "params": task.get_parameters(), "comment": task.comment,
    "artifacts": {{key: artifact.hash for key, artifact in task.artifacts.items()}},
    "content": open(task.artifacts["a/b.txt"].get_local_copy()).read(),
    "configuration": task.get_configuration_object("tracelet.metrics"),
}}
"""


@pytest.mark.timeout(600)
def test_the_sdk_reads_our_task(server: ClearmlServer, tmp_path: Path) -> None:
    run = Run("r-1", "a run", "proj/sub", server.url, T0, notes="# n", blobs=str(tmp_path / "blobs"))
    courier = Courier(ClearmlExporter, run)
    courier.deliver(*everything())
    courier.exporter.close()
    said = sdk(READ.format(task=server.task()["id"]), tmp_path, server)
    assert (said["name"], said["project"], said["status"]) == ("a run", "proj/sub", "completed")
    assert said["params"] == {"General/lr": "0.1", "opt/n": "3", "tracelet/run_id": "r-1"}
    assert (said["tags"], said["comment"]) == (["stage:one"], "# n")
    assert "tracelet/graph/graph/x/step_3.pbtxt" in said["artifacts"]
    assert said["content"] == "an artifact"
    assert json.loads(said["configuration"])["train/loss"]["type"] == "scalar"


IMPORT = """
from clearml import Task
said = Task.import_offline_session({path!r})
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_the_sdk_imports_our_session(server: ClearmlServer, tmp_path: Path, form: str) -> None:
    run = Run(
        "r-1", "a run", "proj/sub", f"offline:{tmp_path}/sessions", T0, notes="# n", blobs=str(tmp_path / "blobs")
    )
    courier = Courier(ClearmlExporter, run)
    courier.deliver(*everything())
    (session,) = sessions(tmp_path / "sessions")
    expected = session.scalars()
    path = session.zip if form == "zip" else session.folder
    if form == "zip":  # the zip is all it takes
        session.folder.rename(tmp_path / "away")
    id = sdk(IMPORT.format(path=str(path)), tmp_path, server)
    check_imported(server, id, expected)


def check_imported(server: ClearmlServer, id: str, expected: Counter[tuple[str, float, int]]) -> None:
    task = server.tasks[id]
    assert (task["name"], server.projects[task["project"]]["name"]) == ("a run", "proj/sub")
    assert (task["status"], task["comment"]) == ("completed", "# n")
    assert task["hyperparams"]["tracelet"]["status"]["value"] == "completed"
    assert task["hyperparams"]["General"]["lr"]["value"] == "0.1"
    assert task["tags"] == ["stage:one"]
    assert server.scalars(id) == expected
    times = {event["iter"]: event["timestamp"] for event in server.of() if event["variant"] == "loss"}
    assert times == {step: round((T0 + step) * 1000) for step in range(30)}
    urls = [event["url"] for event in server.of("training_debug_image")]
    urls += [artifact["uri"] for artifact in task["execution"]["artifacts"]]
    for event in server.of("plot"):
        urls += [image["source"] for image in json.loads(event["plot_str"])["layout"].get("images", [])]
    kept = [server.files[url.removeprefix(f"{server.files_url}/")] for url in urls]
    for kind in (
        "image",
        "figure",
        "text",
        "audio",
        "video",
        "mesh",
        "embedding",
        "graph",
        "layout",
        "of a later version",
    ):
        assert sample(kind, 1).data in kept, kind
    assert b"an artifact" in kept
    assert {event["metric"] for event in server.of("plot")} == {"figure", "histogram", "mesh", "pr_curve", "table"}


THEIRS = """
from clearml import Task
task = Task._create(project_name="proj/sub", task_name="a run")
logger = task.get_logger()
for step in range(30):
    logger.report_scalar("train", "loss", 1 / (step + 1), step)
task.set_parameters({"General/lr": 0.1, "opt/n": 3})
task.add_tags(["stage:one"])
task.set_comment("# n")
open("b.txt", "w").write("an artifact")
task.upload_artifact("a/b.txt", "b.txt", wait_on_upload=True)
open("x.md", "w").write("text")
logger.report_media("text", "x", iteration=3, local_path="x.md")
task.flush(wait_for_uploads=True)
task.close()
said = str(task.get_offline_mode_folder())
"""


@pytest.mark.timeout(600)
def test_our_session_is_of_the_form_of_theirs(tmp_path: Path) -> None:
    """A version of clearml that writes something else is seen here."""
    theirs = Session(Path(sdk(THEIRS, tmp_path, CLEARML_OFFLINE_MODE="1")))
    run = Run(
        "r-1", "a run", "proj/sub", f"offline:{tmp_path}/sessions", T0, notes="# n", blobs=str(tmp_path / "blobs")
    )
    courier = Courier(ClearmlExporter, run)
    courier.deliver(
        *[record for record in everything() if not isinstance(record, Media | Metric) or record.name == "text/x"],
        *[Metric("train/loss", 1 / (step + 1), step, T0, tag="train/loss") for step in range(30)],
    )
    (ours,) = sessions(tmp_path / "sessions")
    assert set(theirs.task()) <= set(ours.task())
    for name in ("project_name", "tags", "comment", "name", "type"):
        assert theirs.task()[name] == ours.task()[name], name
    for section in ("General", "opt"):
        assert without(theirs.task()["hyperparams"][section], "description") == ours.task()["hyperparams"][section]
    assert set(theirs.task()["execution"]["artifacts"][0]) == set(ours.task()["execution"]["artifacts"][0])
    for type in ("training_stats_scalar", "training_debug_image"):
        assert set(theirs.events(type)[0]) - {"method"} == set(ours.events(type)[0])
    assert theirs.scalars() == ours.scalars()
    for session in (theirs, ours):
        (event,) = session.events("training_debug_image")
        assert (session.folder / "data" / event["key"]) == Path(event["url"])
        assert f".{session.task()['id']}/" in event["key"]
        assert session.zip.exists() or session is ours


def without(params: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: {word: said for word, said in param.items() if word != name} for key, param in params.items()}


class TestPlots:
    def test_a_histogram(self) -> None:
        from clearml.utilities.plotly_reporter import create_2d_histogram_plot

        content = contents.histogram(np.arange(100.0), 10).data
        said = json.loads(content)
        ours = plots.histogram(content, "t", "s")
        labels = [f"{min(limit, said['max']):.6g}" for limit in said["bucket_limit"]]
        theirs = create_2d_histogram_plot(np.array(said["bucket"]), None, title="t", series="s", xlabels=labels)
        assert ours["layout"].pop("meta") == content.decode()
        assert ours == theirs

    def test_a_curve(self) -> None:
        from clearml.utilities.plotly_reporter import create_2d_scatter_series

        content = sample("pr_curve", 1).data
        said = json.loads(content)
        ours = plots.pr_curve(content, "t", "s")
        pairs = np.array([said["recall"], said["precision"]]).T
        theirs = create_2d_scatter_series(pairs, title="t", series_name="s", xtitle="recall", ytitle="precision")
        assert ours["layout"].pop("meta") == content.decode()
        assert ours == theirs

    def test_a_table(self) -> None:
        import pandas
        from clearml.utilities.plotly_reporter import create_plotly_table

        frame = pandas.DataFrame({"word": ["a", "b", "c"], "n": [1, 2, 3], "x": [0.5, None, -1.0]})
        content = tables.table(frame, None, "t").data
        ours = plots.table(content, "t", "s")
        theirs = create_plotly_table([["word", "n", "x"], ["a", 1, 0.5], ["b", 2, None], ["c", 3, -1.0]], "t", "s")
        assert ours["layout"].pop("meta") == content.decode()
        assert ours == theirs

    def test_a_mesh(self) -> None:
        from clearml.utilities.plotly_reporter import create_3d_scatter_series, plotly_scatter3d_layout_dict

        points = np.arange(12.0).reshape(4, 3)
        layout = plotly_scatter3d_layout_dict("t", None, None, None)
        theirs = create_3d_scatter_series(points, series_name=None, mode="markers", plotly_obj=layout)
        ours = plots.mesh(contents.mesh(points[None], None, None, None).data, "t")
        for plot in (ours, theirs):
            plot["data"][0]["marker"]["line"].pop("color")  # theirs is none that a browser knows
        assert ours == theirs

    def test_a_figure(self) -> None:
        from clearml.utilities.plotly_reporter import create_image_plot

        theirs = create_image_plot(image_src="http://x/y.png", title="t/s", width=640, height=320)
        assert plots.figure("http://x/y.png", "t", "s", 200, 100) == theirs
