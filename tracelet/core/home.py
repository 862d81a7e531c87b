"""tracelet's home: where spools, the local collector's log and its endpoint lie."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tracelet.core.guard import say
from tracelet.errors import HomeError

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
    fallback = Path(tempfile.gettempdir()) / f"tracelet-{os.getuid()}" / "home"
    if other := _problem(fallback):
        raise HomeError(home, f"{problem}; neither can {fallback}: {other}")
    say(f"cannot use {home} ({problem}); records are kept in {fallback}, which may not survive a reboot")
    return fallback


def _problem(home: Path) -> str | None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid != os.getuid():
            return "it belongs to another user"
        probe = tempfile.TemporaryFile(dir=home)  # noqa: SIM115 - closed at once
        probe.close()
    except OSError as error:
        return error.strerror or str(error)
    return None
