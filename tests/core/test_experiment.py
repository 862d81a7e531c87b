"""What is logged, whoever logs it and however strange it is: recorded as it is, or refused in one line; never an exception."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import runs
from tests.support.clients import Client, client
from tests.support.processes import until
from tests.support.spool_points import points, records_of
from tracelet.core import experiment as experiment_module
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import Gap, Metric, MetricType, Params, RunEnd, RunStatus, Tags
from tracelet.spoolfile import SpoolDirectory
from tracelet.spoolfile.slots import SEGMENT_SIZE, SLOTS_PER_SEGMENT


@pytest.fixture
def run(home: Path) -> Iterator[Experiment]:
    """A run that records into its spool; nothing is started for it."""
    with runs.running(home) as run:
        yield run


def test_values_of_all_kinds(run: Experiment, home: Path) -> None:
    class Half(float):
        pass

    values: list[Any] = [
        1, True, 0.1, -0.0, math.nan, math.inf, 5e-324, 2**60 + 1, Half(0.5), Decimal("0.1"), Fraction(1, 3),
        np.float32(0.1), np.float64(0.1), np.int8(-3), np.bool_(True), np.array(0.25), np.array([[7]]), np.float16(2.0),
        torch.tensor(0.1), torch.tensor([0.1], dtype=torch.float64), torch.tensor(3), torch.tensor(True),
        torch.tensor(0.5, requires_grad=True), torch.tensor(0.1, dtype=torch.bfloat16),
    ]  # fmt: skip
    for step, value in enumerate(values):
        run.log_metric("a", value, step)
    expected = [float(value.item() if isinstance(value, torch.Tensor) else value) for value in values[:16]]
    expected += [7.0, 2.0, *(float(value.item()) for value in values[18:])]
    assert [(p.step, repr(p.value)) for p in points(home)] == [(n, repr(value)) for n, value in enumerate(expected)]


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __float__(self) -> float:
        raise RuntimeError("no number")


HOSTILE: list[Any] = [
    None, "1.5", b"1", "x", [1], {}, object(), 1j, 10**400, np.array([1, 2]), np.array([]), np.array(["x"]), np.str_("1"),
    torch.tensor([1.0, 2.0]), torch.tensor(1j), Hostile(), Exception("x"), type, ...,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_what_is_no_number_costs_one_line(
    run: Experiment, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], value: Any
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    for _ in range(3):
        run.log_metric("bad", value, 1)
    run.log_metric("good", 1.5, 1)
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("tracelet: recording a metric failed (")
    assert [(p.name, p.value) for p in points(home)] == [("good", 1.5)]


@pytest.mark.parametrize("step", ["x", [1], math.nan, math.inf, Hostile(), 10**101, torch.tensor([1, 2])], ids=range(7))
def test_what_is_no_step(run: Experiment, home: Path, monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    run.log_metric("a", 1, step)
    run.log_enhanced("a", 1, "loss", step)
    run.log_metric("a", 2, 0)
    assert [p.value for p in points(home)] == [2.0]


def test_other_calls_with_hostile_input(
    run: Experiment, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    for bad in (3, None, [1], Hostile(), {"x": Hostile()}, {Hostile(): 1}, {"x": "y" * 2_000_000}):
        run.log_params(bad)  # type: ignore[arg-type]
        run.set_tags(bad)  # type: ignore[arg-type]
        run.log_enhanced("m", 1, "loss", 1, bad)  # type: ignore[arg-type]
    for kind in (None, "", " ", 7):
        run.log_enhanced("m", 1, kind, 1)  # type: ignore[arg-type]
    run.log_metric(Hostile(), 1, 1)  # type: ignore[arg-type]
    run.log_params({"lr": 0.1})
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 3  # metrics, parameters, tags
    assert records_of(Params, home)[-1].values == {"lr": 0.1}
    assert [(p.value, p.metadata) for p in points(home)] == [(1.0, {})]  # the metadata that was None


def test_a_step_of_zero_is_zero_and_none_is_counted(run: Experiment, home: Path) -> None:
    for step in (0, None, 0, None, None, 7, None):
        run.log_metric("a", 1, step)
    run.log_metric("b", 1)
    run.log_enhanced("a", 1, "loss")
    found = [(p.name, p.step, p.step_implied) for p in points(home)]
    assert found == [
        ("a", 0, False), ("a", 0, True), ("a", 0, False), ("a", 1, True), ("a", 2, True), ("a", 7, False), ("a", 3, True),
        ("b", 0, True), ("a", 4, True),
    ]  # fmt: skip


def test_steps_of_all_kinds(run: Experiment, home: Path) -> None:
    steps: list[Any] = [
        -1,
        True,
        2**63 - 1,
        -(2**63),
        2**63,
        -(10**99),
        np.int64(3),
        np.uint8(4),
        torch.tensor(5),
        6.0,
        "7",
    ]
    for step in steps:
        run.log_metric("a", 1, step)
    assert [p.step for p in points(home)] == [-1, 1, 2**63 - 1, -(2**63), 2**63, -(10**99), 3, 4, 5, 6, 7]


def test_a_step_that_is_not_whole_is_cut_and_told(
    run: Experiment, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in (0.25, np.float32(1.5), 2.75):
        run.log_metric("a", 1, step)  # type: ignore[arg-type]
    assert [p.step for p in points(home)] == [0, 1, 2]
    assert capfd.readouterr().err.count("steps are whole numbers") == 1


def test_types_and_metadata(run: Experiment, home: Path) -> None:
    run.log_enhanced(
        "m", 1, MetricType.FITNESS, 1, {"n": np.int64(3), "t": torch.tensor(0.5), "s": "x", "o": [1], "b": True}
    )
    run.log_enhanced("m", 2, "my own", 2)
    one, two = points(home)
    assert (one.type, one.metadata) == ("fitness", {"n": 3, "t": 0.5, "s": "x", "o": "[1]", "b": True})
    assert (two.type, two.type_inferred, two.metadata) == ("my own", False, {})


@pytest.mark.parametrize(
    "name", ["", " ", "\0", "a\nb", "ä/µ", "\udcff", "../x", "x" * 300_000, "%s", "{}"], ids=lambda n: repr(n)[:9]
)
def test_names_of_all_kinds(run: Experiment, home: Path, name: str) -> None:
    run.log_metric(name, 1.5, 3)
    (point,) = points(home)
    assert (point.name, point.value, point.step) == (name.replace("\udcff", "?"), 1.5, 3)


def test_tags_as_mapping_and_as_words(run: Experiment, home: Path) -> None:
    run.set_tags({"team": "a", 3: None})
    run.set_tags(["baseline", "v2"])
    assert [tags.values for tags in records_of(Tags, home)] == [
        {"team": "a", "3": "None"},
        {"baseline": "true", "v2": "true"},
    ]


def test_calls_after_the_end_do_nothing_and_say_so(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runs.running(home) as run:
        run.log_metric("a", 1, 1)
        run.stop(RunStatus.FINISHED, "", 0.0)
        before = [spool.path for spool in SpoolDirectory.under(home)]
        run.log_metric("a", 2, 2)
        run.log_params({"lr": 1})
        run.record("a", 3.0, 3, None, "")
        run.writer_seen("runs/a")
    assert [p.value for p in points(home)] == [1.0]
    assert [spool.path for spool in SpoolDirectory.under(home)] == before
    assert capfd.readouterr().err.count("is stopped: what is logged to it now is not recorded") == 1


def test_a_clock_that_stands_still_or_jumps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and streams are told apart all the same, and each point has the clock's time."""
    now = [1.7e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "time_ns", lambda: int(now[0] * 1e9))
    with runs.running(home, run_id="a" * 32) as run:
        for wall in (1.7e9, 1.6e9, -5.0, 0.0):
            now[0] = wall
            run.log_metric("a", 1, 1)
            run._leave_parent()  # as after a fork: a stream of its own follows
        assert [p.wall_time for p in sorted(points(home), key=lambda p: -p.wall_time)] == [1.7e9, 1.6e9, 0.0, -5.0]
        now[0] = 1.7e9
        for _ in range(3):
            run.log_metric("a", 1, 1)
            run._leave_parent()
    assert len(points(home)) == 7
    assert len({spool.path for spool in SpoolDirectory.under(home)}) == 7


