"""ClearML, as offline sessions and as a server: a stand-in that overwrites what clearml-server overwrites."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.clearml import ClearmlExporter

from tests.contract.tracker import Arrived, Shown, Tracker
from tests.support.clearml_offline import sessions
from tests.support.clearml_server import ACCESS, SECRET, ClearmlServer
from tracelet.core.metrics import Metric, RunStatus

__all__ = ["VARIANTS"]

_MOST = 3.4028234663852886e38  # of 32 bits
_LAST_TIME = 253_402_300_799.999  # the end of the year 9999
_OWN_ROWS = "tracelet/metadata/"

Tasks = Callable[[], list[tuple[dict[str, Any], list[dict[str, Any]]]]]
Files = Callable[[str], bytes]


def _key(title: str, series: str) -> str:
    return title if title == series else f"{title}/{series}"


def _shown(metric: Metric) -> Shown:
    title, slash, series = metric.name.partition("/")
    key = (title, series) if slash else (title, title)
    if abs(metric.value) <= _MOST:
        return Shown(_key(*key), metric.value)
    if math.isfinite(metric.value):
        return Shown(_key(*key), math.copysign(_MOST, metric.value), rerouted=True)
    code = 0.0 if math.isnan(metric.value) else math.copysign(1.0, metric.value)
    return Shown(f"{metric.name}.nonfinite", code, rerouted=True)


def _again(key: str, nth: int) -> str:
    if nth == 1:
        return key
    return f"{key} #{nth}" if "/" in key else f"{key}/{key} #{nth}"


def _tracker(target: str, folder: Path, tasks: Tasks, file: Files, close: Callable[[], None]) -> Tracker:
    def arrived() -> list[Arrived]:
        return [
            Arrived(_key(event["metric"], event["variant"]), event["value"], event["iter"], event["timestamp"] / 1000)
            for _, events in tasks()
            for event in events
            if event["type"] == "training_stats_scalar" and ".meta" not in f"{event['metric']}/{event['variant']}"
        ]

    def files() -> list[bytes]:
        found: list[bytes] = []
        for task, events in tasks():
            for event in events:
                if event["type"] == "training_debug_image":
                    found.append(file(event["url"]))
                elif event["type"] == "plot":
                    layout = json.loads(event["plot_str"])["layout"]
                    found += [file(image["source"]) for image in layout.get("images", [])]
                    found += [layout["meta"].encode()] if "meta" in layout else []
            for artifact in task["execution"]["artifacts"] if "execution" in task else []:
                if not artifact["key"].startswith(_OWN_ROWS):
                    found.append(file(artifact["uri"]))
        return sorted(found)

    def params() -> dict[str, str]:
        ((task, _),) = tasks()
        sections = task["hyperparams"].items()
        said = {(section, name): item["value"] for section, items in sections for name, item in items.items()}
        return {name if section == "General" else f"{section}/{name}": value for (section, name), value in said.items()}

    def tags() -> dict[str, str]:
        ((task, _),) = tasks()
        return {name: value for name, _, value in (tag.rpartition(":") for tag in task["tags"])}

    return Tracker(
        make=ClearmlExporter,
        run=Run("r-1", "a run", "a project", target, 1_700_000_000.25, blobs=str(folder / "blobs")),
        arrived=arrived,
        runs=lambda: [task["status"] for task, _ in tasks()],
        files=files,
        params=params,
        tags=tags,
        words={
            RunStatus.RUNNING: "in_progress",
            RunStatus.FINISHED: "completed",
            RunStatus.FAILED: "failed",
            RunStatus.KILLED: "stopped",
        },
        shown=_shown,
        again=_again,
        again_is_rerouted=True,
        time_precision=0.0011,
        time_is_kept=lambda wall_time: 0 <= wall_time <= _LAST_TIME,
        close=close,
    )


def _offline(folder: Path) -> Tracker:
    root = folder / "sessions"
    return _tracker(
        f"offline:{root}",
        folder,
        lambda: [(session.task(), session.events()) for session in sessions(root)],
        lambda url: Path(url).read_bytes(),
        lambda: None,
    )


def _server(folder: Path) -> Tracker:
    server = ClearmlServer()
    said = {
        "CLEARML_API_ACCESS_KEY": ACCESS,
        "CLEARML_API_SECRET_KEY": SECRET,
        "CLEARML_FILES_HOST": server.files_url,
        "CLEARML_WEB_HOST": server.url,
    }
    before = {name: os.environ.get(name) for name in said}
    os.environ |= said

    def close() -> None:
        server.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        assert not server.problems

    def tasks() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        events = list(server.events.values())
        return [(task, [e for e in events if e["task"] == task["id"]]) for task in server.tasks.values()]

    def file(url: str) -> bytes:
        return server.files[url.removeprefix(f"{server.files_url}/")]

    return _tracker(server.url, folder, tasks, file, close)


VARIANTS: Mapping[str, Callable[[Path], Tracker]] = {"clearml-offline": _offline, "clearml-server": _server}
