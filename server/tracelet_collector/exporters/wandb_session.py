"""A run that is open in wandb: begun, given rows, waited for and ended, each within a deadline.

wandb hands everything to a process of its own, wandb-core. When that is gone, or does not answer, this process is of no further
use: `CoreLost`. Rows that wandb-core had and W&B did not get come again, as the rule in `wandb` says.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import glob
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import wandb
from wandb.errors import CommError, UsageError

from tracelet_collector.exporters.base import Memory, Retryable, Run
from tracelet_collector.exporters.wandb_folder import Audit, Folder, Place, secure
from tracelet_collector.exporters.wandb_media import RunFile
from tracelet_collector.exporters.wandb_rows import STEP, Position, run_tags
from tracelet_collector.exporters.wandb_server import Server, Target, judged

__all__ = ["CoreLost", "Offline", "Online", "Session"]

WINDOW: Final = 10_000  # rows that W&B may be behind
_INIT: Final = 60.0
_GRACE: Final = 30.0
_ANSWER: Final = 60.0
_FINISH: Final = 120.0
_POLL: Final = 1.0
_STALLED: Final = 60.0
_DEAD: Final = 600.0  # wandb-core gave up without a word
_FLUSH: Final = 0.25
_UNFLUSHED: Final = 60.0  # wandb-core flushes its file every `_FLUSH`
_CLOSED: Final = 30.0
_LOOK_EVERY: Final = 5.0
_ROOM: Final = 4 * 1024 * 1024
_EXIT_CODES: Final = {"finished": 0, "failed": 1, "killed": 255}
_SETTINGS: Final[dict[str, Any]] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "disable_job_creation": True,
    "label_disable": True,
    "symlink": False,
    "program": "tracelet",  # what the run's page calls its command; else it would name the worker
    "init_timeout": _INIT,
    "login_timeout": 10,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_viewer": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_file_stream_transmit_interval": 2.0,
    "x_transaction_log_flush_interval": _FLUSH,
}
_LOST: Final = ("MailboxClosedError", "HandleAbandonedError", "WandbServiceConnectionError", "ServicePollForTokenError")
T = TypeVar("T")


class CoreLost(Exception):
    """wandb's own process is gone, or gives no answer."""


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """Call something of wandb's that may never return.

    Raises:
        CoreLost: it did not, or wandb-core is gone.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="tracelet-wandb", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        error = failed[0]
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in _LOST:
            raise CoreLost(f"wandb-core is gone ({type(error).__name__}: {error})") from error
        raise error
    if not done:
        raise CoreLost(f"wandb gave no answer within {seconds:g} s: {what}")
    return done[0]


class Session(abc.ABC):
    """A run that is open in wandb.

    Attributes:
        base: rows that W&B had before: they are not handed over.
        handed: rows that wandb has, with those.
        position: the place in the log of the last record that it has.
        used: monotonic time of its last use.
    """

    def __init__(self, opened: Any, base: int) -> None:
        self.base = base
        self.handed = base
        self.position: Position | None = None
        self.used = time.monotonic()
        self._wandb = opened

    @property
    @abc.abstractmethod
    def link(self) -> str:
        """Where the run is, for people."""

    @property
    def lost(self) -> str:
        """Why what it wrote is not there any more; empty when it is."""
        return ""

    def log(self, rows: Sequence[dict[str, Any]]) -> None:
        """Hand rows over."""

        def push() -> None:
            for row in rows:
                self._wandb.log(row)
            self._barrier()

        within(_ANSWER + len(rows) / 50, "logging", push)

    def tell(self, config: dict[str, Any], tags: dict[str, str] | None) -> None:
        """Set config and tags."""

        def push() -> None:
            if config:
                self._wandb.config.update(config, allow_val_change=True)
            if tags is not None:
                self._wandb.tags = run_tags(tags)

        if config or tags is not None:
            within(_ANSWER, "setting the config", push)

    def save(self, files: Sequence[RunFile]) -> None:
        """Put files among the run's."""

        def push() -> None:
            folder = Path(self._wandb.dir)
            for file in files:
                at = file.put(folder)
                self._wandb._interface.publish_files({"files": [(glob.escape(str(at.relative_to(folder))), "now")]})

        if files:
            within(_ANSWER + len(files), "saving files", push)

    @abc.abstractmethod
    def check(self, memory: Memory) -> None:
        """Wait until what was handed over is where it belongs, or near it."""

    @abc.abstractmethod
    def finish(self, end: str, memory: Memory) -> None:
        """End the run, when all of it is there."""

    def abandon(self) -> None:
        """Let go of it as it is."""
        with contextlib.suppress(Exception):  # whatever it says: what it had is counted by the next session
            within(_GRACE, "finishing", lambda: self._wandb.finish(exit_code=1))

    def _finish(self, end: str, memory: Memory) -> None:
        memory.working(_FINISH + _GRACE)
        within(_FINISH, "finishing", lambda: self._wandb.finish(exit_code=_EXIT_CODES.get(end, 1)))

    def _barrier(self) -> None:
        """Wait until wandb-core has read all of it."""
        ask = getattr(self._wandb._interface, "deliver_history_step", None)
        if ask is not None:
            ask().wait_or(timeout=_ANSWER)


