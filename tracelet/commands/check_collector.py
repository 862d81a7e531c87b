"""The collector of the home, and what it has and has not delivered."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracelet.commands.asking import Standing, ask
from tracelet.commands.findings import Finding, ok, problem, warning
from tracelet.core.outlive import why_none
from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.transport import local, outdated
from tracelet.transport.wait import DEADLINE
from tracelet.version import __version__

if TYPE_CHECKING:
    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["findings"]

_COLLECTOR: Final = "collector"
_DELIVERY: Final = "delivery"
_TAIL: Final = 64 * 1024
_LATELY: Final = 24 * 3600.0


def findings(home: Path) -> Iterator[Finding]:
    """Ask the collector, or read the log.

    Args:
        home: tracelet's home.
    """
    try:
        standing = ask(home)
    except CollectorError as error:
        yield problem(_COLLECTOR, "answer", str(error), _remedy_of(home, str(error)))
        return
    yield from _process(home, standing)
    yield from _outlived()
    yield from _journal(home)
    yield from _runs(standing.reply)
    yield _spools(standing)


def _remedy_of(home: Path, error: str) -> str:
    _, found, command = error.partition("Move it away:  ")
    if found:
        return command.partition("  - ")[0]
    return "upgrade tracelet" if "upgrade" in error else f"see {home / 'collector.log'}; `tracelet stop` ends it"


def _process(home: Path, standing: Standing) -> Iterator[Finding]:
    if standing.unfound is not None:
        who = f"pid {standing.unfound}" if standing.unfound else "its pid is not known"
        text = f"one serves the home ({who}), but cannot be found: it is starting or ending, or it hangs"
        yield problem(_COLLECTOR, "process", text, f"if that lasts:  kill {standing.unfound or '<its pid>'}")
    elif not standing.reply.HasField("collector"):
        yield ok(_COLLECTOR, "process", "none runs; whoever needs one starts it")
        yield from _last_words(home)
    elif (endpoint := local.find(home)) is not None:
        told = f"pid {endpoint.pid}, version {endpoint.version}, wire {endpoint.wire[0]}.{endpoint.wire[1]}"
        ours = (codec.WIRE_MAJOR, codec.WIRE_MINOR)
        if outdated.is_older(endpoint):
            text = f"{told}: older than this tracelet ({__version__}), which takes its place when the next run begins"
            yield ok(_COLLECTOR, "process", text)
        elif endpoint.wire[0] != ours[0]:
            text = f"{told}: this tracelet ({__version__}) speaks wire {ours[0]}.{ours[1]}, and is not served"
            yield problem(_COLLECTOR, "process", text, "pip install -U tracelet here, or use another TRACELET_HOME")
        else:
            yield ok(_COLLECTOR, "process", told)


def _outlived() -> Iterator[Finding]:
    """What stopping a run waits for here."""
    if where := why_none():
        text = f"none outlives {where}: stopping a run waits until it is delivered, {DEADLINE:g} s at most"
        yield ok(_COLLECTOR, "lifetime", text)


def _last_words(home: Path) -> Iterator[Finding]:
    """Why the last one did not serve, if it said so."""
    words = home / "collector.err"
    try:
        lately = time.time() - words.stat().st_mtime < _LATELY
        last = _tail(words).strip().rpartition("\n")[2]
    except OSError:
        return
    if lately and last and not last.endswith("nothing to do"):
        yield warning(_COLLECTOR, "last words", last[:500], f"all of it is in {words}")


def _journal(home: Path) -> Iterator[Finding]:
    path = home / "collector.log"
    try:
        lines = _tail(path).splitlines()
    except OSError:
        return
    errors = []
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - _LATELY))
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue  # cut at the beginning
        if said.get("level") in ("error", "critical") and str(said.get("time", "")) >= since:
            errors.append(str(said.get("message", "")))
    if errors:
        text = f"{len(errors)} errors in the last 24 hours, the last one: {errors[-1][:300]}"
        yield warning(_COLLECTOR, "journal", text, f"see {path}")


def _runs(reply: wire.StatusReply) -> Iterator[Finding]:
    backends = [(run, backend) for run in reply.runs for backend in run.backends]
    behind = sum(backend.lag_points for _, backend in backends)
    text = f"{len(reply.runs)} runs, {behind:,} points not delivered yet"
    if behind and not reply.HasField("collector"):
        yield warning(_DELIVERY, "runs", text, "tracelet sync")
    else:
        yield ok(_DELIVERY, "runs", text)
    troubles = Counter((b.kind, b.state, b.last_error) for _, b in backends if b.state != "ok")
    for (kind, state, error), number in troubles.items():
        said = f"{state} for {number} {'run' if number == 1 else 'runs'}: {error}"
        if state == "paused":
            yield problem(
                _DELIVERY, kind, said, "do what it says; delivery goes on by itself, `tracelet wait` shows it"
            )
        else:
            yield warning(_DELIVERY, kind, said, "it is tried again without end")
    if dead := sum(backend.dead for _, backend in backends):
        yield warning(
            _DELIVERY, "dead letters", f"points that a tracker does not take: {dead:,}", "tracelet dead-letters list"
        )
    if dropped := sum(run.dropped for run in reply.runs):
        yield warning(_DELIVERY, "dropped", f"{dropped:,} points that there was no room for, or that were damaged")


def _spools(standing: Standing) -> Finding:
    waiting = standing.reply.pending_spools
    if not waiting:
        return ok(_DELIVERY, "spools", "none waits to be read in")
    text = f"{waiting} {'waits' if waiting == 1 else 'wait'} to be read in"
    if standing.reply.HasField("collector"):
        return ok(_DELIVERY, "spools", f"{text}: the collector is at it")
    return warning(_DELIVERY, "spools", text, "tracelet sync")


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return file.read().decode(errors="replace")
