"""tracelet's home: where spools, the local collector's log and its endpoint lie."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from tracelet.core.filesystem import file_system
from tracelet.errors import HomeError
from tracelet.guard import say

__all__ = ["asked_home", "default_home", "local_home", "usable_home"]

# Of this machine's own, as a rule, and kept over a reboot; the folder for temporary files may be memory.
_LOCAL: Final = Path("/var/tmp")


def default_home() -> Path:
    """The platform's state directory for tracelet."""
    from platformdirs import user_state_path

    return user_state_path("tracelet")


def asked_home(asked: str | os.PathLike[str] | None) -> Path:
    """The home that a setting means, whether it can be used or not.

    Args:
        asked: the user's choice; None for the default.
    """
    return Path(asked).expanduser().absolute() if asked is not None else default_home()


def usable_home(asked: str | os.PathLike[str] | None, *, tell: bool = True) -> Path:
    """A home that can be written to, made when it is not there.

    One on a network file system is exchanged for a folder of this machine's own: always the same for the same home. One line
    says so; processes below `tracelet run` leave that to the first.

    Args:
        asked: the user's choice; None for the default, or, when that cannot be written to, a private temporary folder.
        tell: say on stderr when it is another folder than the one that was asked for.

    Raises:
        HomeError: the user's choice cannot be used.
    """
    home = asked_home(asked)
    if (near := local_home(home, tell=tell)) is not None:
        return near
    problem = _problem(home)
    if not problem:
        return home
    if asked is not None:
        raise HomeError(home, problem)
    folder = _temporary() / f"tracelet-{os.getuid()}"
    fallback = folder / "home"
    # Anybody may make a folder of that name there, and the collector puts its socket into this one only when it is private.
    if other := _unfit(folder) or _problem(fallback):
        raise HomeError(home, f"{problem}; neither can {fallback}: {other}")
    if tell:
        say(f"cannot use {home} ({problem}); records are kept in {fallback}, which may not survive a reboot")
    return fallback


def local_home(home: Path, *, tell: bool = True) -> Path | None:
    """The folder of this machine's own that stands for a home on a network file system; made when it is not there.

    Args:
        home: the home.
        tell: say it on stderr.

    Returns:
        None: the home is on a disk of this machine; or it is not, but neither is any other place, and a line says so.
    """
    system = file_system(home)
    if system is None or system.own:
        return None
    tell = tell and "TRACELET_RUN_ID" not in os.environ  # else `tracelet run` has said it
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    for place in dict.fromkeys((_LOCAL, _temporary())):
        folder = place / f"tracelet-{os.getuid()}"
        near = file_system(folder)
        if near is None or not near.own or _unfit(folder) or _problem(folder / name):
            continue
        if tell:
            say(
                f"{home} is on a network file system ({system.kind} at {system.mounted_on}): on this machine, records are "
                f"kept in {folder / name} until they are delivered. Set TRACELET_HOME to a directory of a local disk to "
                "choose another"
            )
        return folder / name
    if tell:
        say(
            f"{home} is on a network file system ({system.kind} at {system.mounted_on}), and this machine has no other place "
            "for it: a crash of the machine or the network may cost records. Set TRACELET_HOME to a directory of a local disk"
        )
    return None


def _temporary() -> Path:
    import tempfile  # takes longer than all of this file

    return Path(tempfile.gettempdir())


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
