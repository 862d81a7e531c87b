"""`tracelet dead-letters`: points that a tracker will never take: listed, tried again, dropped."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelet.commands.asking import ask, find_patiently
from tracelet.commands.calling import call, call_at
from tracelet.commands.choosing import choose_run
from tracelet.commands.printing import stdout
from tracelet.core.home import usable_home
from tracelet.core.options import EXPORTERS, Options
from tracelet.errors import CollectorError, ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["Chosen", "as_document", "drop", "list_letters", "redrive", "show_letter"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which letters are meant: these ids; or those of a run, a backend or both; or, said expressly, all.

    Raises:
        ConfigurationError: none of them, or ids and something else.
    """

    ids: Sequence[int] = ()
    run: str | None = None
    backend: str | None = None
    all: bool = False

    def __post_init__(self) -> None:
        others = self.run is not None or self.backend is not None or self.all
        if self.ids and others:
            raise ConfigurationError("give ids, or --run, --backend or --all; not both")
        if not self.ids and not others:
            raise ConfigurationError("which letters: their ids, --run RUN, --backend B, or --all")
        if self.all and (self.run is not None or self.backend is not None):
            raise ConfigurationError("--all means those of all runs and backends: leave --run and --backend out")


def list_letters(run: str | None, backend: str | None, limit: int, *, as_json: bool) -> None:
    """Print them, oldest first.

    Args:
        run: of one run: id, start of an id, or name; None for all.
        backend: what their runs call it; None for all.
        limit: so many at most; 0 for all.
        as_json: as the stable JSON document; otherwise as a table.

    Raises:
        ConfigurationError: there is no such run, or no run goes to such a backend.
        CollectorError: the collector does not answer, or the log cannot be read.
    """
    home = usable_home(Options.load().home)
    runs = ask(home).reply.runs
    run_id = choose_run(runs, run).run_id if run is not None else ""
    names = {known.run_id: known.name for known in runs}
    found, total = _find(home, run_id, _slot(runs, backend), limit)
    if as_json:
        json.dump(as_document(found, names, total), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = stdout()
    if not found:
        console.print("no dead letters")
        return
    console.print(_table(found, names))
    if more := total - len(found):
        console.print(f"and {more:,} more; --limit 0 shows all", highlight=False)


def show_letter(letter: int, *, as_json: bool) -> None:
    """Print all that is known of a letter.

    Raises:
        ConfigurationError: there is none of that id.
        CollectorError: the collector does not answer, or the log cannot be read.
    """
    home = usable_home(Options.load().home)
    names = {known.run_id: known.name for known in ask(home).reply.runs}
    (found,) = _of_ids(home, [letter])
    said = _letter(found, names)
    if as_json:
        json.dump(said, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    point = said.pop("point")
    for name, value in {**said, **{f"point.{field}": value for field, value in point.items()}}.items():
        sys.stdout.write(f"{name}: {value if isinstance(value, str) else json.dumps(value)}\n")


def redrive(chosen: Chosen) -> int:
    """Have letters tried again.

    Returns:
        The exit code: 0; 2 when there are letters but none of them can be tried again.

    Raises:
        ConfigurationError: there is no such run or letter, or the log no longer has the record of one that was named.
        CollectorError: no collector could be started, or it did not answer.
    """
    home = usable_home(Options.load().home)
    request = _request(home, chosen)
    if gone := [letter.id for letter in _of_ids(home, request.ids) if letter.retired]:
        raise ConfigurationError(
            f"dead letter {gone[0]} cannot be tried again: its run is retired, and its record is no longer in the log"
        )
    reply = call(home, "Resolve", request)
    sys.stdout.write(f"{_letters(reply.letters)} will be tried again\n")
    if reply.retired:
        sys.stderr.write(
            f"tracelet: {_letters(reply.retired)} cannot be: their runs are retired, and the records are no longer in the log\n"
        )
    return 2 if reply.retired and not reply.letters else 0


def drop(chosen: Chosen, *, yes: bool) -> int:
    """Drop letters: their points stay dead, and are counted as such.

    Args:
        chosen: which.
        yes: nobody is asked.

    Returns:
        The exit code: 0; 1 when whoever was asked said no.

    Raises:
        ConfigurationError: there is no such run or letter, or nobody can be asked.
        CollectorError: no collector could be started, or it did not answer.
    """
    home = usable_home(Options.load().home)
    request = _request(home, chosen, drop=True)
    if not yes:
        _, total = _find(home, request.run_id, request.backend, 1) if not request.ids else ((), len(request.ids))
        if total and not _confirmed(f"Drop {_letters(total)}? Nobody can try them again then."):
            sys.stdout.write("nothing is dropped\n")
            return 1
    reply = call(home, "Resolve", request)
    sys.stdout.write(f"{_letters(reply.letters)} dropped; their points stay counted as dead\n")
    return 0


def as_document(letters: Sequence[wire.DeadLetter], names: Mapping[str, str], known: int) -> dict[str, Any]:
    """The JSON document that scripts may rely on.

    Args:
        letters: those to be shown.
        names: of runs, by id.
        known: how many there are.
    """
    return {"letters": [_letter(letter, names) for letter in letters], "known": known}


def _letter(letter: wire.DeadLetter, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": letter.id,
        "run_id": letter.run_id,
        "run": names.get(letter.run_id, ""),
        "backend": letter.backend,
        "name": letter.name,
        "error": letter.error,
        "point": json.loads(letter.point, parse_constant=str),  # NaN and Infinity are no JSON
        "redriven": letter.redriven,
        "retired": letter.retired,
    }


def _table(letters: Sequence[wire.DeadLetter], names: Mapping[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    columns = Table(box=None, pad_edge=False, header_style="bold")
    columns.add_column("id", justify="right", no_wrap=True)
    columns.add_column("run", overflow="fold")
    columns.add_column("backend", no_wrap=True)
    columns.add_column("name", overflow="fold")
    columns.add_column("why", overflow="fold")
    for letter in letters:
        note = " (to be tried again)" if letter.redriven else " (retired)" if letter.retired else ""
        run = Text(names.get(letter.run_id, "")).append(f" {letter.run_id[:12]}", style="dim")
        columns.add_row(str(letter.id), run, Text(letter.backend), Text(letter.name), Text(letter.error + note))
    return columns


def _request(home: Path, chosen: Chosen, *, drop: bool = False) -> wire.ResolveRequest:
    """What to ask for. Letters that are named must be there."""
    from tracelet.proto.v1 import collector_pb2 as wire

    ids = [letter.id for letter in _of_ids(home, chosen.ids)]
    runs = ask(home).reply.runs if chosen.run is not None or chosen.backend is not None else ()
    run_id = choose_run(runs, chosen.run).run_id if chosen.run is not None else ""
    return wire.ResolveRequest(ids=ids, drop=drop, run_id=run_id, backend=_slot(runs, chosen.backend), all=chosen.all)


def _slot(runs: Iterable[wire.RunState], backend: str | None) -> str:
    """What runs call the backend; empty for all.

    Raises:
        ConfigurationError: none of them has it, and it is no tracker's name.
    """
    if backend is None:
        return ""
    slots = dict.fromkeys(known.slot or known.kind for run in runs for known in run.backends)
    if backend not in slots and backend not in EXPORTERS:
        raise ConfigurationError(f"no run here goes to {backend!r}; there are: {', '.join(slots) or 'none'}")
    return backend


def _of_ids(home: Path, ids: Sequence[int]) -> list[wire.DeadLetter]:
    """Letters by id.

    Raises:
        ConfigurationError: one is not there.
    """
    wanted = list(dict.fromkeys(ids))
    found = {letter.id: letter for letter in _pages(home, ids=wanted)} if wanted else {}
    if missing := [letter for letter in wanted if letter not in found]:
        raise ConfigurationError(f"there is no dead letter {missing[0]}; `tracelet dead-letters list` lists them")
    return [found[letter] for letter in wanted]


def _find(home: Path, run_id: str, backend: str, limit: int) -> tuple[list[wire.DeadLetter], int]:
    """Letters, and how many there are."""
    total = [0]
    found = list(_pages(home, run_id, backend, limit=limit, total=total))
    return found, max(total[0], len(found))


def _pages(
    home: Path,
    run_id: str = "",
    backend: str = "",
    *,
    ids: Sequence[int] = (),
    limit: int = 0,
    total: list[int] | None = None,
) -> Iterator[wire.DeadLetter]:
    """Letters, page after page, from the collector or, when none runs, from its log."""
    from tracelet.proto.v1 import collector_pb2 as wire

    endpoint, _ = find_patiently(home)
    after = shown = 0
    while not limit or shown < limit:
        request = wire.DeadLettersRequest(
            run_id=run_id, backend=backend, after=after, limit=max(limit - shown, 0), ids=ids
        )
        reply = call_at(endpoint.address, "DeadLetters", request) if endpoint else _offline(home, request)
        if total is not None:
            total[0] = reply.total
        if not reply.letters:
            return
        yield from reply.letters
        shown += len(reply.letters)
        after = reply.letters[-1].id


def _offline(home: Path, request: wire.DeadLettersRequest) -> wire.DeadLettersReply:
    letters = importlib.import_module("tracelet_collector.letters")
    failed = importlib.import_module("tracelet_collector.log.base").LogFailed
    try:
        reply: wire.DeadLettersReply = letters.read_offline(home, request)
    except failed as error:
        raise CollectorError(str(error)) from error
    return reply


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError("there is no terminal to ask: --yes drops them without a question")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
