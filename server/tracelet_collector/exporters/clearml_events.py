"""What goes to ClearML, before it has a task: events, files and what is changed of the task itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tracelet.core.metrics import BlobRef, RunEnd
from tracelet_collector.exporters.base import Item, Memory

__all__ = [
    "IMAGE",
    "PLOT",
    "SCALAR",
    "Changes",
    "Event",
    "Job",
    "PlannedFile",
    "Refused",
    "Task",
    "as_artifact",
    "as_request",
]

SCALAR: Final = "training_stats_scalar"
PLOT: Final = "plot"
IMAGE: Final = "training_debug_image"


class Refused(Exception):
    """ClearML does not want this one, and never will."""


@dataclass(slots=True, eq=False)
class Event:
    """An event on its way.

    Attributes:
        item: the record, for the account; None: it belongs to no point.
        type: of ClearML's.
        title, series: ClearML's metric and variant.
        step: ClearML's iteration.
        time: milliseconds since the epoch.
        body: what else there is: `value`, `plot_str`, or `key` and `url`.
        rerouted: it is not the point as it is.
    """

    item: Item | None
    type: str
    title: str
    series: str
    step: int
    time: int
    body: Mapping[str, Any]
    rerouted: bool = False


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file on its way.

    Attributes:
        content: the bytes, or where they are.
        path: below the task's folder in the store of files.
        media_type: what it is.
    """

    content: bytes | BlobRef
    path: str
    media_type: str

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size


@dataclass(slots=True, eq=False)
class Job:
    """A media record or an artifact: a file to be stored, and what is told of it.

    Attributes:
        item: the record, for the account; None: it belongs to no point.
        file: to be stored; None: the event says it all.
        event: to be sent once the file is there.
        drawn: makes the event's plot of the file's address; None: the event is of the file itself.
        artifact: the key of the artifact that the file is; empty: it is none.
        time: of the artifact, in seconds since the epoch.
        rerouted: it is not the record as it is.
    """

    item: Item | None
    file: PlannedFile | None = None
    event: Event | None = None
    drawn: Callable[[str], Mapping[str, Any]] | None = None
    artifact: str = ""
    time: int = 0
    rerouted: bool = False


@dataclass(slots=True)
class Changes:
    """What is to be changed of a task.

    Attributes:
        params: section and name to value and type.
        tags: to be there.
        dropped_tags: to be there no more.
        configuration: name to JSON text.
        comment: the task's description; None: as it is.
        parent: ClearML's id of the parent; None: as it is.
    """

    params: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    dropped_tags: list[str] = field(default_factory=list)
    configuration: dict[str, str] = field(default_factory=dict)
    comment: str | None = None
    parent: str | None = None

    def apply(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a task that they change, as they are to be.

        Args:
            task: the task's fields as ClearML has them.
        """
        changed: dict[str, Any] = {}
        if self.params:
            sections = {name: dict(section) for name, section in (task.get("hyperparams") or {}).items()}
            for (section, name), (value, kind) in self.params.items():
                params = sections.setdefault(section, {})
                said = {"section": section, "name": name, "value": value, "type": kind}
                params[name] = {**params.get(name, {}), **said}
            changed["hyperparams"] = sections
        if self.configuration:
            kept = dict(task.get("configuration") or {})
            for name, text in self.configuration.items():
                kept[name] = {**kept.get(name, {}), "name": name, "value": text, "type": "json"}
            changed["configuration"] = kept
        if self.tags or self.dropped_tags:
            dropped = {tag for tag in self.dropped_tags if tag not in self.tags}
            tags = [tag for tag in task.get("tags") or [] if tag not in dropped]
            changed["tags"] = sorted({*tags, *self.tags})  # as ClearML's server has them
        if self.comment is not None:
            changed["comment"] = self.comment
        if self.parent is not None:
            changed["parent"] = self.parent
        return {name: value for name, value in changed.items() if task.get(name) != value}


class Task(Protocol):
    """A run in ClearML: a task of a server, or the folder of an offline session.

    What its methods did may be done again: they come to the same.

    Attributes:
        id: ClearML's.
        link: where it is, for people.
    """

    id: str
    link: str

    def edit(self, changes: Changes) -> None:
        """Change what is told of the task."""

    def send(self, events: list[Event]) -> dict[int, str]:
        """Send events.

        Returns:
            By `id` of the event: what ClearML does not want, and why.
        """

    def store(self, file: PlannedFile, memory: Memory) -> tuple[str, str]:
        """Store a file.

        Returns:
            The key and the address that events have.

        Raises:
            Refused: this file cannot be stored.
        """

    def register(self, artifacts: list[dict[str, Any]]) -> None:
        """Tell of artifacts whose files are stored; one of a key that is there takes its place."""

    def end(self, end: RunEnd) -> None:
        """Set the status."""

    def finish(self) -> dict[str, Any]:
        """Make sure that all of it stays.

        Returns:
            What the run's state has of this task from now on.
        """


def as_request(event: Event, task: str) -> str:
    """An event as a line of `events.add_batch`."""
    said = {
        "type": event.type,
        "task": task,
        "metric": event.title,
        "variant": event.series,
        "iter": event.step,
        "timestamp": event.time,
        **event.body,
    }
    return json.dumps(said, allow_nan=False)


def as_artifact(key: str, uri: str, file: PlannedFile, at: int) -> dict[str, Any]:
    """A stored file as one of a task's artifacts.

    Args:
        key: its name there.
        uri: where it is stored.
        file: the file.
        at: seconds since the epoch.
    """
    hashed = hashlib.sha256(file.content).hexdigest() if isinstance(file.content, bytes) else file.content.sha256
    name = key.rpartition("/")[2] or key
    told = {"preview": f"{name} - {file.size} bytes\n"} | ({"content_type": file.media_type} if file.media_type else {})
    return {
        "key": key,
        "type": "custom",
        "mode": "output",
        "uri": uri,
        "hash": hashed,
        "content_size": file.size,
        "timestamp": at,
        "type_data": told,
    }
