"""A run as an offline session of ClearML: a folder, and at the run's end a zip, for `Task.import_offline_session`.

    <folder>/offline-<hex of the run's id>/task.json       the task's fields
                                           metrics.jsonl   a list of events in each line
                                           data/           files, under the keys that events and artifacts have
    <folder>/offline-<hex of the run's id>.zip             the same, once the run has ended

ClearML's own tasks are not used for it: `Task.create` refuses to be offline, being offline is a switch of the whole process,
and nothing says how much of `metrics.jsonl` is written. Here the run's state has its size, which is committed with the
cursor: what came behind that is cut off before more is written. So every event is there once, whoever is killed at whatever
moment.

The state of a run, as it is committed with the cursor: `size` is that of `metrics.jsonl` in bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tracelet.core.metrics import RunEnd, RunStatus
from tracelet_collector.exporters.base import Memory, Paused, Retryable, Rewind, Run
from tracelet_collector.exporters.clearml_events import Changes, Event, PlannedFile, as_request
from tracelet_collector.exporters.clearml_names import folder_name, project_name, task_name

__all__ = ["OFFLINE", "SessionTask", "session_id"]

OFFLINE: Final = "offline:"
_MOST: Final = 1000  # events of a line: an import sends a line as one request
_MAX_BYTES: Final = 2_000_000
_SLOWEST: Final = 4 * 1024 * 1024  # bytes in a second
_PATIENCE: Final = 60.0
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WORDS: Final[Mapping[RunStatus, str]] = {
    RunStatus.RUNNING: "in_progress",
    RunStatus.FINISHED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.KILLED: "stopped",
}


def session_id(run_id: str) -> str:
    """ClearML's id of a run's session: always the same, so the run is found again."""
    return f"offline-{hashlib.blake2b(run_id.encode(), digest_size=16, person=b'clearml').hexdigest()}"


class SessionTask:
    """A run's session; see `clearml_events.Task`.

    Args:
        run: its target is `offline:` and a folder.
        state: the run's.

    Raises:
        Rewind: the session is not as it was left.
        Paused, Retryable: it cannot be written.
    """

    def __init__(self, run: Run, state: Mapping[str, Any]) -> None:
        self.id = session_id(run.run_id)
        self.link = f"{run.target}#{self.id}"
        self._run = run
        self._root = Path(run.target.removeprefix(OFFLINE))
        if not self._root.is_absolute():
            raise Paused(f"{run.target} is relative to a folder that is not known here; use offline:/absolute/path")
        self._folder = self._root / self.id
        self._events = self._folder / "metrics.jsonl"
        self._ended = bool(state.get("ended"))
        self._changed = False
        with _translated(self._root):
            self._open(state.get("size"))
            self._task = self._read()

    def _open(self, size: int | None) -> None:
        """Go back to what was committed."""
        if size is None:
            shutil.rmtree(self._folder, ignore_errors=True)  # of an earlier delivery, or one that nobody knows of
            (self._folder / "data").mkdir(parents=True)
            self._events.touch()
            self._size = 0
            self._changed = True
            return
        found = self._events.stat().st_size if self._events.exists() else -1
        if found < size or not (self._folder / "task.json").exists():
            raise Rewind(f"the offline session {self._folder} was removed or cut: it is made anew")
        if found > size:
            os.truncate(self._events, size)
            self._changed = True
        self._size = size

    def _read(self) -> dict[str, Any]:
        try:
            read: dict[str, Any] = json.loads((self._folder / "task.json").read_bytes())
            return read
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise Rewind(f"the task.json of the offline session {self._folder} was changed: {error}") from error
        own = {"section": "tracelet", "name": "run_id", "value": self._run.run_id, "type": "str", "description": ""}
        return {
            "id": self.id,
            "name": task_name(self._run.name, self._run.run_id),
            "type": "training",
            "project_name": project_name(self._run.project),
            "offline_folder": str(self._folder),
            "offline_output_models": [],
            "output": {},
            "execution": {"artifacts": [], "parameters": {}},
            "hyperparams": {"tracelet": {"run_id": own}},
            "configuration": {},
            "tags": [],
            "comment": "",
            "status": _WORDS[RunStatus.RUNNING],
        }

    def edit(self, changes: Changes) -> None:
        """Change what is told of the task."""
        changes.parent = None  # a session does not know what its parent will be called
        if changed := changes.apply(self._task):
            self._task |= changed
            self._changed = True

    def send(self, events: list[Event]) -> dict[int, str]:
        """Write events."""
        lines = [as_request(event, self.id) for event in events]
        with _translated(self._root), self._events.open("ab") as file:
            for some in _batches(lines):
                self._size += file.write(f"[{', '.join(some)}]\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self._changed = True
        return {}

    def store(self, file: PlannedFile, memory: Memory) -> tuple[str, str]:
        """Copy a file to where an import looks for it."""
        memory.working(_PATIENCE + file.size / _SLOWEST)
        folder = f"{folder_name(self._task['project_name'])}/{folder_name(self._task['name'])}.{self.id}"
        key = f"{folder}/{file.path}"
        path = self._folder / "data" / key
        content = self._run.content(file.content)
        with _translated(self._root):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.new")
            if isinstance(content, bytes):
                draft.write_bytes(content)
            else:
                shutil.copyfile(content, draft)
            _publish(draft, path)
        self._changed = True
        return key, str(path)

    def register(self, artifacts: list[dict[str, Any]]) -> None:
        """Tell of artifacts."""
        execution = self._task["execution"]
        new = {artifact["key"]: artifact for artifact in [*execution["artifacts"], *artifacts]}
        execution["artifacts"] = list(new.values())
        self._changed = True

    def end(self, end: RunEnd) -> None:
        """Say how it ended: an import makes every task a completed one, so it is a param, too."""
        word = _WORDS[end.status]
        own = self._task["hyperparams"].setdefault("tracelet", {})
        for name, value in (("status", word), ("reason", end.reason)):
            own[name] = {"section": "tracelet", "name": name, "value": value, "type": "str", "description": ""}
        self._task |= {"status": word, "status_message": end.reason, "status_reason": end.reason}
        self._ended = end.status is not RunStatus.RUNNING
        self._changed = True

    def finish(self) -> dict[str, Any]:
        """Write the task, and the zip of a run that has ended."""
        if self._changed:
            with _translated(self._root):
                draft = self._folder / ".task.json.new"
                draft.write_text(json.dumps(self._task, sort_keys=True))
                _publish(draft, self._folder / "task.json")
                packed = self._root / f"{self.id}.zip"
                if self._ended:
                    draft = self._root / f".{self.id}.zip.new"
                    _pack(self._folder, draft)
                    _publish(draft, packed)
                else:
                    packed.unlink(missing_ok=True)
        return {"size": self._size}


def _batches(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    start = total = 0
    for at, line in enumerate(lines):
        if at > start and (at - start >= _MOST or total + len(line) > _MAX_BYTES):
            yield lines[start:at]
            start, total = at, 0
        total += len(line)
    if start < len(lines):
        yield lines[start:]


def _publish(draft: Path, path: Path) -> None:
    """Put a written file in its place, so that it is there whole, or not at all."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", compression=zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.endswith(".new"):
                packed.write(path, path.relative_to(folder).as_posix())


@contextlib.contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = f"offline sessions in {root} cannot be written: {error.strerror or error}"
        if error.errno in _NO_RIGHT or isinstance(error, FileExistsError | NotADirectoryError):
            raise Paused(f"{said}: {error.filename}. Make that a folder that this user can write") from error
        raise Retryable(said) from error
