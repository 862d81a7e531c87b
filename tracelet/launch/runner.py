"""Stands in front of the user's script: runs it as plain python would, in this process, and sees how it ends.

`tracelet run` replaces itself by `python [flags] runner.py KIND TARGET arguments…`, KIND being script, module, code or
archive. The script becomes the real `__main__`: a new module, found in `sys.modules` by pickle, multiprocessing and
inspect. What this file leaves for the interpreter to do is on purpose: it prints the traceback (without our frames), calls
the user's excepthook, joins the user's threads, and gives the exit code, or the death by SIGINT.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

__all__: list[str] = []


def main() -> None:
    """Run what the arguments name."""
    safe = sys.flags.isolated if sys.version_info < (3, 11) else sys.flags.safe_path
    if not safe:
        del sys.path[0]  # this file's folder: its names must not hide the user's modules
    _, kind, target, *arguments = sys.argv
    told = _Told()
    told.begin()
    sys.argv[:] = [{"module": "-m", "code": "-c"}.get(kind, target), *arguments]
    sys.orig_argv[:] = _plain_command_line(sys.orig_argv, kind, target)
    _run(kind, target, bool(safe), told)


def _run(kind: str, target: str, safe: bool, told: _Told) -> None:
    try:
        _execute(kind, target, safe)
    except SystemExit as end:
        code, words = _exit_code(end)
        if code and isinstance(end.__context__, KeyboardInterrupt):  # Lightning's way of ending gracefully
            code, words = -signal.SIGINT, "KeyboardInterrupt"
        elif type(end).__name__ == "SIGTERMException":  # and after SIGTERM
            code, words = -signal.SIGTERM, "SIGTERM"
        told.exit(code, words)
        if sys.flags.inspect:
            _hide_our_frames()  # python -i reports it, and goes on to the prompt
        raise
    except BaseException as error:
        # The interpreter dies of an interrupt by the signal itself.
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        told.exit(code, f"{type(error).__name__}: {error}".removesuffix(": ")[:500], error)
        _hide_our_frames()
        raise
    told.exit(0, "")


def _execute(kind: str, target: str, safe: bool) -> None:
    module = ModuleType("__main__")
    vars(module).update({name: value for name, value in _main_has().items() if name not in vars(module)})
    sys.modules["__main__"] = module
    if kind in {"module", "archive"}:
        import runpy

        # What `python -m` itself calls: its messages, its frames.
        if kind == "archive":
            sys.path.insert(0, _absolute(target))
            runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
            return
        if not safe:
            sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(target)  # type: ignore[attr-defined]
        return
    from importlib.machinery import BuiltinImporter, SourceFileLoader

    if kind == "code":
        if not safe:
            sys.path.insert(0, "")
        module.__loader__ = BuiltinImporter
        exec(compile(target + "\n", "<string>", "exec", dont_inherit=True), vars(module))
        return
    from io import open_code

    if not safe:
        sys.path.insert(0, os.path.dirname(os.path.realpath(target)))
    path = _absolute(target)
    module.__file__ = path
    if "__cached__" in globals():
        vars(module)["__cached__"] = None
    module.__loader__ = SourceFileLoader("__main__", path)
    with open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), vars(module))


def _main_has() -> dict[str, Any]:
    """What this Python puts into a `__main__` before it runs a script."""
    has: dict[str, Any] = {"__builtins__": builtins}
    if "__annotations__" in globals():
        has["__annotations__"] = {}
    return has


def _absolute(path: str) -> str:
    return os.path.join(os.getcwd(), path)  # as Python makes it: not normalised


def _exit_code(end: SystemExit) -> tuple[int, str]:
    """The exit code that the interpreter will make of it, and the reason in words."""
    code: object = end.code
    if code is None or (isinstance(code, int) and code & 0xFF == 0):
        return 0, ""
    if isinstance(code, int):
        return code & 0xFF, f"exit code {code & 0xFF}"
    return 1, f"exit code 1: {code}"[:4000]


def _hide_our_frames() -> None:
    """Have the exception that is about to leave this file reported as if it left the user's.

    The interpreter calls `sys.excepthook`. Ours stands there for that one call: it drops our frames and makes room for the
    hook that was there, the user's or Python's.
    """
    original: Callable[..., Any] | None = getattr(sys, "excepthook", None)
    if original is None:
        return  # deleted by the user; the interpreter has words for that

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        sys.excepthook = original
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.last_traceback = trace
        return original(kind, error.with_traceback(trace), trace)

    sys.excepthook = excepthook


def _plain_command_line(words: list[str], kind: str, target: str) -> list[str]:
    """`sys.orig_argv` without us: what started this process, had it been plain python."""
    if __file__ not in words:
        return words
    ours = words.index(__file__)
    first = {"module": ["-m", target], "code": ["-c", target]}.get(kind, [target])
    return words[:ours] + first + words[ours + 3 :]


class _Told:
    """What tracelet is told. Its faults never reach the script."""

    def begin(self) -> None:
        """The script is about to start."""
        # Our sitecustomize's finder would do the same at the first import that concerns us: at the next line but one.
        sys.meta_path[:] = [finder for finder in sys.meta_path if not getattr(finder, "tracelet_launch", False)]
        try:
            from tracelet.guard import guard
            from tracelet.launch import closing
        except Exception as error:
            sys.stderr.write(f"tracelet: cannot be imported ({type(error).__name__}: {error}); nothing is recorded\n")
            return
        with guard("beginning the run"):
            closing.begin()

    def exit(self, code: int, reason: str, error: BaseException | None = None) -> None:
        """The script is over, with this exit code, or dies of a signal: then minus its number."""
        if "tracelet.launch.closing" not in sys.modules:
            return
        from tracelet import exits
        from tracelet.guard import guard
        from tracelet.launch import closing

        with guard("noting the script's end"):
            exits.note(code, reason)
            if words := closing.worker_reason(error):
                exits.note(code, words)
            closing.begin_if_others_recorded()


main()
