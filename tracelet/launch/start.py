"""Starts the command of `tracelet run`: checks first what can be checked, then hands over."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping, Sequence

from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.core.targets import check
from tracelet.errors import ConfigurationError
from tracelet.frameworks.table import FRAMEWORKS, kind_of
from tracelet.guard import guard, say
from tracelet.launch.arguments import Asked
from tracelet.launch.command import Command, Kind, understand
from tracelet.launch.environment import leave
from tracelet.launch.identifying import identify
from tracelet.launch.interpreter import Interpreter, examine

__all__ = ["start"]


def start(words: Sequence[str], asked: Asked) -> int:
    """Run a command as a run.

    A Python command replaces this process. Any other becomes a child.

    Args:
        words: what was typed after the options.
        asked: the options.

    Returns:
        The exit code of a command that became a child.

    Raises:
        TraceletError: the command was not started; the message says why.
    """
    command = understand(words)
    said = {"run_name": asked.name, "project": asked.project, "backend": asked.backend}
    options = Options.load().override(**said, id=asked.id, resume=asked.resume)
    if options.disabled:
        _replace(command.program, _plain(command), os.environ)
    home = usable_home(options.home)
    for kind in options.backend:
        check(kind)
    interpreter = examine(command, options.backend, plugins=options.plugins)
    modules = (*_intercepted(), *interpreter.plugins)
    run_id, goes_on = identify(options, asked, home, words)
    environment = leave(os.environ, asked, options.home, command, interpreter, modules, run_id=run_id, goes_on=goes_on)
    if command.kind is Kind.PROGRAM:
        return _accompany(command, environment)
    if command.ignores_environment:
        _say_what_is_missed(command)
    if not command.kind.has_runner:
        _replace(command.program, _plain(command), environment)
    _replace(command.program, _with_runner(command, interpreter), environment)
    raise AssertionError("exec returned")


def _intercepted() -> tuple[str, ...]:
    """The modules whose import makes a process of the run record: what is intercepted, and `start_logging`."""
    return ("tracelet.interface", *(kind_of(identifier).module for identifier in FRAMEWORKS))


def _plain(command: Command) -> list[str]:
    """The command line as it was meant."""
    first = {Kind.MODULE: ["-m"], Kind.CODE: ["-c"]}.get(command.kind, [])
    target = [command.target] if command.kind.has_runner else []
    return [command.word, *command.flags, *first, *target, *command.arguments]


def _with_runner(command: Command, interpreter: Interpreter) -> list[str]:
    runner = str(interpreter.launch / "runner.py")
    return [command.word, *command.flags, runner, command.kind.value, command.target, *command.arguments]


def _replace(program: str, words: list[str], environment: Mapping[str, str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program, words, dict(environment))
    except OSError as error:
        raise ConfigurationError(f"cannot start {program}: {error.strerror}") from error


def _say_what_is_missed(command: Command) -> None:
    typed = "-I" if "I" in command.letters else "-E"
    if command.kind.has_runner:
        say(
            f"python {typed} ignores PYTHONPATH: the script is recorded, but not the Python processes that it starts with "
            f"the same option, as multiprocessing does"
        )
    else:
        say(f"python {typed} ignores PYTHONPATH: nothing that it runs from its input or a prompt is recorded")


def _accompany(command: Command, environment: Mapping[str, str]) -> int:
    from tracelet.launch.forward import describe, die_of, run_child

    child = run_child(command.program, [command.word, *command.arguments], environment)
    killed_by = 0

    def die_likewise() -> None:
        if killed_by:
            die_of(killed_by)

    atexit.register(die_likewise)  # registered first: called last
    os.environ.update(environment)
    from tracelet import exits
    from tracelet.launch import closing
    from tracelet.provenance import facts

    facts.of_command([command.word, *command.arguments])
    with guard("beginning the run"):
        closing.begin()

    def begin_soon() -> bool:
        # Not only at the end: killed, this process would leave a run that nobody ends.
        with guard("beginning the run"):
            return closing.begin_if_others_recorded(ask=False)
        return True

    code = child.wait(begin_soon)
    with guard("noting the command's end"):
        exits.note(code, describe(code))
        closing.begin_if_others_recorded()
    if code < 0:
        killed_by = -code
        return 128 - code
    return code
