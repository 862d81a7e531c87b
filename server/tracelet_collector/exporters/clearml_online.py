"""A run as a task of a ClearML server.

The state of a run, as it is committed with the cursor: `task` is the task's id.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tracelet.core.metrics import RunEnd, RunStatus
from tracelet_collector.exporters.base import Memory, Paused, Retryable, Rewind, Run
from tracelet_collector.exporters.clearml_events import Changes, Event, PlannedFile, as_request
from tracelet_collector.exporters.clearml_http import Api, Denied
from tracelet_collector.exporters.clearml_names import folder_name, project_name, task_name

__all__ = ["PARENT", "ServerTask", "files_host", "find", "open_task", "web_host"]

_MOST: Final = 1000  # events of a request
_MAX_BYTES: Final = 2_000_000
_SLOWEST: Final = 128 * 1024  # bytes in a second: less is no progress
_PATIENCE: Final = 60.0
_LOOK_EVERY: Final = 1800.0  # seconds between two looks at a task's status; a server gives a silent task up after 7200
_GIVEN_UP: Final = "Forced stop (non-responsive)"  # the server's own words
_RUN_ID: Final = "hyperparams.tracelet.run_id.value"
PARENT: Final = "hyperparams.tracelet.parent.value"
# ClearML's numbers of errors.
_NO_TASK: Final = frozenset({100, 101, 130, 10})
_NOT_ADDED: Final = 131
_WRONG_STATUS: Final = 110
_EXISTS: Final = 801
_INVALID_TASK: Final = "Invalid task id"
_NOT_INDEXED: Final = "failed to index"
_STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.RUNNING: "tasks.started",
    RunStatus.FINISHED: "tasks.completed",
    RunStatus.FAILED: "tasks.failed",
    RunStatus.KILLED: "tasks.stopped",
}
_FIELDS: Final = ["id", "name", "status", "status_reason", "project"]
_LONGEST_REASON: Final = 5000


def find(api: Api, run_id: str, what: str = _RUN_ID) -> list[dict[str, Any]]:
    """The tasks that have a run's id, of any project, the oldest first.

    Args:
        api: of the server.
        run_id: the run's.
        what: where they have it: as their own, or as their parent's.
    """
    query = {
        # The operator goes first: without one, a value that begins with a dash would mean all others.
        what: ["__$any", run_id],
        "only_fields": [*_FIELDS, what, "parent"],
        "order_by": ["created"],
    }
    found = api.call("tasks.get_all", query)["tasks"]
    section, name = what.split(".")[1:3]
    return [task for task in found if _nested(task, "hyperparams", section, name, "value") == run_id]


def open_task(api: Api, run: Run, state: Mapping[str, Any], looked: dict[str, float]) -> ServerTask:
    """The task of a run: the one that the state knows, the one that has its id, or a new one.

    Args:
        api: of the server.
        run: the run.
        state: the run's.
        looked: task to when its status was last looked at, by the monotonic clock.

    Raises:
        Rewind: the task that the state knows is not there any more.
        Paused: it takes nothing more.
    """
    known = state.get("task")
    if known and looked.get(known, -_LOOK_EVERY) + _LOOK_EVERY > time.monotonic():
        return ServerTask(api, run, known, state["link"])
    found = [_get(api, known)] if known else find(api, run.run_id)
    task = found[0] if found else _create(api, run)
    if task["status"] in ("publishing", "published"):
        raise Paused(_published(run, task["id"]))
    given_up = task["status"] == "stopped" and task.get("status_reason") == _GIVEN_UP
    if task["status"] in ("created", "queued") or (given_up and not state.get("ended")):
        api.call("tasks.started", {"task": task["id"], "force": True})
    looked[task["id"]] = time.monotonic()
    link = state.get("link") or f"{web_host(api.host)}/projects/{task.get('project') or '*'}/experiments/{task['id']}"
    return ServerTask(api, run, task["id"], link)


class ServerTask:
    """A run's task; see `clearml_events.Task`."""

    def __init__(self, api: Api, run: Run, id: str, link: str) -> None:
        self.id = id
        self.link = link
        self._api = api
        self._run = run

    def edit(self, changes: Changes) -> None:
        """Change what is told of the task."""
        changed = changes.apply(_get(self._api, self.id))
        if changed:
            self._call("tasks.edit", {"force": True, **changed})

    def send(self, events: list[Event]) -> dict[int, str]:
        """Send events."""
        refused: dict[int, str] = {}
        waiting = list(_batches([(event, as_request(event, self.id)) for event in events]))[::-1]
        taken = False
        doubt: Retryable | None = None
        while waiting:
            some = waiting.pop()
            error = self._add([line for _, line in some])
            if error is None:
                taken = True
            elif len(some) > 1:
                half = len(some) // 2
                waiting += [some[half:], some[:half]]
            else:
                refused[id(some[0][0])] = str(error)
                doubt = doubt or (error if isinstance(error, Retryable) else None)
        if refused and not taken:  # it takes none: that is the server's state, not these events'
            if doubt is not None:
                raise doubt
            if len(refused) > 1:
                raise Paused(f"ClearML at {self._api.host} takes no events: {next(iter(refused.values()))}")
        return refused

    def store(self, file: PlannedFile, memory: Memory) -> tuple[str, str]:
        """Store a file."""
        host = files_host(self._api.host)
        folder = f"{folder_name(self._run.project)}/{folder_name(self._run.name)}.{self.id}"
        key = f"{folder}/{file.path}"
        memory.working(_PATIENCE + file.size / _SLOWEST)
        content = self._run.content(file.content)
        if host.startswith(("http://", "https://")):
            self._api.upload(host, key, content, file.media_type)
        else:
            _upload_elsewhere(host, key, content)
        return key, f"{host}/{key}"

    def register(self, artifacts: list[dict[str, Any]]) -> None:
        """Tell of artifacts."""
        try:
            self._call("tasks.add_or_update_artifacts", {"artifacts": artifacts})
        except Denied as error:
            if error.subcode != _WRONG_STATUS:
                raise
            # The task has ended; ClearML lets its fields be edited all the same.
            kept = _nested(_get(self._api, self.id), "execution", "artifacts") or []
            new = {artifact["key"]: artifact for artifact in [*kept, *artifacts]}
            self._call("tasks.edit", {"force": True, "execution": {"artifacts": list(new.values())}})

    def end(self, end: RunEnd) -> None:
        """Set the status."""
        reason = end.reason[:_LONGEST_REASON]
        body = {"force": True, "status_message": reason, "status_reason": reason}
        self._call(_STATUS[end.status], body)
        if end.status is not RunStatus.RUNNING:
            self._remove_strays()

    def _remove_strays(self) -> None:
        """Delete tasks of this run that nobody began: a worker was killed while it made one, and its successor made another.

        The server may do what the killed one asked for after its successor has looked.
        """
        for task in find(self._api, self._run.run_id):
            if task["id"] != self.id and task["status"] == "created":
                self._api.call("tasks.delete", {"task": task["id"], "force": True})

    def finish(self) -> dict[str, Any]:
        """Nothing to do: the server has it."""
        return {"task": self.id}

    def _call(self, action: str, body: Mapping[str, Any]) -> None:
        try:
            self._api.call(action, {"task": self.id, **body})
        except Denied as error:
            if error.subcode in _NO_TASK:
                self._check()
            raise

    def _add(self, lines: Sequence[str]) -> Exception | None:
        """Send events in one request.

        Returns:
            None when all are stored, else why some are not.
        """
        try:
            data = self._api.call_lines("events.add_batch", lines)
        except Denied as error:
            if error.subcode == _NOT_ADDED or _INVALID_TASK in str(error):
                self._check()
            return error
        except Retryable as error:
            if _NOT_INDEXED in str(error):
                return error
            raise
        if not data.get("errors"):
            return None
        told = str(data.get("errors_info") or "events were not added")
        if _INVALID_TASK in told:
            self._check()
        return Denied(400, _NOT_ADDED, told)

    def _check(self) -> None:
        """Why does the server know nothing of the task?

        Raises:
            Rewind: it is deleted.
            Paused: it is published.
        """
        if _get(self._api, self.id)["status"] in ("publishing", "published"):
            raise Paused(_published(self._run, self.id))


