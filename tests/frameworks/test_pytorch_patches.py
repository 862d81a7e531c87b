"""Patches go on and come off: early names and writers, subclasses, other tools on top, starting and stopping again."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wrapt
from torch.utils import tensorboard
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard import SummaryWriter as EarlyName

from tests.support import runs
from tests.support.spool_points import points
from tracelet import frameworks
from tracelet.frameworks.pytorch import PyTorchFramework

ORIGINAL = SummaryWriter.__dict__["add_scalar"]
early_function = SummaryWriter.add_scalar


def steps(home: Path) -> list[int]:
    return [p.step for p in points(home)]


def test_names_and_writers_from_before_the_start_are_recorded(tmp_path: Path, home: Path) -> None:
    writer, bound = SummaryWriter(str(tmp_path)), None
    writer.add_scalar("a", 1.0, 0)
    with runs.running(home):
        bound = writer.add_scalar
        writer.add_scalar("a", 1.0, 1)
        EarlyName(str(tmp_path)).add_scalar("a", 1.0, 2)
        tensorboard.SummaryWriter(str(tmp_path)).add_scalar("a", 1.0, 3)
    writer.add_scalar("a", 1.0, 4)
    bound("a", 1.0, 5)
    assert steps(home) == [1, 2, 3]


def test_subclasses_record_each_call_once(tmp_path: Path, home: Path) -> None:
    class Prefixed(SummaryWriter):  # type: ignore[misc]
        def __init__(self, folder: str) -> None:
            super().__init__(log_dir=folder)

        def add_scalar(self, tag: str, value: float, *args: Any, **kwargs: Any) -> None:
            super().add_scalar(f"sub/{tag}", value, *args, **kwargs)

        def add_scalars(self, main_tag: str, values: dict[str, float], step: int) -> None:
            for tag, value in values.items():
                self.add_scalar(f"{main_tag}/{tag}", value, step)

    class Twice(Prefixed):
        def add_scalar(self, tag: str, value: float, *args: Any, **kwargs: Any) -> None:
            super().add_scalar(tag, value, *args, **kwargs)
            super().add_scalar(f"{tag}/squared", value**2, *args, **kwargs)

    with runs.running(home):
        Prefixed(str(tmp_path)).add_scalar("a", 1.0, 1)
        Prefixed(str(tmp_path)).add_scalars("m", {"x": 2.0}, 2)
        Twice(str(tmp_path)).add_scalar("b", 3.0, 3)
    assert [(p.tag, p.value) for p in points(home)] == [
        ("sub/a", 1.0),
        ("sub/m/x", 2.0),
        ("sub/b", 3.0),
        ("sub/b/squared", 9.0),
    ]


def test_a_subclass_that_skips_the_base_constructor_is_recorded(tmp_path: Path, home: Path) -> None:
    class Own(SummaryWriter):  # type: ignore[misc]
        def __init__(self, writer: SummaryWriter) -> None:
            self._writer = writer

        def _get_file_writer(self) -> Any:
            return self._writer._get_file_writer()

    with runs.running(home):
        Own(SummaryWriter(str(tmp_path))).add_scalar("a", 1.0, 1)
    assert [(p.name, p.log_dir) for p in points(home)] == [("a", "")]


def test_the_class_looks_the_same(tmp_path: Path, home: Path) -> None:
    signature, doc = inspect.signature(SummaryWriter.add_scalar), SummaryWriter.add_scalar.__doc__
    made = inspect.signature(SummaryWriter)
    with runs.running(home):
        assert inspect.signature(SummaryWriter.add_scalar) == signature
        assert inspect.signature(SummaryWriter) == made
        assert SummaryWriter.add_scalar.__doc__ == doc
        assert SummaryWriter.add_scalar.__name__ == "add_scalar"
        assert isinstance(SummaryWriter(str(tmp_path)), EarlyName)
        assert pickle.loads(pickle.dumps(SummaryWriter)) is SummaryWriter


def depth(function: Any) -> int:
    """How many wrappers lie around torch's own function."""
    found = 0
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function, found = inner, found + 1
    return found


