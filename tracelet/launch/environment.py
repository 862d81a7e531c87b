"""What `tracelet run` leaves in the environment: for the user's process, and for every process below it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tracelet.core.plan import new_run_id
from tracelet.launch.arguments import Asked
from tracelet.launch.command import Command
from tracelet.launch.interpreter import Interpreter

__all__ = ["leave"]


def leave(
    given: Mapping[str, str],
    asked: Asked,
    home: Path | None,
    command: Command,
    interpreter: Interpreter,
    modules: tuple[str, ...],
    run_id: str = "",
    goes_on: bool = False,
) -> dict[str, str]:
    """The environment of a command.

    Args:
        given: the environment of `tracelet run`.
        asked: its options.
        home: tracelet's home, if the user chose one.
        command: what it starts.
        interpreter: the Python that has tracelet there.
        modules: modules whose import makes a child of the command record.
        run_id: the run's id; by default a new one.
        goes_on: it was begun before.

    Returns:
        All variables. A run has one id, name and owner in all of its processes; the owner is this process, whose id the
        command keeps. Nested in another `tracelet run` whose command is this process, it is the same run.
    """
    environment = dict(given)
    me = str(os.getpid())
    nested = "TRACELET_RUN_ID" in given and given.get("TRACELET_RUN_OWNER") == me
    if not nested:
        environment["TRACELET_RUN_ID"] = run_id or new_run_id()
        environment["TRACELET_RUN_OWNER"] = me
        environment["TRACELET_RUN_DIR"] = str(Path.cwd())
        for of_another in ("TRACELET_RUN_HOME", "TRACELET_RUN_JOB", "TRACELET_RUN_GOES_ON", "TRACELET_ID"):
            environment.pop(of_another, None)
        if goes_on:
            environment["TRACELET_RUN_GOES_ON"] = "1"
        if given.get("TRACELET_RUN_OWNER"):
            # The name, and that it was given, are those of the run that this process was started in.
            environment.pop("TRACELET_RUN_NAME", None)
            environment.pop("TRACELET_RUN_NAME_GIVEN", None)
        elif "TRACELET_RUN_NAME" in given:
            environment["TRACELET_RUN_NAME_GIVEN"] = "1"
    if asked.name is not None:
        environment["TRACELET_RUN_NAME"] = asked.name
        environment["TRACELET_RUN_NAME_GIVEN"] = "1"
    environment.setdefault("TRACELET_RUN_NAME", f"{command.title}-{time.strftime('%Y%m%d-%H%M%S')}")
    if asked.project is not None:
        environment["TRACELET_PROJECT"] = asked.project
    if asked.backend is not None:
        environment["TRACELET_BACKEND"] = asked.backend
    if asked.resume is not None:
        environment["TRACELET_RESUME"] = asked.resume
    if asked.wait:
        environment["TRACELET_WAIT"] = "1"
    if home is not None:
        environment["TRACELET_HOME"] = str(home)  # absolute: a process of the run may work in another folder
    environment["TRACELET_PYTHON"] = interpreter.version
    environment["TRACELET_MODULES"] = ",".join(modules)
    environment["PYTHONPATH"] = _first(str(interpreter.launch / "inject"), given.get("PYTHONPATH", ""))
    return environment


def _first(folder: str, path: str) -> str:
    # An empty entry is the working folder: it stays.
    rest = [entry for entry in path.split(os.pathsep) if entry != folder] if path else []
    return os.pathsep.join([folder, *rest])