def _get(api: Api, task: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = api.call("tasks.get_by_id", {"task": task})["task"]
    except Denied as error:
        if error.subcode in _NO_TASK:
            raise Rewind(f"the ClearML task {task} is deleted: the run is made anew") from error
        raise
    return found


def _create(api: Api, run: Run) -> dict[str, Any]:
    own = {"section": "tracelet", "name": "run_id", "value": run.run_id, "type": "str"}
    name = task_name(run.name, run.run_id)
    body = {
        "name": name,
        "type": "training",
        "project": _project(api, project_name(run.project)),
        "system_tags": ["development"],  # as ClearML's own: nothing that an agent runs
        "hyperparams": {"tracelet": {"run_id": own}},
    }
    made = api.call("tasks.create", body, again=False)
    return {"id": made["id"], "status": "created", "project": body["project"]}


def _project(api: Api, name: str) -> str:
    query = {"name": f"^{re.escape(name)}$", "only_fields": ["id", "name"]}
    for _ in range(2):
        for project in api.call("projects.get_all", query)["projects"]:
            if project["name"] == name:
                return str(project["id"])
        try:
            return str(api.call("projects.create", {"name": name, "description": ""}, again=False)["id"])
        except Denied as error:
            if error.subcode != _EXISTS:  # somebody else was faster
                raise
    raise Retryable(f"the ClearML project {name!r} cannot be found, though it exists")


def _published(run: Run, task: str) -> str:
    return (
        f"the ClearML task {task} of {run.name!r} is published: it takes nothing more. Clone it there, or reset it; what "
        "came late stays in tracelet's log"
    )


def _batches(entries: Sequence[tuple[Event, str]]) -> Iterator[Sequence[tuple[Event, str]]]:
    start = total = 0
    for at, (_, line) in enumerate(entries):
        if at > start and (at - start >= _MOST or total + len(line) > _MAX_BYTES):
            yield entries[start:at]
            start, total = at, 0
        total += len(line)
    if start < len(entries):
        yield entries[start:]


def _upload_elsewhere(host: str, key: str, content: bytes | Path) -> None:
    """To a bucket or a folder that the files host names: with ClearML's own storage, which has the ways and the keys."""
    import tempfile

    from clearml.storage.helper import StorageHelper

    with tempfile.NamedTemporaryFile(prefix="tracelet-") as scratch:
        if isinstance(content, bytes):
            scratch.write(content)
            scratch.flush()
        source = scratch.name if isinstance(content, bytes) else str(content)
        try:
            get: Any = StorageHelper.get  # untyped
            storage = get(host)
            done = storage is not None and storage.upload(source, f"{host}/{key}", retries=1)
        except Exception as error:  # whatever the storage's package raises
            raise Retryable(f"{host}: {type(error).__name__}: {error}".partition("\n")[0]) from error
    if not done:
        raise Paused(f"ClearML cannot store files at {host}: check CLEARML_FILES_HOST, its keys, and its package")


def files_host(host: str) -> str:
    """The address of the store of files that belongs to an API server."""
    return _beside(host, "CLEARML_FILES_HOST", "files", 8081)


def web_host(host: str) -> str:
    """The address of the pages that belong to an API server."""
    return _beside(host, "CLEARML_WEB_HOST", "app", 8080)


def _beside(host: str, variable: str, word: str, port: int) -> str:
    """The address of another server of the same installation, as ClearML itself finds it."""
    said = os.environ.get(variable, "").strip().rstrip("/")
    if said:
        return said
    parts = urlsplit(host)
    name, _, number = parts.netloc.partition(":")
    if name.startswith(("api.", "demoapi.")):
        own, _, rest = name.partition(".")
        return parts._replace(netloc=f"{own.replace('api', word)}.{rest}{':' + number if number else ''}").geturl()
    return parts._replace(netloc=f"{name}:{port}").geturl()


def _nested(task: Mapping[str, Any], *names: str) -> Any:
    found: Any = task
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
