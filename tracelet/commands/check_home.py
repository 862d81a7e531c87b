"""Where everything lies: the home, its disk, the socket, the log, the spools, the credentials."""

from __future__ import annotations

import importlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tracelet.commands.findings import Finding, ok, problem, warning
from tracelet.core.filesystem import file_system
from tracelet.core.home import asked_home, usable_home
from tracelet.core.options import Options
from tracelet.errors import TraceletError
from tracelet.spoolfile import SpoolDirectory

__all__ = ["findings"]

_ABOUT: Final = "places"
_SHORT: Final = 1024**3  # a spool may want that much, and the log as much again


def findings(options: Options) -> tuple[Path | None, list[Finding]]:
    """Look at the home and all that is in it.

    Args:
        options: the settings.

    Returns:
        The home that is used, None when none can be; and what there is to say.
    """
    asked = asked_home(options.home)
    system = file_system(asked)
    try:
        home = usable_home(options.home, tell=False)
    except TraceletError as error:
        return None, [problem(_ABOUT, "home", str(error), "export TRACELET_HOME=/a/folder/that/you/can/write/to")]
    return home, [
        _home(asked, home, "" if system is None else system.kind, remote=system is not None and not system.own),
        *_rights(home),
        _disk(home),
        _socket(home),
        ok(_ABOUT, "log", f"{home / 'log'}, {_bytes(_size(home / 'log'))}"),
        _spools(home),
        *_damaged(home),
        *_credentials(home),
    ]


def _home(asked: Path, home: Path, kind: str, remote: bool) -> Finding:
    on = f" ({kind})" if kind else ""
    if remote and home == asked:
        text = f"{home} is on a network file system{on}, and this machine has no other place for it"
        return warning(_ABOUT, "home", text, "export TRACELET_HOME=/a/folder/on/a/local/disk")
    if remote:
        text = f"{asked} is on a network file system{on}: on this machine, {home} stands for it"
        return warning(
            _ABOUT, "home", text, "fine as it is; export TRACELET_HOME=/a/folder/on/a/local/disk to choose another"
        )
    if home != asked:
        text = f"{asked} cannot be used, so {home} is, which may not survive a reboot"
        return warning(_ABOUT, "home", text, f"make {asked} writable, or export TRACELET_HOME=/another/folder")
    return ok(_ABOUT, "home", f"{home}{on}")


def _rights(home: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o022:
        yield warning(_ABOUT, "home", f"others may write to it (mode {mode:o})", f"chmod 700 {home}")


def _disk(home: Path) -> Finding:
    disk = shutil.disk_usage(home)
    text = f"{_bytes(disk.free)} free of {_bytes(disk.total)}"
    room = importlib.import_module("tracelet_collector.log.room")  # the collector's own figures
    if disk.free < room.WATERMARK:
        return problem(
            _ABOUT, "disk", f"{text}: the collector takes nothing, records wait in their spools", "make room"
        )
    if disk.free < _SHORT:
        return warning(
            _ABOUT, "disk", f"{text}: it may not last for a long run", "make room, or choose another TRACELET_HOME"
        )
    return ok(_ABOUT, "disk", text)


def _socket(home: Path) -> Finding:
    place = importlib.import_module("tracelet_collector.home")
    try:
        return ok(_ABOUT, "socket", str(place.socket_path(home)))
    except TraceletError as error:
        return problem(_ABOUT, "socket", str(error), "mend one of these folders, or set XDG_RUNTIME_DIR")


def _spools(home: Path) -> Finding:
    number = sum(1 for _ in SpoolDirectory.under(home))
    return ok(_ABOUT, "spools", f"{home / 'spool'}, {number} there, {_bytes(_size(home / 'spool'))}")


def _damaged(home: Path) -> Iterator[Finding]:
    folder = home / "spool-damaged"
    try:
        number = sum(1 for _ in folder.iterdir())
    except OSError:
        return
    if number:
        text = f"{number} in {folder}, {_bytes(_size(folder))}: what they hold is in no tracker"
        yield warning(_ABOUT, "damaged spools", text, "collector.log says why; delete them when you need them no more")


def _credentials(home: Path) -> Iterator[Finding]:
    folder = home / "credentials"
    try:
        entries = sorted(folder.glob("*.json"))
        open_ones = [path for path in entries if path.stat().st_mode & 0o077]
    except OSError as error:
        yield problem(_ABOUT, "credentials", f"{folder} cannot be read: {error.strerror}", f"chmod 700 {folder}")
        return
    if open_ones:
        text = f"others may read {', '.join(path.name for path in open_ones)}: no worker takes them so"
        yield problem(_ABOUT, "credentials", text, f"chmod 600 {folder}/*.json")
    else:
        yield ok(_ABOUT, "credentials", f"{folder}, {len(entries)} stored")


def _size(folder: Path) -> int:
    """The bytes that a folder takes on the disk."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue  # gone meanwhile
    return total


def _bytes(number: int) -> str:
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
