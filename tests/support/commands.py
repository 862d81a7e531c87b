"""The `tracelet` command, run as people run it: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import BUSY

TRACELET = str(Path(sys.executable).parent / "tracelet")
BIN = str(Path(sys.executable).parent)


def run(
    *words: str | os.PathLike[str],
    cwd: Path,
    given: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end; `python` in it is the Python of the tests."""
    variables = os.environ | {"PATH": BIN + os.pathsep + os.environ["PATH"]} | (environment or {})
    return subprocess.run(
        [os.fspath(word) for word in words],
        cwd=cwd,
        env=variables,
        input=given,
        capture_output=True,
        text=True,
        timeout=seconds * BUSY,
        check=False,
    )


def tracelet(
    *words: str | os.PathLike[str],
    cwd: Path,
    given: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run `tracelet` with these arguments."""
    return run(TRACELET, *words, cwd=cwd, given=given, environment=environment, seconds=seconds)