def plan(home: Path, **changes: Any) -> RunPlan:
    return RunPlan(uuid.uuid4().hex, "test", "default", (), home, **changes)


def test_the_end_is_recorded_though_there_was_no_room(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At the cap, with points dropped: the gap and the run's end come after all."""
    run = Experiment(plan(home, spool_cap=SEGMENT_SIZE))
    run._forked = True
    run.log_metric("a", 1.0, -1)
    spool = next(iter(run._slot.values())).spool
    kept = sum(spool.put(1, step, 1.0, 1.0) for step in range(SLOTS_PER_SEGMENT + 1000))
    run.stop(RunStatus.FAILED, "why", 0.0)
    assert SLOTS_PER_SEGMENT - 100 < kept < SLOTS_PER_SEGMENT
    (gap,) = records_of(Gap, home)
    assert gap.dropped == SLOTS_PER_SEGMENT + 1000 - kept
    (end,) = records_of(RunEnd, home)
    assert (end.status, end.reason) == (RunStatus.FAILED, "why")
    assert capfd.readouterr().err.count("\n") == 1


def test_a_child_without_sender_keeps_nothing_in_memory_alone(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody would send it: on a full disk its points are dropped, and that is told and counted."""
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(6 * 1024 * 1024))
    run = Experiment(plan(small_disk))
    run._forked = True
    for step in range(1000):
        run.log_metric("a", 1.0, step)
    filler.unlink()
    for step in range(1000, 10_000):
        run.log_metric("a", 1.0, step)
    run.stop(RunStatus.FINISHED, "", 0.0)
    (gap,) = records_of(Gap, small_disk)
    assert gap.dropped + len(points(small_disk)) == 10_000
    assert "dropped, and counted" in capfd.readouterr().err


@pytest.mark.parametrize("room_again", [True, False])
def test_what_was_in_memory_alone_at_the_end(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], room_again: bool
) -> None:
    """No collector took it: it goes to the disk if there is room by now, else it is counted as lost."""
    monkeypatch.setattr(experiment_module, "Sender", _NoSender)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(6 * 1024 * 1024))
    run = Experiment(plan(small_disk))
    for step in range(1000):
        run.log_metric("a", 1.0, step)
    if room_again:
        filler.unlink()
    report = run.stop(RunStatus.FINISHED, "", 0.0)
    assert not report.durable
    if room_again:
        assert report.lost == 0
        assert [p.step for p in points(small_disk)] == list(range(1000))
        assert len(records_of(RunEnd, small_disk)) == 1
    else:
        assert report.lost > 1000
    assert "memory" in capfd.readouterr().err


class _NoSender:
    """A sender that never reaches anybody."""

    durable = 0

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    def finish(self, deadline: float) -> bool:
        return False


def test_no_thread_may_be_started(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """At a limit of threads, or when the interpreter exits: the points are in the spool, and adopted from there."""

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    run = Experiment(plan(home))
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", no_more)
        for step in range(100):
            run.log_metric("a", 1.0, step)
    assert len(list(SpoolDirectory.under(home))) == 1
    run.stop(RunStatus.FINISHED, "", 0.0)
    assert len(points(home)) == 100
    assert capfd.readouterr().err.count("can't start new thread: records are kept in") == 1


def test_a_home_that_is_full_of_something_else(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    (home / "spool").write_text("in the way")
    run = Experiment(plan(home))
    run.begin()
    for step in range(100):
        run.log_metric("a", 1.0, step)
    assert not run.active
    assert run.stop(RunStatus.FINISHED, "", 0.0).durable
    assert capfd.readouterr().err.count("\n") == 1


# -- the whole way to the log


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


def test_a_run_without_points(shared: Client) -> None:
    done = shared.run("tracelet.start_logging(exp_name='empty')")
    assert (done.code, done.err) == (0, "")
    assert shared.status("empty") == "finished"
    state = shared.state("empty")
    assert state is not None
    assert (state.received, state.durable, state.dropped) == (0, 0, 0)


def test_ten_thousand_names(shared: Client) -> None:
    done = shared.run(
        "run = tracelet.start_logging(exp_name='names')\nfor n in range(10_000): run.log_metric(f'layer.{n}/weight', n, n)"
    )
    assert (done.code, done.err) == (0, "")
    assert shared.status("names") == "finished"
    found = [(p.name, p.step, p.value) for p in shared.records("names", Metric)]
    assert found == [(f"layer.{n}/weight", n, float(n)) for n in range(10_000)]


def test_one_line_for_what_cannot_be_recorded(shared: Client) -> None:
    """As users have it: without TRACELET_RAISE_INTERNAL."""
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="hostile")
for step in range(100):
    run.log_metric("bad", "none", step)
    run.log_metric("good", step, step)
""",
        TRACELET_RAISE_INTERNAL=None,
    )
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert "recording a metric failed (TypeError" in done.err
    assert shared.points("hostile", "good") == [(step, float(step)) for step in range(100)]


def test_nothing_is_left_open_and_nothing_warned_of(shared: Client) -> None:
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="dev", config={"lr": 1})
for step in range(1000): run.log_metric("a", step, step)
with tracelet.start_logging(exp_name="dev two") as run: run.log_metric("a", 1, 1)
tracelet.stop_logging()
import gc; gc.collect()
""",
        "-X", "dev", "-W", "error",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")


def test_threads_and_descriptors_do_not_pile_up(shared: Client) -> None:
    done = shared.run(
        """
