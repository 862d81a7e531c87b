"""`tracelet runs`: the runs of this home, the newest first."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from tracelet.commands.asking import ask
from tracelet.commands.falling_behind import falling_behind
from tracelet.commands.printing import stdout
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.proto.codec import status_from_wire

if TYPE_CHECKING:
    from rich.table import Table

    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["as_document", "list_runs", "table"]


def list_runs(limit: int, *, as_json: bool) -> None:
    """Print them.

    Args:
        limit: how many at most; 0 for all.
        as_json: as the stable JSON document; otherwise as a table.

    Raises:
        CollectorError: the collector does not answer, or the log cannot be read.
    """
    reply = ask(usable_home(Options.load().home)).reply
    runs = sorted(reply.runs, key=lambda run: run.created, reverse=True)
    shown = runs[:limit] if limit else runs
    if as_json:
        json.dump(as_document(shown, len(runs)), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = stdout()
    if shown:
        console.print(table(shown))
    else:
        console.print("no runs")
    if more := len(runs) - len(shown):
        console.print(f"and {more} older; --limit 0 shows all", highlight=False)
    if reply.pending_spools:
        console.print(f"what {reply.pending_spools} processes left is not read in yet", highlight=False)


def as_document(runs: list[wire.RunState], known: int) -> dict[str, Any]:
    """The JSON document that scripts may rely on.

    Args:
        runs: those to be shown.
        known: how many there are.
    """
    return {"runs": [_run(run) for run in runs], "known": known}


def table(runs: list[wire.RunState]) -> Table:
    """The runs for people."""
    from rich.table import Table
    from rich.text import Text

    columns = Table(box=None, pad_edge=False, header_style="bold")
    columns.add_column("id", no_wrap=True)
    columns.add_column("run", overflow="fold")
    columns.add_column("project", overflow="fold")
    columns.add_column("status", no_wrap=True)
    columns.add_column("created", no_wrap=True)
    columns.add_column("points", justify="right", no_wrap=True)
    columns.add_column("backends", no_wrap=True)
    for run in runs:
        columns.add_row(
            run.run_id[:12],
            Text(run.name),
            Text(run.project),
            str(status_from_wire(run.status)) + (" (retired)" if run.retired else ""),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created)),
            f"{run.durable:,}",
            Text("\n".join(_said(backend) for backend in run.backends)),
        )
    return columns


def _said(backend: wire.BackendState) -> str:
    called = backend.slot or backend.kind
    if backend.settled:
        return f"{called}: delivered"
    behind = f"{backend.lag_points:,} to go" if backend.lag_points else "its latest state to go"
    words = falling_behind(backend)
    if words or backend.state == "ok":
        return f"{called}: {words or behind}"
    return f"{called}: {behind}, {backend.state}"


def _run(run: wire.RunState) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "status": str(status_from_wire(run.status)),
        "created": run.created,
        "ended": run.ended or None,
        "points": run.durable,
        "backends": {
            backend.slot or backend.kind: {
                "state": backend.state,
                "lag_points": backend.lag_points,
                "settled": backend.settled,
            }
            for backend in run.backends
        },
        "retired": run.retired,
    }
