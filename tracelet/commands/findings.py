"""What `tracelet doctor` finds: one thing each, how bad it is, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Level", "ok", "problem", "warning"]


class Level(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: how bad it is.
        about: the chapter that it belongs to.
        subject: what it is about: a package, a folder, a setting.
        text: what was found.
        remedy: how to mend it; empty when there is nothing to mend.
    """

    level: Level
    about: str
    subject: str
    text: str
    remedy: str = ""


def ok(about: str, subject: str, text: str) -> Finding:
    """Nothing to mend."""
    return Finding(Level.OK, about, subject, text)


def warning(about: str, subject: str, text: str, remedy: str = "") -> Finding:
    """It works, but not as well as it might, or not for long."""
    return Finding(Level.WARNING, about, subject, text, remedy)


def problem(about: str, subject: str, text: str, remedy: str) -> Finding:
    """It does not work before somebody mends it."""
    return Finding(Level.PROBLEM, about, subject, text, remedy)
