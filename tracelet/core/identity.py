"""What is known of a run that was begun before: whether its id is taken, and what it needs to go on.

    <home>/runs/<run_id>/run.json    {"format": 1, "run": the fields of the wire's RunSpec}

Written when the run begins, by whichever of its processes comes first, and never changed. A run that began elsewhere is
known to the collector, if one runs: it is asked, for a moment.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from tracelet.core.plan import BackendTarget, RunPlan
from tracelet.core.processes import grpc_is_lost
from tracelet.errors import CollectorError, ConfigurationError
from tracelet.guard import say
from tracelet.transport import local
from tracelet.transport.background import importing

__all__ = ["KnownRun", "Resume", "claim", "find", "recall", "resumed", "take"]

Resume: TypeAlias = Literal["never", "auto", "must", "checkpoint"]

_FORMAT: Final = 1
_PATIENCE: Final = 0.15  # seconds that start_logging has for a collector's answer
_KEPT: Final = ("name", "project", "parent", "group", "notes")
# What the arguments of start_logging call it, where that is another word.
_ARGUMENTS: Final = {"name": "exp_name"}


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run that was begun before; see `RunPlan` for the attributes."""

    name: str
    project: str
    created: float
    backends: tuple[BackendTarget, ...]
    parent: str = ""
    group: str = ""
    notes: str = ""
    tags: tuple[tuple[str, str], ...] = ()


def claim(plan: RunPlan) -> bool:
    """Leave word that a run has begun.

    Returns:
        False: somebody has left it before.

    Raises:
        OSError: it cannot be written.
    """
    file = _file(plan.home, plan.run_id)
    if file.exists():
        return False
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"run.{os.urandom(8).hex()}.new")
    draft.write_text(json.dumps({"format": _FORMAT, "run": plan.run_spec()}))
    try:
        os.link(draft, file)  # one of several processes is first, and whoever reads it reads it whole
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def take(plan: RunPlan, resume: Resume) -> KnownRun | None:
    """Claim an id that nobody had a moment ago.

    Returns:
        The run, where somebody else was faster.

    Raises:
        ConfigurationError: likewise, and there must not be one.
    """
    try:
        if claim(plan):
            return None
    except OSError:
        return None  # said when the run begins
    if resume == "never":
        raise ConfigurationError(f"a run {plan.run_id!r} has begun this moment: pass resume='auto' to go on with it")
    return recall(plan.home, plan.run_id)


def recall(home: Path, run_id: str) -> KnownRun | None:
    """What this machine knows of a run.

    Raises:
        ConfigurationError: its file cannot be read, or is of another version.
    """
    file = _file(home, run_id)
    try:
        said = json.loads(file.read_bytes())
        if said["format"] != _FORMAT:
            raise ConfigurationError(f"{file} has format {said['format']}; this tracelet reads {_FORMAT}")
        return _known(said["run"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ConfigurationError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{file} cannot be read ({error!r}): move it away to begin the run anew") from error


def find(home: Path, run_id: str, resume: Resume) -> KnownRun | None:
    """The run to go on with; None for a new one.

    Args:
        home: tracelet's home.
        run_id: the id that the user chose.
        resume: whether there may be such a run, must be, or must not.

    Raises:
        ConfigurationError: there is one, or there is none, against the user's word.
    """
    known, silent = recall(home, run_id), False
    # Importing gRPC takes a tenth of a second; and where a collector has such a run after all, that one goes on all the same.
    if known is None and (resume in ("never", "must") or "grpc" in sys.modules):
        known, silent = _ask(home, run_id)
    if known is not None and resume == "never":
        raise ConfigurationError(
            f"there is a run {run_id!r} ({known.name}) already: pass resume='auto' to go on with it, or choose another id"
        )
    if known is None and resume == "must":
        also = ", and the collector did not answer in time" if silent else ""
        raise ConfigurationError(
            f"no run {run_id!r} is known in {home}{also}: pass resume='auto' to begin one where there is none"
        )
    return known


def begun_before(home: Path, run_id: str) -> KnownRun | None:
    """The run of an id to which an earlier attempt came by itself; None: there was none, or it was elsewhere.

    Nobody chose the id, so what is wrong with the file is said, and no error.
    """
    try:
        return recall(home, run_id)
    except ConfigurationError as error:
        say(str(error))
        return None


def resumed(asked: RunPlan, known: KnownRun, given: Set[str]) -> RunPlan:
    """The plan of a run that goes on: what it was begun with stays.

    Args:
        asked: as for a new run.
        known: the run.
        given: the plan's fields that the user named; one line says which of them count no more.
    """
    other = [field for field in _KEPT if field in given and getattr(asked, field) != getattr(known, field)]
    there = {backend.kind: backend for backend in known.backends}
    backends = []
    for backend in asked.backends:
        target = there[backend.kind].target if backend.kind in there else backend.target
        if target != backend.target and "backends" in given:
            other.append("backends")
        backends.append(replace(backend, target=target))
    if other:
        what = ", ".join(dict.fromkeys(_ARGUMENTS.get(field, field) for field in other))
        say(f"run {known.name} ({asked.run_id}) goes on as it was begun; not as said now: {what}")
    return replace(
        asked,
        name=known.name,
        project=known.project,
        created=known.created,
        parent=known.parent,
        group=known.group,
        notes=known.notes,
        tags=dict(known.tags),
        backends=tuple(backends),
        resumed=True,
    )


def _file(home: Path, run_id: str) -> Path:
    return home / "runs" / run_id / "run.json"


def _known(run: Mapping[str, Any]) -> KnownRun:
    return KnownRun(
        name=str(run["name"]),
        project=str(run["project"]),
        created=float(run["created"]),
        backends=tuple(
            BackendTarget(*(str(backend[field]) for field in ("kind", "target", "interpreter", "credentials")))
            for backend in run["backends"]
        ),
        parent=str(run.get("parent", "")),
        group=str(run.get("group", "")),
        notes=str(run.get("notes", "")),
        tags=tuple((str(name), str(value)) for name, value in run.get("tags", {}).items()),
    )


def _ask(home: Path, run_id: str) -> tuple[KnownRun | None, bool]:
    """What the collector knows of a run, and whether it owes the answer.

    On a thread: neither an import nor a collector that hangs may take longer than `start_logging` has.
    """
    if grpc_is_lost() or not (home / "endpoint.json").exists():
        return None, False
    answers: list[KnownRun | None] = []

    def ask() -> None:
        if (endpoint := local.find(home)) is None:
            answers.append(None)
            return
        with importing():
            from tracelet.transport.wait import status
        try:
            (run,) = status(endpoint.address, run_id, _PATIENCE).runs or (None,)
        except CollectorError:
            return
        answers.append(
            run
            and KnownRun(
                run.name,
                run.project,
                run.created,
                tuple(
                    BackendTarget(backend.kind, backend.target, "")
                    for backend in run.backends
                    if backend.slot in ("", backend.kind)  # others are a replay's
                ),
            )
        )

    thread = threading.Thread(target=ask, name="tracelet-asking", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there may be no more threads
        return None, True
    thread.join(_PATIENCE)
    return (answers[0], False) if answers else (None, True)
