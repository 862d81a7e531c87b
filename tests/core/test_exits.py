"""How a process ends, as far as Python code can see it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import partial

import pytest

import tracelet
from tests.support.clients import Client, client
from tracelet import exits
from tracelet.core.metrics import RunEnd, RunStatus
from tracelet.testing import capture

FINISHED, FAILED, KILLED = RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), (FAILED, "ValueError: x")),
        (ValueError(), (FAILED, "ValueError")),
        (Unspeakable(), (FAILED, "Unspeakable")),
        (KeyboardInterrupt(), (KILLED, "KeyboardInterrupt")),
        (type("SIGTERMException", (SystemExit,), {})(), (KILLED, "SIGTERM")),
        (type("SIGTERMException", (Exception,), {})(), (FAILED, "SIGTERMException")),
        (asyncio.CancelledError(), (KILLED, "CancelledError")),
        (SystemExit(0), (FINISHED, "")),
        (SystemExit(None), (FINISHED, "")),
        (SystemExit(3), (FAILED, "exit code 3")),
        (SystemExit(-1), (FAILED, "exit code 255")),
        (SystemExit("no data"), (FAILED, "exit code 1")),
        (GeneratorExit(), (FINISHED, "")),
    ],
    ids=repr,
)
def test_what_an_exception_makes_of_a_run(error: BaseException, expected: tuple[RunStatus, str]) -> None:
    assert exits.of_exception(error) == expected


def test_a_code_that_is_given_while_interrupted() -> None:
    def leave(code: int) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(code)

    for code, expected in ((1, (KILLED, "KeyboardInterrupt")), (0, (FINISHED, ""))):
        with pytest.raises(SystemExit) as left:
            leave(code)
        assert exits.of_exception(left.value) == expected


def test_an_exception_that_passes_by_is_how_it_ends() -> None:
    seen = []

    def train() -> None:
        try:
            raise ValueError("x")
        finally:
            seen.append(exits.outcome())

    with pytest.raises(ValueError, match="x"):
        train()
    assert seen == [(FAILED, "ValueError: x")]
    assert exits.outcome() == (FINISHED, "")


def test_an_exception_that_was_there_when_the_run_began_is_not() -> None:
    try:
        raise MemoryError
    except MemoryError:
        began_during = exits.under_way()
        assert exits.outcome(began_during) == (FINISHED, "")
        try:
            raise KeyError("y")
        except KeyError:
            assert exits.outcome(began_during) == (FAILED, "KeyError: 'y'")


def test_the_end_of_an_iterator_is_no_failure() -> None:
    try:
        next(iter(()))
    except StopIteration:
        assert exits.outcome() == (FINISHED, "")


def test_what_was_caught_is_the_scripts_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "last_value", ValueError("of another test"), raising=False)
    exits.install()
    try:
        with pytest.raises(SystemExit):
            sys.exit(2)
        assert exits.outcome() == (FINISHED, "")
    finally:
        exits.uninstall()


@pytest.mark.parametrize("status", [0, 3, -1, 256, None, "words", True, 2.5, [1], (4,), (), SystemExit(5)], ids=repr)
def test_sys_exit_raises_what_it_would(status: object) -> None:
    with pytest.raises(SystemExit) as plain:
        sys.exit(status)  # type: ignore[arg-type]
    exits.install()
    try:
        with pytest.raises(SystemExit) as watched:
            sys.exit(status)  # type: ignore[arg-type]
    finally:
        exits.uninstall()
    assert repr(watched.value) == repr(plain.value)


def test_a_status_that_cannot_be_compared() -> None:
    class Strange:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("incomparable")

        __hash__ = None  # type: ignore[assignment]

    exits.install()
    try:
        with pytest.raises(SystemExit):
            sys.exit(Strange())  # type: ignore[arg-type]
    finally:
        exits.uninstall()


def test_sys_exit_is_put_back_only_while_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "_installed", None)  # W&B, where another test has used it, stays on top of ours for good
    monkeypatch.setattr(sys, "exit", partial(sys.exit))
    before = sys.exit
    exits.install()
    exits.install()
    assert sys.exit is not before
    exits.uninstall()
    assert sys.exit is before

    exits.install()
    ours = sys.exit
    monkeypatch.setattr(sys, "exit", partial(ours))  # another tool, on top
    theirs = sys.exit
    exits.uninstall()
    assert sys.exit is theirs
    monkeypatch.setattr(sys, "exit", ours)
    exits.install()
    exits.uninstall()
    assert sys.exit is before


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


ENDS = {
    "finally, exception": ("try: raise RuntimeError('boom')\nfinally: tracelet.stop_logging()", 1, "failed"),
    "except, exception": ("try: raise RuntimeError('boom')\nexcept RuntimeError: tracelet.stop_logging()", 0, "failed"),
    "caught before the stop": ("try: 1 / 0\nexcept ZeroDivisionError: pass\ntracelet.stop_logging()", 0, "finished"),
    "with, sys.exit(0)": ("with run: sys.exit(0)", 0, "finished"),
    "with, sys.exit(3)": ("with run: sys.exit(3)", 3, "failed"),
    "with, in a handler": ("try: 1 / 0\nexcept ZeroDivisionError:\n    with run: pass", 0, "finished"),
    "sys.exit(-1)": ("sys.exit(-1)", 255, "failed"),
    "sys.exit in finally": ("try: sys.exit(4)\nfinally: tracelet.stop_logging()", 4, "failed"),
    "sys.exit, caught, then a stop": (
        "try: sys.exit(4)\nexcept SystemExit: pass\ntracelet.stop_logging()",
        0,
        "finished",
    ),
    "sys.exit, stop in the user's atexit": (
        "import atexit; atexit.register(tracelet.stop_logging); sys.exit(5)",
        5,
        "failed",
    ),
    "exception, stop in the user's atexit": (
        "import atexit; atexit.register(tracelet.stop_logging); 1 / 0",
        1,
        "failed",
    ),
    "interrupted in with": ("with run: raise KeyboardInterrupt", -2, "killed"),
    "sys.exit while interrupted": (
        "try: raise KeyboardInterrupt\nexcept KeyboardInterrupt: sys.exit(1)",
        1,
        "killed",
    ),
    "sys.exit while interrupted, caught": (
        "try:\n    try: raise KeyboardInterrupt\n    except KeyboardInterrupt: sys.exit(1)\nexcept SystemExit: pass",
        0,
        "finished",
    ),
    "a thread's sys.exit": ("t = threading.Thread(target=sys.exit, args=(6,)); t.start(); t.join()", 0, "finished"),
}


@pytest.mark.parametrize("end", ENDS)
def test_ends(shared: Client, end: str) -> None:
    code, exit_code, word = ENDS[end]
    done = shared.run(f"run = tracelet.start_logging(exp_name={end!r})\nrun.log_metric('a', 1.5, 0)\n" + code)
    assert done.code == exit_code, done.err
    assert "tracelet:" not in done.err
    assert shared.status(end) == word
    assert shared.points(end, "a") == [(0, 1.5)]


def test_why_it_ended_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "squirrel-7")
    with pytest.raises(RuntimeError), capture() as cap, tracelet.start_logging("x"):
        raise RuntimeError(f"401 for squirrel-7 at https://me:pw@host/, api_key='k' {'.' * 480} hf_{'a' * 600}")
    (end,) = [record for _, record in cap._records() if isinstance(record, RunEnd)]
    assert end.reason.startswith("RuntimeError: 401 for REDACTED at https://REDACTED@host/, api_key='REDACTED' ...")
    assert len(end.reason) == 500
    assert "hf_a" not in end.reason
