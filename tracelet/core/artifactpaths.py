"""Where an artifact is in its run: a path made fit, and the files below a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from tracelet.guard import say

__all__ = ["artifact_path", "files_below"]

_LONGEST: Final = 1000  # characters, as the wire takes them
_LONGEST_PART: Final = 200  # bytes: file systems take 255, and trackers add to it
_LONGEST_SUFFIX: Final = 20


def artifact_path(given: str) -> str:
    """A path that is relative, printable, and nowhere but below the run.

    What is not harmless (an absolute path, `..`, control characters, backslashes, a component of more than 200 bytes) is
    replaced or left out, and the path gets a `~hash` of what was given: so no other artifact is met by it.
    """
    parts, changed = [], given.startswith("/")
    for part in given.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            changed = True
            continue
        clean = _short("".join(c if c.isprintable() and c != "\\" else "_" for c in part))
        changed = changed or clean != part
        parts.append(clean)
    if not parts:
        parts, changed = ["artifact"], True
    if len("/".join(parts)) > _LONGEST - _LONGEST_PART:
        room = _LONGEST - 2 * _LONGEST_PART
        parts, changed = [part for part in "/".join(parts[:-1])[:room].split("/") if part.strip(".")] + parts[-1:], True
    if changed:
        digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        stem, suffix = _parted(parts[-1])
        parts[-1] = f"{stem}~{digest}{suffix}"
    return "/".join(parts)


def files_below(root: str, home: Path) -> Iterator[tuple[str, str]]:
    """The files of a folder and of the folders in it, by name. Links are followed; a folder is visited once.

    Args:
        root: the folder.
        home: tracelet's own, with credentials in it, and what is recorded just now: it is left out.

    Yields:
        The path below the folder, and the whole path. What is no file (a socket, a FIFO, a device) and what cannot be read is
        said.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        folder = os.path.join(root, below) if below else root
        try:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in visited:
                say(f"{folder} is a folder that is recorded already: it is left out")
                continue
            visited.add((found.st_dev, found.st_ino))
            if home.exists() and os.path.samestat(found, home.stat()):
                say(f"{folder} is tracelet's home: it is left out")
                continue
            with os.scandir(folder) as entries:
                there = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            say(f"{folder} is not recorded: {error.strerror}")
            continue
        folders = []
        for entry in there:
            path = f"{below}/{entry.name}" if below else entry.name
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:  # a link to itself
                say(f"{entry.path} is not recorded: {error.strerror}")
                continue
            if is_folder:
                folders.append(path)
            elif is_file:
                yield path, entry.path
            else:
                kind = "a link to nothing" if entry.is_symlink() and not os.path.exists(entry.path) else "no file"
                say(f"{entry.path} is not recorded: it is {kind}")
        waiting += reversed(folders)


def _short(part: str) -> str:
    if len(part.encode()) <= _LONGEST_PART:
        return part
    stem, suffix = _parted(part)
    return stem.encode()[: _LONGEST_PART - len(suffix.encode())].decode(errors="ignore") + suffix


def _parted(part: str) -> tuple[str, str]:
    suffix = PurePosixPath(part).suffix
    if len(suffix.encode()) > _LONGEST_SUFFIX:
        suffix = ""
    return part[: len(part) - len(suffix)], suffix
