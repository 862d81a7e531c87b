"""Where a run that starts here stands: a run of its own, one above it that it joins, or a rank's part of one.

- Below a process that records, a run is joined: the process is a writer of it. A second start that takes the place of the
  first, without a stop, is a run of its own, as everywhere. With `child_runs="new"` each is, and that above is its parent.
- Ranks above 0 record nothing, or, with `ranks="all"`, into the run of the first one, their names behind `rank<N>/`.
- Ranks of one launch come to one run id, each by itself; so does one that is started again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from tracelet.core import active
from tracelet.core.jobs import said
from tracelet.core.plan import BackendTarget, RunPlan
from tracelet.core.processes import came_by_fork, run_above
from tracelet.core.ranks import rank, shared_run_id
from tracelet.spoolfile import SpoolDirectory

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options

__all__ = [
    "Place",
    "as_asked",
    "as_nested",
    "as_owned",
    "is_below_a_run",
    "is_silent_rank",
    "know_rank",
    "rank_label",
    "take_place",
]

_started = count()
_joined: dict[str, int] = {}  # run id -> the process that has joined it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands.

    Attributes:
        run_id: the id that it has to have; empty for a new one.
        joins: the run is that of a process above: it is there already.
        owner: it begins here, and ends here.
        parent: the run that it belongs to, as a run of its own; empty for none.
        silent: it records nothing.
        rank_label: what goes before the names of its metrics.
        first: this process starts none before it.
        ranked: other ranks may have begun it.
    """

    run_id: str = ""
    joins: bool = False
    owner: bool = True
    parent: str = ""
    silent: bool = False
    rank_label: str = ""
    first: bool = False
    ranked: bool = False

    @property
    def is_top(self) -> bool:
        """It is what the settings say of the script's run: the first one, and not below that of another process."""
        return self.first and not self.joins and not self.parent


def take_place(options: Options, *, nested: bool = False) -> Place:
    """The place of a run that starts now. Asked once for each: ranks count their runs.

    Args:
        options: the settings.
        nested: it is within another run of this process. Then it is a new one in each attempt: which of those before it is
            the same, an attempt that begins in the middle could not tell by its number.
    """
    above, me, number = _above(), rank(), next(_started)
    attempt = said() if nested else 1
    shared = "" if me is None else shared_run_id(me, number, attempt=attempt)
    if me is not None and me.rank > 0 and options.ranks == "first":
        return Place(above or shared, owner=False, silent=True, first=number == 0)
    label = rank_label()
    joins = options.child_runs == "join"
    if above and joins and (active.superseded() is None or _joined.get(above) != os.getpid()):
        _joined[above] = os.getpid()
        return Place(above, joins=True, owner=False, rank_label=label)
    # Where ranks share nothing, each has a run of its own.
    owner, parent = not label or not shared, "" if joins else above
    return Place(shared, owner=owner, parent=parent, rank_label=label, first=number == 0, ranked=me is not None)


def as_asked(place: Place, run_id: str | None) -> Place:
    """The place of a run whose id the user chose: in that of a process above, a run of its own which belongs to that one."""
    if run_id in (None, place.run_id):
        return place
    parent = place.run_id if place.joins else place.parent
    return replace(place, run_id=run_id, joins=False, owner=not place.rank_label, parent=parent)


def as_nested(place: Place) -> Place:
    """The place of a nested run: below a process that records it is a run of its own, whose parent is that one."""
    return replace(place, run_id="", joins=False, owner=True, parent=place.run_id) if place.joins else place


def is_below_a_run() -> bool:
    """Whether this process is below one that records."""
    return bool(_above())


def rank_label() -> str:
    """What goes before the names of this process's metrics; empty when it is no rank, or the first."""
    me = rank()
    return f"rank{me.rank}" if me is not None and me.rank > 0 else ""


def know_rank(run: Experiment) -> None:
    """What `mp.spawn` starts is a rank once the script has initialised `torch.distributed`, which is after its beginning."""
    if not run.plan.rank_label:
        run.plan = replace(run.plan, rank_label=rank_label())


def is_silent_rank() -> bool:
    """Whether the user asked that ranks like this one record nothing, whatever their code does."""
    return bool(rank_label()) and os.environ.get("TRACELET_RANKS", "").strip().lower() == "first"


def as_owned(plan: RunPlan) -> RunPlan | None:
    """The plan of a writer with what the run's owner, which is recording, says of the run; None when there is none."""
    try:
        folders = sorted((plan.home / "spool" / plan.run_id).iterdir())
    except OSError:
        return None
    for spool in map(SpoolDirectory, folders):
        try:
            info = spool.info()
            if not info.writer.get("owner") or not spool.segments():
                continue
            backends = tuple(BackendTarget(**backend) for backend in info.run["backends"])
            said = {field: info.run[field] for field in ("name", "project", "created")}
            said |= {field: info.run[field] for field in ("parent", "group", "notes", "tags") if field in info.run}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # gone meanwhile; of another version; not a spool
        return replace(plan, backends=backends, **said)
    return None


def _above() -> str:
    run = active.here()
    if run is not None and run.active and came_by_fork(run.id):
        return run.id
    return run_above()
