"""The Python that will run the user's script: whether tracelet and the backends are there, where our files are in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracelet.core.targets import TRACKERS, check_installed
from tracelet.errors import BackendNotInstalledError, ConfigurationError, UnknownBackendError
from tracelet.frameworks.table import plugin_modules
from tracelet.launch.command import Command, Kind

__all__ = ["Interpreter", "examine"]

_DEADLINE = 60.0
# What decides which packages an interpreter sees.
_SCOPE = "EIPSs"
_ASK = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import importlib.util, json
found = {name: importlib.util.find_spec(name) for name in sys.argv[2:]}
plugins = []
if found["tracelet"] and sys.argv[1] == "plugins":
    try:
        from tracelet.frameworks.table import plugin_modules
        plugins = plugin_modules()
    except Exception:  # the process that records says what is wrong; its own modules are listened to all the same
        pass
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "found": {name: spec is not None for name, spec in found.items()},
    "tracelet": found["tracelet"] and found["tracelet"].origin,
    "plugins": plugins,
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that has tracelet.

    Attributes:
        path: the program.
        version: major.minor.
        launch: the folder of its tracelet that holds `runner.py` and `inject/`.
        plugins: the modules that the frameworks of other packages listen to there.
    """

    path: str
    version: str
    launch: Path
    plugins: tuple[str, ...] = ()


def examine(command: Command, backends: Sequence[str], *, plugins: bool) -> Interpreter:
    """Check the Python of a command: its own, or for a command that is no Python, the one that tracelet runs in.

    Args:
        command: the command.
        backends: the trackers that it delivers to.
        plugins: ask for the frameworks of other packages.

    Raises:
        UnknownBackendError: a backend that tracelet does not have.
        BackendNotInstalledError: that Python lacks the package of a backend.
        ConfigurationError: that Python has no tracelet.
    """
    for kind in backends:
        if kind not in TRACKERS:
            raise UnknownBackendError(kind, tuple(TRACKERS))
    if command.kind is Kind.PROGRAM or (_is_this(command.program) and not command.letters & set(_SCOPE)):
        for kind in backends:
            check_installed(kind)
        version = "{}.{}".format(*sys.version_info[:2])
        return Interpreter(sys.executable, version, Path(__file__).parent, tuple(plugin_modules()) if plugins else ())
    return _ask(command, backends, plugins)


def _is_this(program: str) -> bool:
    """Whether a path is this very Python: the same binary, and the same virtual environment."""
    mine, other = Path(sys.executable).absolute(), Path(program).absolute()
    return mine.parent == other.parent and mine.resolve() == other.resolve()


def _ask(command: Command, backends: Sequence[str], plugins: bool) -> Interpreter:
    scope = [f"-{letter}" for letter in _SCOPE if letter in command.letters]
    typed = " ".join([command.program, *scope])
    modules = ["tracelet", *(TRACKERS[kind].module for kind in backends)]
    try:
        answer = subprocess.run(
            [command.program, *scope, "-c", _ASK, "plugins" if plugins else "", *modules],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE,
            check=True,
        )
        told = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        words = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        why = words[-1] if words else str(error)
        raise ConfigurationError(f"cannot find out whether {typed} has tracelet: {why}") from error
    launch = Path(told["tracelet"] or "").parent / "launch"
    if not told["tracelet"] or not (launch / "runner.py").is_file():
        raise ConfigurationError(
            f"{typed} has no tracelet, so nothing of the script could be recorded. "
            f"Install it:  {command.program} -m pip install tracelet"
        )
    for kind in backends:
        module, package = TRACKERS[kind].module, TRACKERS[kind].package
        if not told["found"][module]:
            raise BackendNotInstalledError(kind, package, command.program)
    return Interpreter(command.program, told["version"], launch, tuple(told["plugins"]))
