"""What can be said of the process, its machine and its packages without asking another program. Nothing here raises."""

from __future__ import annotations

import fnmatch
import json
import os
import platform
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from tracelet.provenance.secrets import is_secret, redacted_arguments, redacted_text

__all__ = [
    "ENVIRONMENT",
    "command",
    "command_line",
    "environment",
    "host",
    "of_command",
    "of_main",
    "packages",
    "quoted",
    "script",
    "script_path",
]

# Variables that change what a training does, or say where it ran. Each is told only where it is set.
ENVIRONMENT: Final = (
    "CONDA_DEFAULT_ENV",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MKL_NUM_THREADS",
    "NODE_RANK",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_PARTITION",
    "SLURM_NNODES",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "VIRTUAL_ENV",
    "WORLD_SIZE",
)
_FIELD: Final = re.compile(r"^(Name|Version):[ \t]*(.+?)\s*$", re.MULTILINE)
_command: list[str] = []
_main: list[str] = []


def of_command(words: Sequence[str]) -> None:
    """This process stands for another program's: that one's command line is the run's."""
    _command[:] = words


def of_main(path: str | None) -> None:
    """The main module's file, if it has one: at the script's end Python forgets it."""
    _main[:] = [path] if path else []


def command_line() -> list[str]:
    """The command line, as it was typed, without secrets; the interpreter's own path is shortened to its name."""
    if _command:
        return redacted_arguments(_command)
    words = list(map(str, getattr(sys, "orig_argv", None) or [sys.executable, *getattr(sys, "argv", ())]))
    return redacted_arguments([os.path.basename(words[0]), *words[1:]]) if words else []


def command(directory: str) -> bytes:
    """The command line and how the interpreter was started, in which directory, as JSON."""
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if _is_flag(name)}
    said: dict[str, Any] = {
        "arguments": command_line(),
        "directory": redacted_text(directory),
        "executable": sys.executable,
        "flags": {name: value for name, value in flags.items() if value not in (0, False)},
        "warnings": sys.warnoptions,
    }
    return _json(said)


def script_path() -> str:
    """The script, absolute; of a program that came with a package, or is no Python, the file that it was given; or empty."""
    path = getattr(sys.modules.get("__main__"), "__file__", None) or next(iter(_main), None)
    words = _command or [str(word) for word in getattr(sys, "argv", ())]
    if _command or (isinstance(path, str) and _is_installed(path)):
        path = next((word for word in words[1:] if word.endswith((".py", ".sh")) and os.path.isfile(word)), None)
    with suppress(OSError):
        return os.path.abspath(path) if isinstance(path, str) and not path.startswith("<") else ""
    return ""


def _is_installed(path: str) -> bool:
    places = (os.path.join(sys.prefix, "bin"), os.path.join(sys.base_prefix, "bin"))
    return f"{os.sep}site-packages{os.sep}" in path or os.path.abspath(path).startswith(places)


def script() -> str:
    """The script's path, below the working directory if it is there; empty for a prompt or a notebook."""
    path = script_path()
    with suppress(OSError, ValueError):
        here = os.getcwd()
        if os.path.commonpath([path, here]) == here:
            return redacted_text(os.path.relpath(path, here))
    return redacted_text(path)


def environment(more: Sequence[str]) -> bytes:
    """The variables that may be told, as JSON.

    Args:
        more: names, or patterns with `*`, beside `ENVIRONMENT`. A name that looks like a secret's is never told.
    """
    names = list(os.environ)
    wanted = {name for name in names if any(fnmatch.fnmatchcase(name, each) for each in (*ENVIRONMENT, *more))}
    said = {name: redacted_text(os.environ.get(name, "")) for name in sorted(wanted) if not is_secret(name)}
    return _json(said)


@cache
def host() -> Mapping[str, str]:
    """Tags of the machine and the Python."""
    said = {
        "host.name": _said(socket.gethostname),
        "user.name": _said(_user),
        "python.version": _said(_python),
        "os": _said(_system),
        "cpu": _said(_cpu),
    }
    return {name: value for name, value in said.items() if value}


@cache
def packages() -> bytes:
    """What is installed: a line `name==version` for each, sorted, as importlib.metadata has it."""
    from importlib import metadata

    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        # Read by hand: parsing each as a mail takes ten times as long.
        text = _said(lambda of=distribution: of.read_text("METADATA") or of.read_text("PKG-INFO") or "")  # type: ignore[misc]
        fields = dict(reversed(_FIELD.findall(text.partition("\n\n")[0])))
        name = fields.get("Name", "")
        if name and "Version" in fields:
            found.setdefault(
                re.sub(r"[-_.]+", "-", name).lower(), f"{name}=={fields['Version']}"
            )  # the first on the path
    return "".join(f"{line}\n" for _, line in sorted(found.items())).encode(errors="replace")


def _is_flag(name: str) -> bool:
    return not name.startswith(("_", "n_")) and name not in ("count", "index")


def _python() -> str:
    return platform.python_version()  # a file of the user's may have that module's name


def _user() -> str:
    import getpass

    return getpass.getuser()


def _system() -> str:
    kernel = os.uname()
    with suppress(OSError, AttributeError):
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel.sysname} {kernel.release} {kernel.machine}"
    mac = platform.mac_ver()[0]
    return f"macOS {mac} {kernel.machine}" if mac else f"{kernel.sysname} {kernel.release} {kernel.machine}"


def _cpu() -> str:
    model = ""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+?)\s*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1] if found else ""
    return f"{os.cpu_count() or 1} x {model or platform.machine()}"


def _said(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception:  # a folder that is gone, a user without a name, a package that is half there
        return ""


def _json(said: Any) -> bytes:
    return (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")


def quoted(words: Sequence[str]) -> str:
    """A command line as a shell takes it."""
    return shlex.join(words)
