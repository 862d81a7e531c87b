"""Brings numbers that lie on devices to the host, without a wait in the training thread.

What lies on the CPU is read where it is. What lies on an accelerator is gathered: all numbers of a step become one tensor
there, which goes to the host in one copy that nobody waits for; a thread of ours, started when the first such number is met,
records them when they have arrived, with the step and the time that they had.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tracelet.core.labels import MEASURED
from tracelet.core.metrics import MetaValue, MetricType
from tracelet.frameworks.tensors import on_host
from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Point", "Reader"]

_TICK: Final = 0.1  # seconds that terms wait for the step they belong to


class Point(NamedTuple):
    """A number to record, which may lie on a device.

    Attributes:
        name: of the metric.
        value: a number, or a tensor of one element that nobody changes any more.
        kind: its type.
        step: None counts per name.
        metadata: what belongs to it.
        judge: makes what is recorded of the number that was read; None for nothing.
        log_dir: whose name it is.
    """

    name: str
    value: Any
    kind: MetricType
    step: int | None
    metadata: Mapping[str, MetaValue] = {}
    judge: Callable[[float], float | None] | None = None
    log_dir: str = MEASURED


def _is_late(tensor: Any) -> bool:
    return not tensor.is_cpu


class _Late:
    """Numbers on their way to the host."""

    def __init__(self, run: Experiment, points: list[tuple[Point, float]], arrive: Callable[[], list[float]]) -> None:
        self._run = run
        self._points = points
        self._arrive = arrive
        self._claimed: dict[str, object] = {}
        self._done = False

    def settle(self, deadline: float = 0.0) -> None:
        """Wait for the numbers and record them. Where another thread is at it, wait for that."""
        mine = object()
        if self._claimed.setdefault("by", mine) is not mine:
            while not self._done and time.monotonic() < deadline:
                time.sleep(0.001)
            return
        try:
            for (point, wall_time), value in zip(self._points, self._arrive(), strict=True):
                _record(self._run, point, value, wall_time)
        finally:
            self._done = True


class Reader:
    """Reads and records the numbers of one run."""

    def __init__(self, run: Experiment) -> None:
        self._run = run
        self._waiting: deque[tuple[Point, float]] = deque()
        self._marks: deque[Callable[[], Any]] = deque(maxlen=1000)
        self._under_way: deque[_Late] = deque()
        self._promised: dict[str, object] = {}
        _readers.add(self)

    def read(self, points: Iterable[Point]) -> None:
        """Record what can be read now, and send for the rest, with all that waits."""
        wall_time, run = time.time(), self._run
        for point in points:
            if type(point.value) is float and point.judge is None:
                run.record_point(
                    point.name, point.value, point.kind, point.step, wall_time, point.metadata, point.log_dir
                )
            else:
                self._take(point, wall_time)
        if self._waiting:
            self._send()

    def add(self, points: Iterable[Point]) -> None:
        """The same, but what lies on a device waits a little for the step that it belongs to."""
        wall_time, waited = time.time(), bool(self._waiting)
        for point in points:
            self._take(point, wall_time)
        if not self._waiting:
            return
        self._marks.append(_mark(self._waiting[-1][0].value))
        if not waited:
            self._promise()
            _thread().put(partial(self._send_from_here, time.monotonic() + _TICK))

    def finish(self, seconds: float = 2.0) -> None:
        """Record all that is still under way: the run is about to end."""
        deadline = time.monotonic() + seconds
        self._send_from_here()
        while self._under_way:
            try:
                self._under_way.popleft().settle(deadline)
            except IndexError:
                return

    def leave_parent(self) -> None:
        """This process was forked: what is under way, and the thread, are the parent's."""
        self._waiting.clear()
        self._marks.clear()
        self._under_way.clear()
        self._promised.clear()

    def _take(self, point: Point, wall_time: float) -> None:
        value = point.value
        if not hasattr(value, "data_ptr"):
            _record(self._run, point, float(value), wall_time)
        elif _is_late(value):
            self._waiting.append((point, wall_time))
        elif (number := on_host(value)) is not None:
            _record(self._run, point, number, wall_time)

    def _send(self) -> None:
        points = []
        try:
            while True:
                points.append(self._waiting.popleft())
        except IndexError:
            pass
        if not points:
            return
        self._promise()
        late = _Late(self._run, points, _copied([point.value for point, _ in points]))
        self._under_way.append(late)
        _thread().put(partial(self._settle, late))

    def _send_from_here(self, due: float = 0.0) -> None:
        """The same in our thread, which is on another stream than the one that computes the numbers."""
        time.sleep(max(0.0, due - time.monotonic()))
        while self._marks:
            try:
                self._marks.popleft()()
            except IndexError:
                break
        self._send()

    def _settle(self, late: _Late) -> None:
        late.settle()
        try:
            self._under_way.remove(late)
        except ValueError:
            pass

    def _promise(self) -> None:
        mine = object()
        if self._promised.setdefault("finish", mine) is mine:
            self._run.occasions.before_end(self.finish)


def _copied(tensors: list[Any]) -> Callable[[], list[float]]:
    """Begin to copy tensors of one element each to the host; what is returned waits for them."""
    torch = sys.modules["torch"]
    with torch.no_grad():
        device = tensors[0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        flat = [tensor.detach().reshape(()).to(device=device, dtype=wide, non_blocking=True) for tensor in tensors]
        stacked = torch.stack(flat)
        if device.type != "cuda":
            return stacked.tolist  # type: ignore[no-any-return]
        with torch.cuda.device(device):
            host = torch.empty(len(tensors), dtype=wide, pin_memory=True)
            host.copy_(stacked, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()

    def arrive() -> list[float]:
        arrived.synchronize()
        return host.tolist()  # type: ignore[no-any-return]

    return arrive


def _mark(tensor: Any) -> Callable[[], Any]:
    """What waits until a tensor is computed."""
    if not tensor.is_cuda:
        return lambda: None
    torch = sys.modules["torch"]
    with torch.cuda.device(tensor.device):
        computed = torch.cuda.Event()
        computed.record()
    return computed.synchronize  # type: ignore[no-any-return]


def _record(run: Experiment, point: Point, value: float, wall_time: float) -> None:
    recorded = value if point.judge is None else point.judge(value)
    if recorded is not None:
        run.record_point(point.name, recorded, point.kind, point.step, wall_time, point.metadata, point.log_dir)


_slot: dict[str, SimpleQueue[Callable[[], Any]]] = {}
_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


def _thread() -> SimpleQueue[Callable[[], Any]]:
    """What the thread does next; it is started when it is asked for first. No lock: putting may be interrupted by putting."""
    mine: SimpleQueue[Callable[[], Any]] = SimpleQueue()
    queue = _slot.setdefault("queue", mine)
    if queue is mine:
        try:
            threading.Thread(target=_work, args=(queue,), name="tracelet-reading", daemon=True).start()
        except RuntimeError:  # too many threads, or the interpreter is about to exit: the run's end reads what is left
            _slot.pop("queue", None)
    return queue


def _work(queue: SimpleQueue[Callable[[], Any]]) -> None:
    while True:
        call = queue.get()
        try:
            call()
        except Exception as error:
            try:
                swallow("reading numbers from a device", error)
            except Exception:  # under our own tests
                sys.excepthook(type(error), error, error.__traceback__)
        del call


def _leave_parent() -> None:
    _slot.clear()
    for reader in list(_readers):
        reader.leave_parent()


os.register_at_fork(after_in_child=_leave_parent)
