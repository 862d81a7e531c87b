"""`tracelet status`: the runs, what was received, and how far each tracker has got."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tracelet.commands.asking import ask
from tracelet.commands.falling_behind import falling_behind
from tracelet.commands.printing import stdout
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.proto.codec import status_from_wire

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["as_document", "show", "table"]

_NAMES: Final = 3  # of the runs that share an error


def show(*, as_json: bool) -> None:
    """Print it.

    Args:
        as_json: as the stable JSON document; otherwise as a table.

    Raises:
        CollectorError: the collector does not answer.
    """
    home = usable_home(Options.load().home)
    standing = ask(home)
    reply = standing.reply
    if as_json:
        json.dump(as_document(reply), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = stdout()

    def say(line: str, style: str | None = None) -> None:
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    if reply.HasField("collector"):
        told = reply.collector
        say(f"collector {told.version}, pid {told.pid}, home {told.home}")
    elif standing.unfound is not None:
        say(
            f"{_who(standing.unfound)} serves {home}, but cannot be found: it is starting or ending, or it hangs", "red"
        )
        say("this is what its log has")
    else:
        say(f"no collector runs for {home}; this is what its log has")
    if reply.pending_spools:
        say(f"what {reply.pending_spools} processes left is not read in yet")
    if not reply.runs:
        say("no runs")
        return
    console.print(table(reply))
    for called, target in dict.fromkeys((_called(b), b.target) for run in reply.runs for b in run.backends):
        say(f"{called}: {target}")
    for (kind, state, error), names in _errors(reply).items():
        say(f"{_names(names)}: {kind} is {state}: {error}", style="red")
    for words in _behind(reply):
        say(words, style="yellow")
    if dead := sum(backend.dead for run in reply.runs for backend in run.backends):
        are = "point is" if dead == 1 else "points are"
        say(f"{dead:,} {are} dead: `tracelet dead-letters list` says why, unless they were dropped")


def as_document(reply: wire.StatusReply) -> dict[str, Any]:
    """The JSON document that scripts may rely on."""
    told = reply.collector
    collector = (
        {"pid": told.pid, "version": told.version, "address": told.address, "home": told.home}
        if reply.HasField("collector")
        else None
    )
    return {"collector": collector, "runs": [_run(run) for run in reply.runs]}


def table(reply: wire.StatusReply) -> Table:
    """The runs for people: a line for each run and backend."""
    from rich.table import Table

    columns = Table(box=None, pad_edge=False, header_style="bold")
    columns.add_column("run", overflow="fold")
    columns.add_column("status", no_wrap=True)
    columns.add_column("points", justify="right", no_wrap=True)
    columns.add_column("backend", no_wrap=True)
    columns.add_column("state", no_wrap=True)
    columns.add_column("delivered", justify="right", no_wrap=True)
    columns.add_column("lag", justify="right", no_wrap=True)
    for run in reply.runs:
        cells = _cells_of_run(run)
        told = [_cells_of_backend(backend) for backend in run.backends]
        # One row for all of a run: what is said of it in several lines takes no lines from its backends.
        columns.add_row(*cells, *("\n".join(column) for column in zip(*map(_level, told), strict=True)))
    return columns


def _level(cells: Sequence[str]) -> list[str]:
    """Cells of one height: a line that one of them has more is a line of all."""
    height = max(cell.count("\n") for cell in cells)
    return [cell + "\n" * (height - cell.count("\n")) for cell in cells]


def _errors(reply: wire.StatusReply) -> dict[tuple[str, str, str], list[str]]:
    """Each error once, with the runs that have it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for run in reply.runs:
        for backend in run.backends:
            if backend.last_error:
                found.setdefault((_called(backend), backend.state, backend.last_error), []).append(run.name)
    return found


def _behind(reply: wire.StatusReply) -> list[str]:
    """Which runs a tracker does not keep up with, and what is to be expected."""
    return [
        f"{run.name}: {_called(backend)} is {words}"
        for run in reply.runs
        for backend in run.backends
        if (words := falling_behind(backend))
    ]


def _called(backend: wire.BackendState) -> str:
    """What the run calls the backend; a collector before wire minor 2 knows the kind alone."""
    return backend.slot or backend.kind


def _names(names: list[str]) -> str:
    first = ", ".join(names[:_NAMES])
    return first if len(names) <= _NAMES else f"{first} and {len(names) - _NAMES} more runs"


def _who(pid: int) -> str:
    return f"a collector (pid {pid})" if pid else "a collector"


def _cells_of_run(run: wire.RunState) -> tuple[Text | str, str, str]:
    from rich.text import Text

    points = f"{run.received:,}"
    for count, word in ((run.received - run.durable, "not durable"), (run.dropped, "dropped")):
        if count:
            points += f"\n{count:,} {word}"
    name = Text(f"{run.name}\n").append(f"{run.project} {run.run_id[:12]}", style="dim")
    return name, str(status_from_wire(run.status)) + ("\nretired" if run.retired else ""), points


def _cells_of_backend(backend: wire.BackendState) -> tuple[str, str, str, str]:
    delivered = f"{backend.delivered:,}"
    for count, word in (
        (backend.collapsed, "collapsed"),
        (backend.rerouted, "rerouted"),
        (backend.dead, "dead"),
    ):
        if count:
            delivered += f"\n{count:,} {word}"
    lag = f"{backend.lag_points:,}"
    if backend.lag_points:
        lag += f"\n{backend.lag_seconds:.1f} s"
    return _called(backend), backend.state, delivered, lag


def _run(run: wire.RunState) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "status": str(status_from_wire(run.status)),
        "retired": run.retired,
        "labels": dict(sorted(run.labels.items())),
        "points": {"received": run.received, "durable": run.durable, "dropped": run.dropped},
        "backends": {_called(backend): _backend(backend) for backend in run.backends},
    }


def _backend(backend: wire.BackendState) -> dict[str, Any]:
    return {
        "target": backend.target,
        "state": backend.state,
        "delivered": backend.delivered,
        "collapsed": backend.collapsed,
        "rerouted": backend.rerouted,
        "dead": backend.dead,
        "lag_points": backend.lag_points,
        "lag_seconds": backend.lag_seconds,
        "catch_up_seconds": backend.catch_up_seconds if math.isfinite(backend.catch_up_seconds) else None,
        "last_error": backend.last_error,
        "worker_pid": backend.worker_pid,
    }
