"""In which run a step of a workflow was last executed: what a cached result is linked to.

    <home>/formed/<fingerprint>.json    {"format": 1, "run": id, "name": …, "url": …, "at": seconds since 1970}

formed names a step with its version, its configuration and what it depends on by a fingerprint; so does its cache. A file for
each, replaced as a whole: workflows that run at the same time need no lock.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Origin", "find", "keep"]

_FORMAT: Final = 1
_MOST: Final = 5000  # files; then the older half goes
_FINGERPRINT: Final = re.compile(r"[\w-]{1,128}")


@dataclass(frozen=True, slots=True)
class Origin:
    """The run in which a step was executed.

    Attributes:
        run: its id.
        name: its name.
        url: its page; empty when no tracker had said it.
    """

    run: str
    name: str
    url: str = ""


def keep(home: Path, fingerprint: str, origin: Origin) -> None:
    """Remember where a step was executed.

    Raises:
        OSError: it cannot be written.
    """
    if (file := _file(home, fingerprint)) is None:
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    said = {"format": _FORMAT, "run": origin.run, "name": origin.name, "url": origin.url, "at": time.time()}
    draft = file.with_name(f".{os.urandom(8).hex()}.new")
    draft.write_text(json.dumps(said))
    draft.replace(file)
    _forget_old(sorted(file.parent.glob("*.json"), key=_age))


def find(home: Path, fingerprint: str) -> Origin | None:
    """Where a step was executed; None when nobody has written it down, or not legibly."""
    file = _file(home, fingerprint)
    try:
        said = {} if file is None else json.loads(file.read_bytes())
        if said.get("format") != _FORMAT:
            return None
        return Origin(str(said["run"]), str(said["name"]), str(said["url"]))
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _file(home: Path, fingerprint: str) -> Path | None:
    return home / "formed" / f"{fingerprint}.json" if _FINGERPRINT.fullmatch(fingerprint) else None


def _forget_old(files: Sequence[Path]) -> None:
    """Keep the folder small; `files` are the newest first."""
    for file in files[_MOST // 2 :] if len(files) > _MOST else ():
        file.unlink(missing_ok=True)


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except OSError:  # another workflow has removed it
        return 0.0
