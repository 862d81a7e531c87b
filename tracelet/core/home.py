"""tracelet's home: where spools, the local collector's log and its endpoint lie."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tracelet.errors import HomeError
from tracelet.guard import say

__all__ = ["default_home", "usable_home"]


def default_home() -> Path:
    """The platform's state directory for tracelet."""
    from platformdirs import user_state_path

    return user_state_path("tracelet")


def usable_home(asked: str | os.PathLike[str] | None) -> Path:
    """A home that can be written to, made when it is not there.

    Args:
        asked: the user's choice; None for the default, or, when that cannot be written to, a private temporary folder.

    Raises:
        HomeError: the user's choice cannot be used.
    """
    if asked is not None:
        home = Path(asked).expanduser().absolute()
        if problem := _problem(home):
            raise HomeError(home, problem)
        return home
    home = default_home()
    if not (problem := _problem(home)):
        return home
    import tempfile  # takes longer than all of this file

    folder = Path(tempfile.gettempdir()) / f"tracelet-{os.getuid()}"
    fallback = folder / "home"
    # Anybody may make a folder of that name there, and the collector puts its socket into this one only when it is private.
    if other := _unfit(folder) or _problem(fallback):
        raise HomeError(home, f"{problem}; neither can {fallback}: {other}")
    say(f"cannot use {home} ({problem}); records are kept in {fallback}, which may not survive a reboot")
    return fallback


def _unfit(folder: Path) -> str | None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return f"{folder} is not a folder of this user's alone"
    return None


def _problem(home: Path) -> str | None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid != os.getuid():
            return "it belongs to another user"
        probe = home / f".probe-{os.urandom(8).hex()}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None
