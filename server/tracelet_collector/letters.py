"""Dead letters, for people: listed, tried again, dropped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.home import log_path
from tracelet_collector.log import reading
from tracelet_collector.log.base import DeadLetter, Log, LogFailed
from tracelet_collector.log.schema import open_reader, remedy

__all__ = ["listed", "read_offline", "resolve"]

_MOST: Final = 1000  # letters of one answer, or of one transaction
_MOST_BYTES: Final = 2 * 1024 * 1024  # clients take 4 MiB


def listed(log: Log, request: wire.DeadLettersRequest) -> wire.DeadLettersReply:
    """Answer `DeadLetters`: a page of them.

    Raises:
        LogFailed: the log cannot be read.
    """
    run_id, backend = request.run_id or None, request.backend or None
    limit = min(request.limit or _MOST, _MOST)
    letters = log.dead_letters(run_id, backend, list(request.ids) or None, request.after, limit)
    return _reply(letters, log.count_dead_letters(run_id, backend))


def read_offline(home: Path, request: wire.DeadLettersRequest) -> wire.DeadLettersReply:
    """The same, in a home where no collector runs. Call it in no process that writes a spool there.

    Raises:
        LogFailed: the log cannot be read.
    """
    path = log_path(home)
    run_id, backend = request.run_id or None, request.backend or None
    limit = min(request.limit or _MOST, _MOST)
    try:
        with closing(open_reader(path)) as db:
            db.execute("BEGIN")
            letters = reading.dead_letters(db, run_id, backend, list(request.ids) or None, request.after, limit)
            return _reply(letters, reading.count_dead_letters(db, run_id, backend))
    except FileNotFoundError:
        return wire.DeadLettersReply()
    except sqlite3.Error as error:
        raise LogFailed(f"{path} could not be read: {error}{remedy(path, error)}") from error


def resolve(log: Log, request: wire.ResolveRequest, wake: Callable[[str], None]) -> wire.ResolveReply:
    """Answer `Resolve`: bit by bit, each durable before the next.

    Args:
        log: has them.
        request: which, and what to do.
        wake: called with the id of each run that there is something to deliver for again.

    Raises:
        ValueError: it does not say which.
        LogFailed: the log takes no more; what was done by then stays done.
    """
    if not (request.ids or request.run_id or request.backend or request.all):
        raise ValueError("which letters: ids, a run, a backend, or all")
    done = retired = 0
    for letters in _pages(log, request):
        ids = [letter.letter for letter in letters]
        if request.drop:
            done += log.forget(ids)
            continue
        marked, cannot = log.redrive(ids)
        done += marked
        retired += cannot
        for run_id in {letter.run_id for letter in letters}:
            wake(run_id)
    return wire.ResolveReply(letters=done, retired=retired)


def _pages(log: Log, request: wire.ResolveRequest) -> Iterator[list[DeadLetter]]:
    after = 0
    ids = list(request.ids) or None
    while letters := log.dead_letters(request.run_id or None, request.backend or None, ids, after, _MOST):
        yield letters
        after = letters[-1].letter


def _reply(letters: Iterable[DeadLetter], total: int) -> wire.DeadLettersReply:
    reply = wire.DeadLettersReply(total=total)
    size = 0
    for letter in letters:
        said = wire.DeadLetter(
            id=letter.letter,
            run_id=letter.run_id,
            backend=letter.backend,
            name=letter.name,
            error=letter.error,
            point=letter.point,
            redriven=letter.redriven,
            retired=letter.retired,
        )
        size += said.ByteSize()
        if reply.letters and size > _MOST_BYTES:
            break
        reply.letters.append(said)
    return reply
