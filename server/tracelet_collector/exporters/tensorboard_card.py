"""What is said of a run as a whole: `run.json`, and the event file that the page of hyperparameters reads.

Both are made of the run's state alone, and written anew when that changes. TensorBoard takes the first hyperparameters that it
meets in a folder for good, so these cannot be appended to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from tracelet.core.metrics import MetaValue
from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.tensorboard_events import first_event, framed

__all__ = ["CARD", "HPARAMS", "card", "hparams_events"]

CARD: Final = "run.json"
# Its name comes before that of the run's other event file: TensorBoard reads it first, and so when it is there only later too.
HPARAMS: Final = "events.out.tfevents.0000000000.hparams"
_STATUS: Final[Mapping[str, str]] = {
    "running": "STATUS_RUNNING",
    "finished": "STATUS_SUCCESS",
    "failed": "STATUS_FAILURE",
    "killed": "STATUS_FAILURE",
}


def card(run: Run, state: Mapping[str, Any]) -> bytes:
    """The content of `run.json`."""
    said = {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "created": _sayable(run.created),
        "status": state.get("status", "running"),
        "reason": state.get("reason", ""),
        "ended": state.get("ended"),
        "parent": run.parent,
        "group": run.group,
        "notes": run.notes,
        "tags": state.get("tags", {}),
        "params": state.get("params", {}),
        "labels": state.get("labels", {}),
        "dropped_points": state.get("dropped", 0),
    }
    return json.dumps(said, ensure_ascii=False, indent=2).encode() + b"\n"


def hparams_events(run: Run, state: Mapping[str, Any]) -> bytes | None:
    """The event file of hyperparameters; None: the run has none."""
    params: Mapping[str, MetaValue] = state.get("params", {})
    if not params:
        return None
    start = SessionStartInfo(start_time_secs=run.created if math.isfinite(run.created) else 0.0)
    for name, value in params.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str) or not _is_double(value):
            start.hparams[name].string_value = str(value)
        else:
            start.hparams[name].number_value = value
    parts = [(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))]
    status = state.get("status", "running")
    if status != "running":
        end = SessionEndInfo(status=Status.Value(_STATUS[status]))
        if isinstance(state.get("ended"), float):
            end.end_time_secs = state["ended"]
        parts.append((hparams.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)))
    return framed(first_event(run.created)) + b"".join(framed(_event(run, tag, said)) for tag, said in parts)


def _event(run: Run, tag: str, said: HParamsPluginData) -> Event:
    said.version = hparams.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(
        plugin_name=hparams.PLUGIN_NAME, content=said.SerializeToString(deterministic=True)
    )
    event = Event(wall_time=run.created)
    event.summary.value.add(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=hparams.NULL_TENSOR)
    return event


def _is_double(value: float) -> bool:
    """It can be said as a double; the page of hyperparameters fails over one that is not finite."""
    try:
        return math.isfinite(value) and float(value) == value
    except OverflowError:
        return False


def _sayable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