class Offline(Session):
    """A run in a folder."""

    def __init__(self, run: Run, place: Place, run_id: str, tags: Mapping[str, str]) -> None:
        self._place = place
        place.recover()
        folders = place.folders()
        synced = [folder for folder in folders if folder.synced]
        unsynced = [folder for folder in folders if not folder.synced]
        self._old = unsynced[-1] if unsynced else None
        self._old_rows = self._old.rows() if self._old is not None else 0
        self._aside = bool(folders)
        root = place.scratch if self._aside else place.root
        root.mkdir(parents=True, exist_ok=True)
        opened = _begin(run, run_id, root, tags, mode="offline")
        super().__init__(opened, sum(folder.rows() for folder in synced))
        path = Path(opened.dir).parent
        self._at = Folder(path, path / f"run-{run_id}.wandb")
        self._audit = Audit(self._at.file)
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._looked = time.monotonic()

    @staticmethod
    def has(place: Place, rows: int) -> bool:
        """Whether all rows of a run were uploaded from here, so that what follows is a part of its own."""
        folders = place.folders()
        synced = all(folder.synced and folder.file.exists() for folder in folders)
        return bool(folders) and synced and sum(folder.rows() for folder in folders) >= rows

    @property
    def link(self) -> str:
        """See `Session.link`."""
        return f"offline:{self._old.path if self._aside and self._old else self._at.path}"

    @property
    def lost(self) -> str:
        """See `Session.lost`."""
        return "" if self._at.file.exists() else f"the folder {self._at.path} is gone"

    def log(self, rows: Sequence[dict[str, Any]]) -> None:
        """See `Session.log`."""
        free = shutil.disk_usage(self._at.path).free
        if free < _ROOM:
            raise Retryable(f"the disk of {self._place.root} is full: {free // 1024} KiB are free")
        super().log(rows)

    def check(self, memory: Memory) -> None:
        """See `Session.check`: wandb-core says nothing when it cannot write, so the file is counted."""
        now = time.monotonic()
        self._marks.append((now, self.handed))
        if self._aside and self._old is not None and self.handed - self.base >= self._old_rows:
            self._looked = 0.0
            until = now + _UNFLUSHED
            while self._audit.advance() < self._old_rows and time.monotonic() < until:
                time.sleep(_FLUSH / 5)
        if now < self._looked + _LOOK_EVERY:
            return
        self._looked = now
        there = self._audit.advance() + self.base
        due = 0
        while self._marks and self._marks[0][0] < now - _UNFLUSHED:
            due = self._marks.popleft()[1]
        if there < due:
            raise CoreLost(f"{self._at.file} has {there} of {due} rows: it cannot be written")
        if self._aside and self._old is not None and there - self.base >= self._old_rows:
            self._take_place()

    def finish(self, end: str, memory: Memory) -> None:
        """See `Session.finish`."""
        self._finish(end, memory)
        until = time.monotonic() + _CLOSED
        while not self._audit.ended and time.monotonic() < until:
            self._audit.advance()  # wandb-core closes the file after it has said that it is done
            time.sleep(_FLUSH / 25)
        there = self._audit.rows + self.base
        if there != self.handed or not self._audit.ended:
            raise CoreLost(f"{self._at.file} has {there} of {self.handed} rows: it could not be written whole")
        try:
            secure(self._at)
            if self._aside and self._old is not None and there - self.base >= self._old_rows:
                self._take_place()
            elif self._aside:
                self._at = self._moved(self._place.settle(self._at.path))
                self._aside = False
            self._place.tidy()
        except OSError as error:
            raise CoreLost(f"{self._at.path} cannot be put in its place: {error.strerror or error}") from error

    def _take_place(self) -> None:
        assert self._old is not None
        self._place.replace(self._at.path, self._old.path)
        self._at = self._moved(self._old.path)
        self._aside = False

    def _moved(self, path: Path) -> Folder:
        # The name of a folder's date may differ from wandb's; nobody reads it out of there.
        self._audit.file = path / self._at.file.name
        return Folder(path, path / self._at.file.name)


