"""Where a benchmark ran: what its figures mean nothing without."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["describe"]


def describe(folder: Path, packages: Iterable[str]) -> dict[str, str]:
    """The machine, the file system that the benchmark writes to, and the versions of what it measures."""
    said = {
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    for package in ("tracelet", *packages):
        try:
            said[package] = version(package)
        except PackageNotFoundError:
            continue
    return said


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_system(folder: Path) -> str:
    """Type of the mount that holds a folder: in memory, an fsync costs nothing, and a durable log is no benchmark."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    held = [(mount[1], mount[2]) for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(held, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]