def test_start_and_stop_five_times(tmp_path: Path, home: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step in range(5):
        with runs.running(home):
            writer.add_scalar("a", 1.0, step)
            assert depth(SummaryWriter.__dict__["add_scalar"]) == 1
        assert SummaryWriter.__dict__["add_scalar"] is ORIGINAL
        writer.add_scalar("a", 1.0, -1)
    assert sorted(steps(home)) == [0, 1, 2, 3, 4]


def test_installing_again_while_a_run_goes_on_changes_nothing(tmp_path: Path, home: Path) -> None:
    with runs.running(home):
        before = SummaryWriter.__dict__["add_scalar"]
        for _ in range(3):
            PyTorchFramework.install()
        assert SummaryWriter.__dict__["add_scalar"] is before
        SummaryWriter(str(tmp_path)).add_scalar("a", 1.0, 1)
    assert steps(home) == [1]
    frameworks.uninstall_all()
    frameworks.uninstall_all()


Tool = Callable[[list[int]], Callable[[], None]]
kept_original: Any = None


def by_closure(seen: list[int]) -> Callable[[], None]:
    original = SummaryWriter.add_scalar

    def patched(self: Any, tag: str, value: Any, step: Any = None, *args: Any, **kwargs: Any) -> Any:
        seen.append(step)
        return original(self, tag, value, step, *args, **kwargs)

    SummaryWriter.add_scalar = patched

    def undo() -> None:
        SummaryWriter.add_scalar = original

    return undo


def by_global(seen: list[int]) -> Callable[[], None]:
    global kept_original
    kept_original = SummaryWriter.add_scalar

    def patched(self: Any, tag: str, value: Any, step: Any = None) -> Any:
        seen.append(step)
        return kept_original(self, tag, value, step)

    SummaryWriter.add_scalar = patched

    def undo() -> None:
        SummaryWriter.add_scalar = kept_original

    return undo


def by_functools(seen: list[int]) -> Callable[[], None]:
    original = SummaryWriter.__dict__["add_scalar"]

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[3])
        return original.__get__(args[0])(*args[1:], **kwargs)

    SummaryWriter.add_scalar = patched

    def undo() -> None:
        SummaryWriter.add_scalar = original

    return undo


def by_wrapt(seen: list[int]) -> Callable[[], None]:
    original = SummaryWriter.__dict__["add_scalar"]

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(args[2])
        return wrapped(*args, **kwargs)

    SummaryWriter.add_scalar = wrapt.FunctionWrapper(original, wrapper)

    def undo() -> None:
        SummaryWriter.add_scalar = original

    return undo


def by_registry(seen: list[int]) -> Callable[[], None]:
    """Nobody can find out from outside what this one calls."""
    originals = {"add_scalar": SummaryWriter.__dict__["add_scalar"]}

    class Patched:
        def __get__(self, writer: Any, owner: Any) -> Any:
            return functools.partial(self.call, writer)

        def call(self, writer: Any, tag: str, value: Any, step: Any) -> Any:
            seen.append(step)
            return originals["add_scalar"].__get__(writer)(tag, value, step)

    SummaryWriter.add_scalar = Patched()

    def undo() -> None:
        SummaryWriter.add_scalar = originals["add_scalar"]

    return undo


TOOLS = [by_closure, by_global, by_functools, by_wrapt, by_registry]


