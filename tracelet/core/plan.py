"""What a run is to be, decided before it begins; and how its stop went."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tracelet.core.labels import WriterPrefix
from tracelet.errors import ConfigurationError
from tracelet.transport.local import Starting

__all__ = ["BackendTarget", "RunPlan", "StopReport", "check_run_id", "new_run_id"]

_LONGEST_RUN_ID = 128  # bytes: it is a folder's name, and part of others


def new_run_id() -> str:
    """A run id: 32 hex digits; sorts by time of creation."""
    return f"{max(time.time_ns(), 0) // 1_000_000:012x}{os.urandom(10).hex()}"


def check_run_id(run_id: object) -> str:
    """A run id of the user's own, when it can be one: on a line, in a folder's name, on the wire.

    Raises:
        ConfigurationError: it cannot.
    """
    if (
        isinstance(run_id, str)
        and run_id.isprintable()  # so without surrogates too
        and 0 < len(run_id.encode()) <= _LONGEST_RUN_ID
        and run_id == run_id.strip()
        and not run_id.startswith(".")
        and "/" not in run_id
    ):
        return run_id
    raise ConfigurationError(
        f"run_id={run_id!r:.200} makes no sense; give 1 to {_LONGEST_RUN_ID} printable characters without '/', not "
        "beginning with a dot"
    )


class _Kept:
    """What is pickled by name: a checkpoint of a script may hold it, and be read by another version of tracelet."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        me: Any = self
        return _rebuild, (type(self), {each.name: getattr(self, each.name) for each in fields(me)})


def _rebuild(kind: type[Any], said: Mapping[str, Any]) -> Any:
    """Fields that are new here have their defaults; those that are known no more are left out."""
    return kind(**{each.name: said[each.name] for each in fields(kind) if each.name in said})


@dataclass(frozen=True, slots=True)
class BackendTarget(_Kept):
    """A tracker to deliver to: the fields of the wire's BackendSpec."""

    kind: str
    target: str
    interpreter: str
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan(_Kept):
    """What a run is to be.

    Attributes:
        run_id: its id.
        name: the run's name; not unique.
        project: MLflow experiment, W&B project, ClearML project.
        backends: where it is delivered.
        home: tracelet's home.
        owner: this process began the run, and ends it. Others are writers of it.
        prefix: the policy of writer labels: auto, always or never.
        spool_cap: bytes that a spool may take; None for the default.
        flush_interval: seconds between two looks of the sender.
        collector_idle: seconds after which a collector that is started here exits when it has nothing to do.
        retention_days, retention_bytes: how long such a collector keeps records: see `Starting`.
        stop_timeout: seconds that stopping waits for everything to be durable.
        stop_wait: what stopping waits for: see `tracelet.core.outlive`.
        rank_label: what goes before the names of this process's metrics ("rank1"); empty for the first rank.
        created: wall time.
        parent: run id of the run that it belongs to; empty for none.
        group: what the run is compared with; empty for none.
        notes: a text about the run, in Markdown.
        tags: tags that are given at the start.
        resumed: the run was begun before, by another process.
        carried: its records go to a collector; without that they stay in their spools, for a test to read.
    """

    run_id: str
    name: str
    project: str
    backends: tuple[BackendTarget, ...]
    home: Path
    owner: bool = True
    prefix: WriterPrefix = "auto"
    spool_cap: int | None = None
    flush_interval: float = 0.1
    collector_idle: float = 60.0
    retention_days: float = 30.0
    retention_bytes: int = 20 * 2**30
    stop_timeout: float = 5.0
    stop_wait: Literal["auto", "durable", "delivered"] = "auto"
    rank_label: str = ""
    created: float = field(default_factory=time.time)
    parent: str = ""
    group: str = ""
    notes: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    resumed: bool = False
    carried: bool = True

    @property
    def starting(self) -> Starting:
        """How a collector is to be that is started for the run."""
        return Starting(self.collector_idle, self.retention_days, self.retention_bytes)

    def run_spec(self) -> dict[str, Any]:
        """The fields of the wire's RunSpec, JSON-able."""
        spec = {
            "run_id": self.run_id,
            "name": self.name,
            "project": self.project,
            "created": self.created,
            "backends": [
                {"kind": b.kind, "target": b.target, "interpreter": b.interpreter, "credentials": b.credentials}
                for b in self.backends
            ],
        }
        # Left out when empty: a collector before wire minor 1 reads the spools of runs that do not use them.
        more = {"parent": self.parent, "group": self.group, "notes": self.notes, "tags": dict(self.tags)}
        return spec | {field: value for field, value in more.items() if value}


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a stop went.

    Attributes:
        durable: everything is in the collector's log.
        kept_in: if not, where the rest is.
        lost: records that are nowhere any more: the disk had no room for them.
    """

    durable: bool
    kept_in: Path | None = None
    lost: int = 0