import gc
def counted():
    gc.collect()
    return [threading.active_count(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))]
found = []
for number in range(20):
    run = tracelet.start_logging(exp_name="cycle")
    run.log_metric("a", number, number)
    if number % 2: tracelet.stop_logging()
    if number in (4, 19):
        tracelet.stop_logging()
        until = time.monotonic() + 20
        while threading.active_count() > 1 and time.monotonic() < until: time.sleep(0.02)
        found.append(counted())
tell(found)
"""
    )
    assert (done.code, done.err) == (0, "")
    early, late = done.told
    assert late[0] == early[0] == 1
    assert late[1] <= early[1] + 2
    assert late[2] <= early[2] + 2


def test_threads_that_log_while_the_run_is_stopped(shared: Client) -> None:
    """What returned before the stop began is in; the others neither raise nor print, and nothing is in twice."""
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="crowd")
returned = [0] * 6
def log(number):
    for step in range(200_000):
        run.record(f"t{number}", float(step), step, None)
        returned[number] = step + 1
sys.setswitchinterval(1e-4)
threads = [threading.Thread(target=log, args=(number,), daemon=True) for number in range(6)]
for thread in threads: thread.start()
while min(returned) < 500: time.sleep(0.001)
before = list(returned)
tracelet.stop_logging()
tell(before)
os._exit(0)
"""
    )
    assert (done.code, done.err) == (0, "")
    assert shared.status("crowd") == "finished"
    for number, before in enumerate(done.told):
        found = [step for step, _ in shared.points("crowd", f"t{number}")]
        assert found == list(range(len(found)))
        assert len(found) >= before


