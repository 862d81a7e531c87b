"""Processes of a test: who serves a home, and whether they are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

T = TypeVar("T")

# Deadlines are for an idle machine; one that others use as well gets so many times as long. They pass only where something is
# broken.
BUSY = 4


def until(condition: Callable[[], T], seconds: float = 20.0, what: str = "") -> T:
    """Wait for a condition to become true, as long as `BUSY` says; its value."""
    deadline = time.monotonic() + seconds * BUSY
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * BUSY:g} s: {what or condition}")
        time.sleep(0.02)


def collector_pid(home: Path) -> int | None:
    """The process that announced itself as the home's collector, if it lives."""
    try:
        pid = int(json.loads((home / "endpoint.json").read_text())["pid"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return pid if lives(pid) else None


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before the opening, or after it
        return False


def children_with(pid: int, word: str) -> list[psutil.Process]:
    """The children of a process that have a word in their command line; none of those that end meanwhile."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # also a zombie, which has no command line
            if word in " ".join(child.cmdline()):
                found.append(child)
    return found


def wait_gone(pid: int, seconds: float) -> bool:
    """Wait for the end of a process."""
    deadline = time.monotonic() + seconds * BUSY
    while lives(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def end_all_of(home: Path) -> None:
    """End the processes that a test which failed has left: they have its home, a private one, in their environment."""
    mark = f"TRACELET_HOME={home}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            if pid != os.getpid() and mark in (process / "environ").read_bytes() + b"\0":
                os.kill(pid, signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue  # ended meanwhile; somebody else's


def stop_collector(home: Path) -> None:
    """End the collector of a home, if there is one."""
    if (pid := collector_pid(home)) is not None:
        os.kill(pid, signal.SIGTERM)
        if not wait_gone(pid, 5):
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid, 5)


@contextmanager
def mounted(folder: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of its own size; the test is skipped, aloud, where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
