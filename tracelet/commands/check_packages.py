"""What is installed, and whether it will do. Nothing is imported for it: that may take seconds, or fail."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from tracelet.commands.findings import Finding, ok, problem, warning
from tracelet.core.options import Options
from tracelet.core.targets import check_key, shown
from tracelet.errors import TraceletError
from tracelet.version import __version__

__all__ = ["findings", "installed", "numbers"]

_ABOUT: Final = "installed"
# What tracelet itself cannot do without -> the oldest version that will do.
_NEEDED: Final = {
    "grpcio": "1.75.1",
    "grpcio-health-checking": "1.75",
    "protobuf": "6.31.1",
    "wrapt": "1.16",
    "pydantic": "2.7",
    "pydantic-settings": "2.3",
    "platformdirs": "4",
    "rich": "13",
    "typer": "0.12",
}
_LIBRARIES: Final = (
    "torch", "tensorboard", "tensorboardX", "lightning", "pytorch-lightning", "transformers", "accelerate", "fastai",
    "formed", "optuna", "ray", "mlflow", "mlflow-skinny", "wandb", "clearml",
)  # fmt: skip
_PYTHON: Final = (3, 10)


def installed(package: str) -> str | None:
    """The version of an installed package; None when it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """A version's leading numbers: what versions are compared by here."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def findings(options: Options) -> Iterator[Finding]:
    """Look at the packages of this Python.

    Args:
        options: the settings; the trackers among them must be installed.
    """
    yield ok(_ABOUT, "tracelet", __version__)
    yield _python()
    for package, oldest in _NEEDED.items():
        yield _needed(package, oldest)
    yield _wrapt_extension()
    for package in _LIBRARIES:
        yield ok(_ABOUT, package, installed(package) or "not installed")
    for kind in options.backend:
        yield _backend(kind)


def _python() -> Finding:
    text = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < _PYTHON:
        return problem(_ABOUT, "python", text, f"use Python {'.'.join(map(str, _PYTHON))} or later")
    if os.name != "posix":
        return problem(_ABOUT, "python", f"{text}, on {platform.system()}", "use Linux or macOS (on Windows: WSL 2)")
    return ok(_ABOUT, "python", text)


def _needed(package: str, oldest: str) -> Finding:
    remedy = f"{sys.executable} -m pip install '{package}>={oldest}'"
    version = installed(package)
    if version is None:
        return problem(_ABOUT, package, "not installed, and tracelet does not work without it", remedy)
    if numbers(version) < numbers(oldest):
        return problem(_ABOUT, package, f"{version} is older than {oldest}, the oldest that will do", remedy)
    return ok(_ABOUT, package, version)


def _wrapt_extension() -> Finding:
    try:
        spec = importlib.util.find_spec("wrapt._wrappers")
    except ImportError:
        spec = None
    if spec is None or spec.origin is None or spec.origin.endswith(".py"):
        return warning(
            _ABOUT,
            "wrapt's C extension",
            "missing: each captured call costs several times more",
            f"{sys.executable} -m pip install --force-reinstall wrapt",
        )
    if os.environ.get("WRAPT_DISABLE_EXTENSIONS"):
        return warning(
            _ABOUT,
            "wrapt's C extension",
            "switched off: each captured call costs several times more",
            "unset WRAPT_DISABLE_EXTENSIONS",
        )
    return ok(_ABOUT, "wrapt's C extension", "there")


def _backend(kind: str) -> Finding:
    subject = f"backend {kind}"
    try:
        target = shown(kind)
    except TraceletError as error:
        return problem(_ABOUT, subject, f"start_logging would fail: {error}", _line_that_installs(str(error)))
    try:
        check_key(kind)
    except TraceletError as error:
        return warning(
            _ABOUT, subject, f"start_logging fails, unless the script gives it api_key: {error}", "see the message"
        )
    return ok(_ABOUT, subject, f"a run that is started here goes to {target}")


def _line_that_installs(message: str) -> str:
    _, found, line = message.partition("Install it:  ")
    return line if found else "see the message"