class Online(Session):
    """A run on a server."""

    def __init__(self, run: Run, server: Server, target: Target, run_id: str, tags: Mapping[str, str]) -> None:
        project = project_name(run.project)
        self._server = server
        self._base_url, entity = target.base, target.entity
        self._asked = entity, project, run_id
        rows = server.rows(*self._asked)
        opened = _begin(
            run, run_id, _scratch(), tags, mode="online", resume="allow", base_url=target.base, entity=entity or None
        )
        super().__init__(opened, rows)
        self._asked = opened.entity or entity, project, run_id
        self._seen = server.rows(*self._asked)
        self._moved_at = time.monotonic()
        self._polled = 0.0
        if self._seen != rows:
            self.abandon()  # where wandb-core would go on is not known
            raise Retryable(f"W&B had {rows} rows of the run, and now has {self._seen}: somebody else is writing it")

    @property
    def link(self) -> str:
        """See `Session.link`."""
        return str(self._wandb.url or f"{self._base_url}/{'/'.join(self._asked[:2])}/runs/{self._asked[2]}")

    def check(self, memory: Memory) -> None:
        """See `Session.check`: W&B may be `WINDOW` rows behind."""
        self._wait(self.handed - WINDOW, memory)

    def finish(self, end: str, memory: Memory) -> None:
        """See `Session.finish`."""
        self._wait(self.handed, memory)
        self._finish(end, memory)

    def _wait(self, wanted: int, memory: Memory) -> None:
        began = time.monotonic()
        while self._seen < wanted:
            pause = self._polled + _POLL - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            memory.working(_STALLED + _GRACE)
            self._polled = time.monotonic()
            seen = self._server.rows(*self._asked)
            if seen > self._seen:
                self._seen, self._moved_at = seen, self._polled
                continue
            if self._polled > max(began, self._moved_at) + _DEAD:
                raise CoreLost(f"W&B at {self._base_url} has got no row for {_DEAD:g} s")
            if self._polled > max(began, self._moved_at) + _STALLED:
                raise Retryable(f"W&B at {self._base_url} takes no rows: {self.handed - self._seen} wait for it")


def _begin(run: Run, run_id: str, root: Path, tags: Mapping[str, str], mode: str, **more: Any) -> Any:
    settings = {**_SETTINGS, "stop_fn": _leave, **{name: value for name, value in more.items() if value is not None}}
    settings |= {"root_dir": str(root), "mode": mode, "run_id": run_id, "run_name": run.name or run_id}
    settings |= {"project": project_name(run.project), "reinit": "create_new"}
    if words := run_tags(tags):
        settings["run_tags"] = words
    if group := run.group or run.parent:  # W&B nests no runs: those within one are a group
        settings["run_group"] = group[:128]
    if run.notes:
        settings["run_notes"] = run.notes
    known = wandb.Settings.model_fields
    ready = wandb.Settings(**{name: value for name, value in settings.items() if name in known})

    def begin() -> Any:
        opened = wandb.init(settings=ready, config={})
        opened.define_metric(STEP)
        opened.define_metric("*", step_metric=STEP)
        return opened

    try:
        return within(_INIT + _GRACE, "wandb.init", begin)
    except (CommError, UsageError) as error:
        raise judged(str(error), more.get("base_url") or str(root)) from error
    except Exception as error:
        if "is in use" in str(error):  # wandb-core has a run only once, wherever it goes
            raise Retryable(f"the run is still open for another target of W&B: {error}") from error
        raise


def _leave() -> None:
    """Somebody pressed Stop on W&B's page: wandb would interrupt this process, which is not the training."""


def project_name(project: str) -> str:
    """A project as W&B takes it."""
    clean = "".join("-" if letter in "/\\#?%:" or ord(letter) < 32 else letter for letter in project)
    return clean.strip()[:128] or "uncategorized"


def _scratch() -> Path:
    """Where wandb keeps what it has of online runs: as long as this process."""
    base = Path(tempfile.gettempdir())
    for left in base.glob("tracelet-wandb-*"):
        pid = left.name.rpartition("-")[2]
        with contextlib.suppress(OSError, ValueError):
            if left.stat().st_uid == os.getuid() and not Path(f"/proc/{int(pid)}").exists() and Path("/proc").exists():
                shutil.rmtree(left, ignore_errors=True)
    mine = base / f"tracelet-wandb-{os.getuid()}-{os.getpid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.stat().st_uid != os.getuid():
        raise Retryable(f"{mine} is somebody else's")
    return mine