AT_EXIT = {
    # A thread that is no daemon is waited for before anything is stopped.
    "a thread that goes on": """
run = tracelet.start_logging(exp_name=NAME)
def log():
    for step in range(1000):
        run.log_metric("a", step, step)
        if step % 100 == 0: time.sleep(0.01)
threading.Thread(target=log).start()
""",
    "atexit, registered after the start": """
import atexit
run = tracelet.start_logging(exp_name=NAME)
atexit.register(lambda: [run.log_metric("a", step, step) for step in range(1000)])
""",
    "a run that starts at exit": """
import atexit
def late():
    with tracelet.start_logging(exp_name=NAME) as run:
        for step in range(1000): run.log_metric("a", step, step)
atexit.register(late)
""",
    "stopped by a daemon": """
run = tracelet.start_logging(exp_name=NAME)
for step in range(1000): run.log_metric("a", step, step)
stopper = threading.Thread(target=tracelet.stop_logging, daemon=True)
stopper.start()
""",
    "in a child that multiprocessing starts": """
import multiprocessing
def train():
    run = tracelet.start_logging(exp_name=NAME)
    def log():
        for step in range(1000): run.log_metric("a", step, step)
    thread = threading.Timer(0.2, log)
    thread.start()
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=train)
    child.start(); child.join()
    assert child.exitcode == 0
""",
    "in a forked child of a process with a run": """
import multiprocessing
tracelet.start_logging(exp_name="parent").log_metric("a", 1, 1)
until = time.monotonic() + 30
while "tracelet.transport.session" not in sys.modules and time.monotonic() < until: time.sleep(0.01)
def train():
    run = tracelet.start_logging(exp_name=NAME)
    for step in range(1000): run.log_metric("a", step, step)
child = multiprocessing.get_context("fork").Process(target=train)
child.start(); child.join(60)
assert child.exitcode == 0
""",
    "in a child that forked by itself": """
tracelet.start_logging(exp_name="parent").log_metric("a", 1, 1)
until = time.monotonic() + 30
while "tracelet.transport.session" not in sys.modules and time.monotonic() < until: time.sleep(0.01)
if (child := os.fork()) == 0:
    run = tracelet.start_logging(exp_name=NAME)
    for step in range(1000): run.log_metric("a", step, step)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
}


@pytest.mark.parametrize("how", AT_EXIT)
def test_the_end_of_a_process(shared: Client, how: str) -> None:
    done = shared.run(f"NAME = {how!r}\n" + AT_EXIT[how], TRACELET_CHILD_RUNS="new")
    assert (done.code, done.err) == (0, "")
    assert shared.status(how) == "finished"
    assert shared.points(how, "a") == [(step, float(step)) for step in range(1000)]


def test_many_runs_are_waited_for_at_once(home: Path, tmp_path: Path) -> None:
    """At exit, with no collector: a deadline for all of them, not one for each."""
    (home / "log").write_text("in the way")
    done = Client(home, tmp_path).run(
        """
import contextvars
deadlines = []
from tracelet.transport.sender import Sender
finish = Sender.finish
def recorded(self, deadline):
    deadlines.append(deadline)
    tell(deadlines)
    return finish(self, deadline)
Sender.finish = recorded
for number in range(5):
    contextvars.Context().run(tracelet.start_logging, exp_name="one of many").log_metric("a", 1, 1)
""",
        TRACELET_STOP_TIMEOUT="0.5",
    )
    assert done.code == 0
    assert done.err.count("kept in") == done.err.count("\n") == 5
    assert len(done.told) == 5
    assert sum(done.told) <= 0.5


def test_a_child_that_fails(shared: Client) -> None:
    done = shared.run(
        """
import multiprocessing
def train(how):
    tracelet.start_logging(exp_name=how).log_metric("a", 1, 1)
    if how == "child raises": raise RuntimeError("boom")
    if how == "child exits": sys.exit(3)
    os._exit(0)
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    for how in ("child raises", "child exits", "child vanishes"):
        child = context.Process(target=train, args=(how,)); child.start(); child.join()
"""
    )
    assert done.code == 0
    assert "tracelet:" not in done.err
    assert shared.status("child raises") == shared.status("child exits") == "failed"
    assert shared.status("child vanishes") == "killed"


def test_an_interrupt_while_it_stops(shared: Client) -> None:
    """The user's Ctrl-C comes through at once, and nothing is lost by it."""
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="interrupted")
for step in range(1000): run.log_metric("a", step, step)
from tracelet.transport.sender import Sender
wait = Sender.finish
def finish(self, deadline):
    Sender.finish = wait
    raise KeyboardInterrupt
