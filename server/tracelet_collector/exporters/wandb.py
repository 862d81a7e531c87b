"""Delivers runs to Weights & Biases: to a server, or into folders that `wandb sync` uploads.

W&B keeps every row that it is given, and knows no row again. So rows are numbered. They are made by what the log says alone
(see `wandb_rows`), and the state, which is committed with the cursor, knows how many there were.

    offline   A worker that begins anew writes the run anew, from the first record on, beside the folder that is there
              (`Rewind`); when it has as many rows it takes that folder's place. What `wandb sync` has uploaded already is left
              as it is: what follows has a folder of its own. Each row is there once, whatever crashed.
    online    A worker that begins anew asks the server how many rows it has, and goes through the run from its first record on
              (`Rewind`). Rows that the server has are left out; config, tags and files are told again.

Exact online is what the server's count (`historyLineCount`) is right about. It is behind when it does not yet count rows that
it has taken: so it is asked before and after `wandb.init`, and rows of a predecessor that arrive later are the same rows at the
same place.

`global_step` is the x-axis of everything (`define_metric`): it is what wandb's own TensorBoard sync calls it, and a row holds
its step whatever the metric counts. W&B's own `_step` numbers the rows; with `step=` it would drop rows that go backward.

What W&B cannot hold as it is:

    a time before 1970 or     the nearest time of these years (0 when it is no number); counted as rerouted
      after 9999
    -0.0                      0, which is equal
    a step outside int64      a dead letter; of media the nearest step, counted as rerouted
    a name that is empty or   another key; the name is in the config, under `_tracelet`
      begins with `_`
    points of one row that    the time of the row's first point, at most a second earlier or later
      differ in time
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

from tracelet.core.metrics import INT64_MAX, INT64_MIN, Artifact, Media
from tracelet_collector.exporters.artifact_paths import Owner, Shelf
from tracelet_collector.exporters.base import (
    Dead,
    Gone,
    Item,
    Memory,
    Outcome,
    Paused,
    Retryable,
    Rewind,
    Run,
    Unauthorized,
)
from tracelet_collector.exporters.wandb_folder import Place
from tracelet_collector.exporters.wandb_media import Drawing, RunFile, artifact_path, drawn
from tracelet_collector.exporters.wandb_rows import Plan, Position
from tracelet_collector.exporters.wandb_server import Server, Target, unauthorized
from tracelet_collector.exporters.wandb_session import CoreLost, Offline, Online, Session

__all__ = ["WandbExporter"]

_MAX_SESSIONS: Final = 500
_OPENING: Final = 300.0
_SAVING: Final = 300.0
_FILES: Final = 100
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class WandbExporter:
    """The exporter of kind `wandb`; see `exporters.base` for what that means.

    Attributes:
        spent: wandb's own process is gone, and with it the use of this one.
    """

    kind: ClassVar[str] = "wandb"
    batch_points: ClassVar[int] = 2000

    def __init__(self) -> None:
        self.spent = False
        self._sessions: dict[tuple[str, str], Session] = {}
        self._servers: dict[str, Server] = {}
        # How far a run went when it was last begun anew: it is not ended before.
        self._horizons: dict[tuple[str, str], Position] = {}

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Deliver records of one run; see `Exporter.export`."""
        if self.spent:
            raise Retryable("wandb-core is gone: a new worker begins")
        place = run.run_id, run.target
        try:
            return self._deliver(place, run, items, state, memory)
        except CoreLost as error:
            self._give_up()
            raise Retryable(f"{error}: a new worker begins") from error
        except Unauthorized:
            self._give_up()  # wandb-core sends nothing more after that
            raise
        except OSError as error:
            said = f"{Target.read(run.target).folder or 'the folder of what is sent to W&B'} cannot be written: {error}"
            raise (Paused if error.errno in _NO_RIGHT else Retryable)(said) from error

    @property
    def holds(self) -> bool:
        """Runs that are open."""
        return bool(self._sessions)

    def close(self) -> None:
        """Let go of the runs as they are."""
        for session in self._sessions.values():
            session.abandon()
        self._sessions.clear()
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _give_up(self) -> None:
        self.spent = True
        self._sessions.clear()

    def _deliver(
        self, place: tuple[str, str], run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory
    ) -> Outcome:
        if run.redriven:
            return self._again(place, run, items, state)
        plan = Plan.make(items, state, run)
        plan.state.pop("closed", None)
        session = self._sessions.get(place)
        if session is not None and session.lost:
            del self._sessions[place]
            session.abandon()
            self._rewind(place, plan.last, session.lost)
        if session is None:
            memory.working(_OPENING)
            session = self._open(place, run, plan, state)
        before = int(state.get("rows", 0))
        if session.position is None and state and not (state.get("closed") and session.base >= before):
            self._rewind(place, plan.last, f"W&B has {session.base} rows of it, and {before} were handed over")
        session.used = time.monotonic()
        outcome = Outcome(plan.delivered, rerouted=plan.rerouted, dead=plan.dead, state=plan.state)
        rows, files = _ready(session, plan, before, run, outcome)
        files += _artifacts(session, plan, run, outcome, memory)
        session.tell(plan.config, plan.state["tags"] if plan.retagged or not state else None)
        for part in range(0, len(files), _FILES):
            memory.working(_SAVING)
            session.save(files[part : part + _FILES])
        if rows:
            session.log(rows)
            session.handed += len(rows)
        total = before + len(plan.rows)
        if session.position is None or session.position <= plan.last:
            session.position = plan.last
            total = session.handed if total > session.base else total
        plan.state["rows"] = total
        session.check(memory)
        plan.state["link"] = session.link
        if plan.state.get("end") and plan.last >= self._horizons.get(place, plan.last):
            session.finish(plan.state["end"], memory)
            del self._sessions[place]
            self._horizons.pop(place, None)
            plan.state |= {"closed": True, "link": session.link}
        return outcome

    def _again(self, place: tuple[str, str], run: Run, items: Sequence[Item], state: Mapping[str, Any]) -> Outcome:
        """Dead letters that are tried again: their places among the rows are taken. A folder is written anew, with them.

        Raises:
            Rewind: it is.
        """
        target = Target.read(run.target)
        if target.folder and not any(f.synced for f in Place(Path(target.folder), _wandb_id(run.run_id)).folders()):
            session, last = self._sessions.pop(place, None), max((item.lsn, item.seq) for item in items)
            if session is not None:
                session.abandon()
                last = max(last, session.position or last)
            self._rewind(place, last, "dead letters of it are tried again")
        error = "W&B has the rows that come after it, and none can be put before them; `tracelet replay` to another target can"
        never = {id(dead.item): dead.error for dead in Plan.make(items, state, run).dead}
        return Outcome(dead=[Dead(item, never.get(id(item), error)) for item in items], state=dict(state))

    def _open(self, place: tuple[str, str], run: Run, plan: Plan, state: Mapping[str, Any]) -> Session:
        """Begin a run in wandb, or go on with it.

        Raises:
            Rewind: not from here.
        """
        if len(self._sessions) >= _MAX_SESSIONS:
            oldest = min(self._sessions, key=lambda key: self._sessions[key].used)
            self._sessions.pop(oldest).abandon()
        target, run_id, tags = Target.read(run.target), _wandb_id(run.run_id), plan.state["tags"]
        closed, rows = bool(state.get("closed")), int(state.get("rows", 0))
        if target.folder:
            there = Place(Path(target.folder), run_id)
            if state and not (closed and Offline.has(there, rows)):
                self._rewind(place, plan.last, "its folder is written anew by a new worker")
            self._sessions[place] = Offline(run, there, run_id, tags)
        else:
            self._sessions[place] = Online(run, self._server(target.base), target, run_id, tags)
        return self._sessions[place]

    def _rewind(self, place: tuple[str, str], last: Position, why: str) -> NoReturn:
        self._horizons[place] = max(last, self._horizons.get(place, last))
        raise Rewind(why)

    def _server(self, base: str) -> Server:
        key = os.environ.get("WANDB_API_KEY", "")
        if not key:
            raise unauthorized(base, "there is none")
        if base not in self._servers:
            self._servers[base] = Server(base, key)
        return self._servers[base]


