"""Every exception that tracelet raises into its caller.

    TraceletError
    ├── ConfigurationError        a setting or an argument that makes no sense (also a ValueError)
    │   └── UnknownBackendError   a backend that tracelet does not have
    ├── BackendNotInstalledError  a backend was asked for whose package is missing (also an ImportError)
    ├── HomeError                 TRACELET_HOME cannot be used
    └── CollectorError            no collector could be reached or started

Only `start_logging`, the command line and constructors raise them: intercepted calls and `log_*` never raise.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BackendNotInstalledError",
    "CollectorError",
    "ConfigurationError",
    "HomeError",
    "TraceletError",
    "UnknownBackendError",
]


class TraceletError(Exception):
    """Base of all of tracelet's exceptions."""


class ConfigurationError(TraceletError, ValueError):
    """A setting or an argument makes no sense; the message names it and says what would."""


class UnknownBackendError(ConfigurationError):
    """A backend was named that tracelet does not have."""

    def __init__(self, backend: str, known: tuple[str, ...]) -> None:
        self.backend = backend
        self.known = known
        super().__init__(f"unknown backend {backend!r}; choose from: {', '.join(known)}")


class BackendNotInstalledError(TraceletError, ImportError):
    """A backend was asked for, but its package is not installed for this Python."""

    def __init__(self, backend: str, package: str, interpreter: str) -> None:
        self.backend = backend
        self.package = package
        self.interpreter = interpreter
        TraceletError.__init__(
            self,
            f"backend {backend!r} needs the package {package!r}, which {interpreter} does not have. "
            f"Install it:  {interpreter} -m pip install 'tracelet[{backend}]'",
        )


class HomeError(TraceletError, OSError):
    """TRACELET_HOME (or the default state directory) cannot be used."""

    def __init__(self, home: Path, problem: str) -> None:
        self.home = home
        self.problem = problem
        TraceletError.__init__(
            self, f"cannot use {home} to keep records: {problem}. Set TRACELET_HOME to a directory you can write to."
        )


class CollectorError(TraceletError):
    """No collector could be reached or started; the message says what is kept and where."""