@pytest.mark.parametrize("tool", TOOLS)
def test_another_tool_on_top_keeps_its_patch_and_points_come_once(tmp_path: Path, home: Path, tool: Tool) -> None:
    writer, seen = SummaryWriter(str(tmp_path)), list[int]()
    run = runs.start(home)
    undo = tool(seen)
    theirs = SummaryWriter.__dict__["add_scalar"]
    try:
        writer.add_scalar("a", 1.0, 0)
        runs.stop(run)
        assert SummaryWriter.__dict__["add_scalar"] is theirs
        writer.add_scalar("a", 1.0, -1)
        for step in range(1, 5):
            with runs.running(home):
                writer.add_scalar("a", 1.0, step)
                assert depth(SummaryWriter.__dict__["add_scalar"]) <= 3
            assert SummaryWriter.__dict__["add_scalar"] is theirs
            writer.add_scalar("a", 1.0, -1)
        assert seen == [0, -1, 1, -1, 2, -1, 3, -1, 4, -1]
        assert sorted(steps(home)) == [0, 1, 2, 3, 4]
    finally:
        undo()
        with runs.running(home):  # it put ours back: from here on it is ours again, and comes off
            writer.add_scalar("a", 1.0, 5)
    assert sorted(steps(home)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("tool", TOOLS)
def test_another_tool_that_takes_its_patch_off_in_the_middle(tmp_path: Path, home: Path, tool: Tool) -> None:
    writer, seen = SummaryWriter(str(tmp_path)), list[int]()
    with runs.running(home):
        undo = tool(seen)
        writer.add_scalar("a", 1.0, 0)
        undo()
        writer.add_scalar("a", 1.0, 1)
    assert (seen, steps(home)) == ([0], [0, 1])


@pytest.mark.parametrize("tool", TOOLS)
def test_another_tool_on_top_when_a_second_run_starts(tmp_path: Path, home: Path, tool: Tool) -> None:
    writer, seen = SummaryWriter(str(tmp_path)), list[int]()
    with runs.running(home):
        undo = tool(seen)
        PyTorchFramework.install()
        writer.add_scalar("a", 1.0, 0)
    undo()
    assert (seen, steps(home)) == ([0], [0])
    PyTorchFramework.install()
    PyTorchFramework.uninstall()


@pytest.mark.parametrize("tool", TOOLS)
def test_another_tool_below_keeps_its_patch(tmp_path: Path, home: Path, tool: Tool) -> None:
    writer, seen = SummaryWriter(str(tmp_path)), list[int]()
    undo = tool(seen)
    try:
        theirs = SummaryWriter.__dict__["add_scalar"]
        for step in range(3):
            with runs.running(home):
                writer.add_scalar("a", 1.0, step)
            assert SummaryWriter.__dict__["add_scalar"] is theirs
    finally:
        undo()
    assert (seen, sorted(steps(home))) == ([0, 1, 2], [0, 1, 2])


def test_a_tool_that_put_torchs_own_function_back_is_wrapped_again(tmp_path: Path, home: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    with runs.running(home):
        writer.add_scalar("a", 1.0, 0)
        SummaryWriter.add_scalar = ORIGINAL
    with runs.running(home):
        writer.add_scalar("a", 1.0, 1)
    assert sorted(steps(home)) == [0, 1]
    assert SummaryWriter.__dict__["add_scalar"] is ORIGINAL


def test_our_own_fault_costs_one_line_and_the_call_returns(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACELET_RAISE_INTERNAL", "0")
    writer = SummaryWriter(str(tmp_path))
    with runs.running(home) as run:
        monkeypatch.setattr(run, "record", None)
        for step in range(3):
            assert writer.add_scalar("a", 0.1, step) is None
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("tracelet: recording SummaryWriter.add_scalar failed (TypeError")


# -- in a fresh interpreter: what is imported when, what is missing

PRELUDE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support import runs
from tests.support.spool_points import points
home, folder = Path(sys.argv[1]), sys.argv[2]
"""


def fresh(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [
            sys.executable,
            "-c",
            PRELUDE.format(root=root) + textwrap.dedent(code),
            str(tmp_path / "home"),
            str(tmp_path),
        ],
        env={**os.environ, "TRACELET_RAISE_INTERNAL": "0", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_imported_after_the_start(tmp_path: Path) -> None:
    done = fresh(
        tmp_path,
        """
        for _ in range(3):
            runs.stop(runs.start(home))
        with runs.running(home) as run:
            assert "torch" not in sys.modules
            assert "pytorch" in run._frameworks
            from torch.utils.tensorboard import SummaryWriter
            SummaryWriter(folder).add_scalar("a", 0.1, 3)
        print([(p.name, p.value, p.step) for p in points(home)])
        """,
        TRACELET_RAISE_INTERNAL="1",
    )
    assert (done.stdout, done.stderr) == ("[('a', 0.1, 3)]\n", "")


def test_imported_when_no_run_is_left(tmp_path: Path) -> None:
    done = fresh(
        tmp_path,
        """
        runs.stop(runs.start(home))
        from torch.utils.tensorboard import SummaryWriter
        print(hasattr(SummaryWriter.add_scalar, "__wrapped__"))
        with runs.running(home):
            SummaryWriter(folder).add_scalar("a", 0.1, 3)
        print(len(points(home)))
        """,
        TRACELET_RAISE_INTERNAL="1",
    )
    assert (done.stdout, done.stderr) == ("False\n1\n", "")


def test_without_tensorboard_the_run_works_and_says_nothing(tmp_path: Path) -> None:
    done = fresh(
        tmp_path,
        """
        sys.modules["tensorboard"] = None  # as if it were not installed
        with runs.running(home) as run:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                print(error)
            run._frameworks["pytorch"].log_metric("fallback", 1.0, 0)
        print([p.name for p in points(home)])
        """,
    )
    assert done.stdout.splitlines()[1:] == ["['fallback']"]
    assert "tensorboard" in done.stdout
    assert done.stderr == ""


def test_a_class_that_cannot_be_patched_costs_one_line(tmp_path: Path) -> None:
    done = fresh(
        tmp_path,
        """
        import types, torch
        for when in ("before", "after"):
            name = "torch.utils.tensorboard.writer"
            run = runs.start(home)  # the first waits for the import, the second finds the module
            if when == "before":
                import importlib.abc, importlib.machinery
                class Strange(importlib.abc.MetaPathFinder, importlib.abc.Loader):
                    def find_spec(self, wanted, path, target=None):
                        return importlib.machinery.ModuleSpec(name, self) if wanted == name else None
                    def exec_module(self, module):
                        module.SummaryWriter = type("SummaryWriter", (), {})
                        module.FileWriter = None
                sys.meta_path.insert(0, Strange())
                import torch.utils.tensorboard
            run._frameworks["pytorch"].log_metric("fallback", 1.0, 0)
            runs.stop(run)
        print([p.name for p in points(home)])
        """,
    )
    assert done.stdout == "['fallback', 'fallback']\n", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracelet: intercepting pytorch failed (KeyError: '__init__')")


def test_without_wrapts_extension_points_are_recorded_and_one_line_says_that_it_is_slow(tmp_path: Path) -> None:
    done = fresh(
        tmp_path,
        """
        from torch.utils.tensorboard import SummaryWriter
        for step in range(2):
            with runs.running(home):
                SummaryWriter(folder).add_scalar("a", 0.1, step)
        print(sorted(p.step for p in points(home)))
        """,
        WRAPT_DISABLE_EXTENSIONS="1",
        TRACELET_RAISE_INTERNAL="1",
    )
    assert done.stdout == "[0, 1]\n", done.stderr
    (line,) = done.stderr.splitlines()
    assert "wrapt" in line