Sender.finish = finish
try: tracelet.stop_logging()
except KeyboardInterrupt: tell("interrupted")
"""
    )
    assert (done.code, done.err, done.told) == (0, "", "interrupted")
    assert shared.status("interrupted") == "finished"
    assert shared.points("interrupted", "a") == [(step, float(step)) for step in range(1000)]


def test_forks_are_silent_and_free(shared: Client) -> None:
    """Forty forks of a process that sends: no word on stderr, and children do as they like."""
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="forks")
children = []
for step in range(40):
    run.log_metric("a", step, step)
    if (child := os.fork()) == 0:
        import asyncio, google.protobuf.json_format, grpc  # what the sender imports, perhaps at this very moment
        if step % 10 == 0: run.log_metric("child", step, step)
        os._exit(0)
    children.append(child)
    time.sleep(0.03)
until = time.monotonic() + 20
ended = []
while len(ended) < 40 and time.monotonic() < until:
    for child in children:
        if child not in ended and os.waitpid(child, os.WNOHANG)[0]: ended.append(child)
    time.sleep(0.01)
for child in set(children) - set(ended): os.kill(child, signal.SIGKILL)
tracelet.stop_logging()
tell(len(ended))
"""
    )
    assert (done.code, done.err, done.told) == (0, "", 40)
    assert shared.status("forks") == "finished"
    assert shared.points("forks", "a") == [(step, float(step)) for step in range(40)]
    until(lambda: len(shared.points("forks", "child")) == 4)


def test_a_forked_child_after_the_end(shared: Client) -> None:
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="over")
run.log_metric("a", 1, 1)
tracelet.stop_logging()
if (child := os.fork()) == 0:
    run.record("a", 2.0, 2, None)
    assert tracelet.get_active_experiment() is None
    tracelet.stop_logging()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    )
    assert (done.code, done.err) == (0, "")
    assert shared.status("over") == "finished"
    assert shared.points("over", "a") == [(1, 1.0)]


def test_an_idle_run_costs_next_to_nothing(shared: Client) -> None:
    """A count of what the sender does, not a time: ten looks a second, and no more."""
    done = shared.run(
        """
run = tracelet.start_logging(exp_name="idle")
run.log_metric("a", 1, 1)
from tracelet.transport import sender
until = time.monotonic() + 30
while run.progress()[1] < run.progress()[0] and time.monotonic() < until: time.sleep(0.01)
looks = []
wait = sender.Sender._wait
def counted(self, seconds):
    looks.append(seconds)
    wait(self, seconds)
sender.Sender._wait = counted
began, cpu = time.monotonic(), time.process_time()
time.sleep(2)
tell([len(looks) / (time.monotonic() - began), (time.process_time() - cpu) / (time.monotonic() - began)])
"""
    )
    assert (done.code, done.err) == (0, "")
    looks, share = done.told
    assert looks < 12
    assert share < 0.2  # of one core; a busy loop takes all of it
