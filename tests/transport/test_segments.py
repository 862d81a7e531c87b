"""Segments that are made while signal handlers log."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.spool_writers import on_disk, writer
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolPoint
from tracelet.spoolfile.slots import SLOTS_PER_SEGMENT
from tracelet.transport import segments
from tracelet.transport.spool import SpoolWriter

TIMES = 50


class Alarm(Exception):
    """Out of a signal handler of the user's."""


@contextmanager
def interrupted_while_making(monkeypatch: pytest.MonkeyPatch, handler: Any) -> Iterator[list[int]]:
    """Signals come in whenever a segment's file was made and is not published yet, also to those who come in by one."""
    made: list[int] = []
    real = segments._map_file

    def map_file(path: Path, header: Any) -> Any:
        segment = real(path, header)
        made.append(header.number)
        assert len(made) < 100, "a segment is made again and again"
        for _ in range(TIMES):
            signal.raise_signal(signal.SIGUSR1)
        return segment

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(segments, "_map_file", map_file)
            yield made
    finally:
        signal.signal(signal.SIGUSR1, before)


def fill(spool: SpoolWriter) -> None:
    """Up to the last slot of the first segment."""
    for step in range(SLOTS_PER_SEGMENT):
        assert spool.put(1, step, 0.0, 0.0)


def numbered(items: list[Any], tag: int) -> list[int]:
    return sorted(item.step for item in items if isinstance(item, SpoolPoint) and item.tag == tag)


def test_a_handler_that_logs_neither_waits_nor_makes_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = writer(home)
    fill(spool)
    inside: list[int] = []

    def handler(*_: object) -> None:
        inside.append(len(inside))
        assert spool.put(2, inside[-1], 0.0, 0.0)
        assert spool.put_blob(BlobKind.TAGS, {"values": {"inside": str(inside[-1])}, "wall_time": 0.0})

    with interrupted_while_making(monkeypatch, handler) as made:
        assert spool.put(1, SLOTS_PER_SEGMENT, 0.0, 0.0)
    assert (made, inside) == ([1], list(range(TIMES)))
    assert len(list(spool.directory.path.glob("*.seg"))) == 2
    items = on_disk(spool)
    assert numbered(items, 1) == list(range(SLOTS_PER_SEGMENT + 1))
    assert numbered(items, 2) == inside
    assert sum(isinstance(item, SpoolBlob) for item in items) == TIMES
    assert not spool.dropped


def test_what_a_handler_logged_is_there_when_making_fails_after_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses, and this writer may keep nothing in memory: the stand-in stays, and is written out at the end."""
    spool = writer(home)
    spool._segments._ram_cap = 0
    fill(spool)
    inside: list[int] = []

    def handler(*_: object) -> None:
        inside.append(len(inside))
        assert spool.put(2, inside[-1], 0.0, 0.0)

    def refuse(*_: object) -> None:
        signal.raise_signal(signal.SIGUSR1)
        raise OSError(28, os.strerror(28))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(segments, "_map_file", refuse)
            assert spool.put(1, SLOTS_PER_SEGMENT, 0.0, 0.0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert spool.close(remove=False) == 0
    items = on_disk(spool.directory.path)
    assert numbered(items, 1) == list(range(SLOTS_PER_SEGMENT + 1))
    assert numbered(items, 2) == inside == [0]


def test_a_handler_that_raises_leaves_no_file_and_its_records(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = writer(home)
    fill(spool)

    def handler(*_: object) -> None:
        spool.put(2, 7, 0.0, 0.0)
        raise Alarm

    real = os.posix_fallocate

    def fallocate(*arguments: int) -> None:
        real(*arguments)
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", fallocate)
            with pytest.raises(Alarm):
                spool.put(1, SLOTS_PER_SEGMENT, 0.0, 0.0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(list(spool.directory.path.glob("*.seg"))) == 1
    assert spool.put(1, SLOTS_PER_SEGMENT, 0.0, 0.0)
    assert spool.close(remove=False) == 0
    items = on_disk(spool.directory.path)
    assert numbered(items, 1) == list(range(SLOTS_PER_SEGMENT + 1))
    assert numbered(items, 2) == [7]
