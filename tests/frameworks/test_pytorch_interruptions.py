"""Calls in the middle of calls: signal handlers, `__del__`, threads. Nothing is lost, nothing comes twice, nothing hangs."""

from __future__ import annotations

import faulthandler
import gc
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

import tracelet
from tests.support import runs
from tests.support.spool_points import points

OURS = str(Path(tracelet.__file__).parent)


class Late(Exception):
    """What a user's handler raises."""


@pytest.fixture(autouse=True)
def _a_deadlock_is_told() -> Iterator[None]:
    faulthandler.dump_traceback_later(100, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@contextmanager
def on_signal(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def signal_at(opcode: int) -> Iterator[list[str]]:
    """A signal before the n-th opcode of tracelet's own code that this thread runs. The list tells where it struck."""
    count = 0
    struck: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if count == opcode:
                struck.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                count += 1
                signal.raise_signal(signal.SIGUSR1)
            count += 1
        return trace

    sys.settrace(trace)
    try:
        yield struck
    finally:
        sys.settrace(None)


def test_a_handler_that_logs_at_any_moment_of_a_call(tmp_path: Path, home: Path) -> None:
    writer, other = SummaryWriter(str(tmp_path / "main")), SummaryWriter(str(tmp_path / "other"))
    with runs.running(home), on_signal(lambda *_: other.add_scalar("handler", 0.5, 0)):
        opcode, places = 0, set[str]()
        while True:
            with signal_at(opcode) as struck:
                writer.add_scalar("main", 0.25, opcode)
            if not struck:
                break
            places.update(struck)
            opcode += 1
    assert opcode > 100
    assert len(places) > 15
    got = Counter((p.tag, p.step) for p in points(home))
    assert got == Counter({("main", step): 1 for step in range(opcode + 1)} | {("handler", 0): opcode})


@pytest.mark.parametrize("same", [True, False], ids=["same names", "new names"])
def test_a_handler_that_logs_while_a_writer_is_met(tmp_path: Path, home: Path, same: bool) -> None:
    """The first point of a writer decides labels, in a file that processes share, and defines its name."""
    opcode, tried = 0, 0
    while True:
        writers = [SummaryWriter(str(tmp_path / name)) for name in ("train", "val")]
        tag = "loss" if same else "handler's"
        with runs.running(home) as run, on_signal(lambda *_, w=writers, t=tag: w[1].add_scalar(t, 0.5, 1)):
            with signal_at(opcode) as struck:
                writers[0].add_scalar("loss", 0.25, 0)
            labels = run._labels.decisions()
        got = sorted((p.name, p.step) for p in points(home, run.id))
        if not struck:
            break
        assert len(got) == 2, struck
        assert len({name for name, _ in got}) == 2, struck
        assert set(labels.values()) in ({"", "val"}, {"", "train"}, {"train", "val"}), struck
        tried += 1
        opcode += 37
    assert tried > 20


@pytest.mark.parametrize("raised", [Late, TimeoutError, KeyboardInterrupt])
def test_what_a_handler_raises_reaches_the_user(
    tmp_path: Path, home: Path, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")  # with it, everything would
    writer = SummaryWriter(str(tmp_path))

    def handler(*_: Any) -> None:
        raise raised("from the user's handler")

    with runs.running(home), on_signal(handler):
        writer.add_scalar("main", 0.5, -1)
        opcode, interrupted = 0, list[str]()
        while True:
            with signal_at(opcode) as struck:
                try:
                    writer.add_scalar("main", 0.25, opcode)
                except raised as error:
                    interrupted.append(str(error))
            if not struck:
                break
            opcode += 1
        assert interrupted == ["from the user's handler"] * opcode
        assert opcode > 100
        writer.add_scalar("main", 0.5, opcode + 1)
    got = Counter(p.step for p in points(home))
    assert max(got.values()) == 1  # a call that was interrupted may or may not have been recorded, but never twice
    assert {-1, opcode, opcode + 1} <= set(got)


def test_a_handler_on_a_timer(tmp_path: Path, home: Path) -> None:
    main, other = SummaryWriter(str(tmp_path / "main")), SummaryWriter(str(tmp_path / "other"))
    called = 0
    inside = False

    def handler(*_: Any) -> None:
        nonlocal called, inside
        if not inside:  # TensorBoard's own queue has a lock: one writer must not be entered twice
            inside = True
            other.add_scalar("handler", 0.5, called)
            called += 1
            inside = False

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with runs.running(home):
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            for step in range(5000):
                main.add_scalar("main", 0.25, step)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    got = points(home)
    assert called > 10
    assert [p.step for p in got if p.tag == "main"] == list(range(5000))
    assert [p.step for p in got if p.tag == "handler"] == list(range(called))


def test_a_del_that_logs_in_the_middle_of_a_call(tmp_path: Path, home: Path) -> None:
    main, other = SummaryWriter(str(tmp_path / "main")), SummaryWriter(str(tmp_path / "other"))
    logged = 0

    class Logs:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            nonlocal logged
            other.add_scalar("del", 0.5, logged)
            logged += 1

    threshold = gc.get_threshold()
    with runs.running(home):
        gc.set_threshold(3, 1, 1)
        try:
            for step in range(3000):
                Logs()
                main.add_scalar("main", 0.25, step)
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
    got = points(home)
    assert [p.step for p in got if p.tag == "main"] == list(range(3000))
    assert [p.step for p in got if p.tag == "del"] == list(range(logged)) == list(range(3000))


def test_eight_threads_with_their_own_and_a_shared_writer(tmp_path: Path, home: Path) -> None:
    shared = SummaryWriter(str(tmp_path / "shared"))
    own = [SummaryWriter(str(tmp_path / f"thread{n}")) for n in range(8)]
    start = threading.Barrier(8, timeout=120)
    failed: list[BaseException] = []

    def log(number: int) -> None:
        try:
            start.wait()
            for step in range(400):
                shared.add_scalar(f"tag{step % 7}", number / 8, step * 8 + number)
                own[number].add_scalar("own", step / 3, step)
                if step % 50 == 0:
                    own[number].add_scalars("both", {"a": 1.0, "b": 2.0}, step)
        except BaseException as error:
            failed.append(error)

    with runs.running(home) as run:
        threads = [threading.Thread(target=log, args=(n,), daemon=True) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
        labels = run._labels.decisions()
    got = points(home)
    assert len(got) == 8 * (400 + 400 + 16)
    assert sorted(p.step for p in got if p.log_dir.endswith("shared")) == list(range(3200))
    for number in range(8):
        folder = str(tmp_path / f"thread{number}")
        mine = [(p.name, p.value, p.step) for p in got if p.log_dir == folder and p.tag == "own"]
        assert mine == [(f"{labels[folder]}/own", step / 3, step) for step in range(400)]
    assert sorted(labels.values()) == sorted(["shared", *(f"thread{n}" for n in range(8))]) or "" in labels.values()
    assert len(set(labels.values())) == 9