def _ready(
    session: Session, plan: Plan, before: int, run: Run, outcome: Outcome
) -> tuple[list[dict[str, Any]], list[RunFile]]:
    """What wandb has not got yet of a chunk's rows, and the files of its media. The account of media is made."""
    rows: list[dict[str, Any]] = []
    files: list[RunFile] = []
    for number, row in enumerate(plan.rows, start=before):
        if row.media is None:
            values = row.after(session.position)
        else:
            drawing = _drawing(row.media, row.key, number, run, outcome)
            known = session.position is not None and (row.media.lsn, row.media.seq) <= session.position
            # Of media that are lost there is a row all the same: later rows keep their numbers.
            values = {} if known else row.frame(drawing.value)
            files += [] if known else drawing.files
        if values and number >= session.base:
            rows.append(values)
    return rows, files


def _drawing(item: Item, key: str, number: int, run: Run, outcome: Outcome) -> Drawing:
    media = item.record
    assert isinstance(media, Media)
    try:
        drawing = drawn(media, key, number, run.content(media.content))
    except Gone as error:
        outcome.dead.append(Dead(item, str(error)))
        return Drawing(None)
    if INT64_MIN <= media.step <= INT64_MAX:
        outcome.delivered += 1
    else:
        outcome.rerouted += 1
    return drawing


def _artifacts(session: Session, plan: Plan, run: Run, outcome: Outcome, memory: Memory) -> list[RunFile]:
    """The files of a chunk's artifacts."""
    files: list[RunFile] = []
    if not plan.artifacts:
        return files
    shelf = Shelf(memory, run.run_id.encode())
    paths = [artifact_path(item.record.path) for item in plan.artifacts if isinstance(item.record, Artifact)]
    shelf.look_up(paths)
    for item, path in zip(plan.artifacts, paths, strict=True):
        assert isinstance(item.record, Artifact)
        path = shelf.claim(path, Owner.FILE)
        try:
            content = run.content(item.record.content)
        except Gone as error:
            outcome.dead.append(Dead(item, str(error)))
            continue
        outcome.delivered += 1
        if session.position is None or (item.lsn, item.seq) > session.position:
            files.append(RunFile(path, content))
    outcome.stamps = shelf.stamps
    return files


def _wandb_id(run_id: str) -> str:
    """A run's id in W&B: ours, where W&B takes it. It is the same whenever it is asked for."""
    if _PLAIN_ID.fullmatch(run_id):
        return run_id
    return hashlib.blake2b(run_id.encode(), digest_size=16).hexdigest()
