"""Where files lie among a run's artifacts: paths that trackers take, and that no other file or folder has."""

from __future__ import annotations

import enum
import hashlib
import mimetypes
import re
from collections.abc import Iterable, Mapping
from typing import Final

from tracelet_collector.exporters.base import Memory
from tracelet_collector.exporters.names import memory_key

__all__ = ["MAX_PART", "Owner", "Shelf", "clean_path", "file_ending", "folder_of", "within"]

MAX_PART: Final = 200  # bytes of a file's or folder's name; file systems take 255, and trackers put drafts beside it
_MAX_PATH: Final = 1600  # bytes; Linux takes 4096, of which the tracker's folder has some
# A server reads the first two as its own, and decodes the third; `?` begins a query. The rest no file system minds.
_REFUSED: Final = re.compile(r"[#%?\\\x00-\x1f\x7f]")
_DRIVE: Final = re.compile(r"^([A-Za-z]):")
_SCHEME: Final = re.compile(r"^(file):", re.IGNORECASE)
_RESERVED: Final = ".artifact.uploading."
_ENDINGS: Final[Mapping[str, str]] = {
    "image/png": "png",
    "image/gif": "gif",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "application/json": "json",
    "application/x-npz": "npz",
    "application/zip": "zip",
    "audio/wav": "wav",
    "text/plain": "md",
    "text/x-protobuf": "pbtxt",
    "application/octet-stream": "bin",
}


class Owner(enum.IntEnum):
    """What a path stands for."""

    FOLDER = 1
    MEDIA = 2
    FILE = 3


def file_ending(media_type: str) -> str:
    """What the name of a file with such content ends with, without the dot."""
    known = _ENDINGS.get(media_type.partition(";")[0].strip().lower())
    return known or (mimetypes.guess_extension(media_type) or ".bin").removeprefix(".")


def clean_path(path: str) -> str:
    """The nearest path that a tracker takes: the path itself when there is nothing wrong with it.

    A path that is changed gets a hash of the whole, so that two that look alike stay two. It is always the same.

    Args:
        path: relative, with `/`, without `..`.
    """
    clean = _SCHEME.sub(r"\1_", _DRIVE.sub(r"\1_", _REFUSED.sub("_", path)))
    parts = [f"_{part}" if part.startswith(_RESERVED) else part for part in clean.split("/")]
    # What is too long is cut a little shorter, for the hash that follows.
    *folders, name = (part if len(part.encode()) <= MAX_PART else within(part, MAX_PART - 40) for part in parts)
    clean = "/".join([*folders, name])
    if len(clean.encode()) > _MAX_PATH:
        clean = f"{folders[0]}/…/{name}"
    return clean if clean == path else _marked(clean, path)


def folder_of(key: str) -> str:
    """The folder of a metric's media, below that of their kind: no folder is named as a file of another is."""
    parts = (f"_{part}" if part.lstrip("_").startswith("step_") else part for part in key.split("/"))
    return "/".join(within(part, MAX_PART) for part in parts)


def within(name: str, limit: int) -> str:
    """The name, or, when it is longer than `limit` bytes, its beginning with a hash and its ending."""
    raw = name.encode()
    if len(raw) <= limit:
        return name
    stem, ending = _split(name)
    if len(ending.encode()) > 20:
        stem, ending = name, ""
    kept = stem.encode()[: limit - 17 - len(ending.encode())].decode(errors="ignore")
    return f"{kept}-{_digest(name, 16)}{ending}"


class Shelf:
    """The paths that a run's files have: no file where a folder is, no media under a file of the user's.

    Paths are claimed in the log's order, and remembered: claimed again from the same memory, they are the same.

    Args:
        memory: the run's.
        mark: what the run's entries begin with.

    Attributes:
        stamps: entries to be added to the memory.
    """

    def __init__(self, memory: Memory, mark: bytes) -> None:
        self.stamps: dict[int, int] = {}
        self._memory = memory
        self._mark = mark
        self._known: dict[int, int] = {}

    def look_up(self, paths: Iterable[str]) -> None:
        """Ask the memory for many paths at once."""
        self._recall({self._key(prefix) for path in paths for prefix in _prefixes(path)})

    def claim(self, path: str, owner: Owner) -> str:
        """The path under which a file goes: another one, when a part of it is taken by something else."""
        found = ""
        for prefix in _prefixes(path):
            last = prefix == path
            part = prefix.rpartition("/")[2]
            candidate, wanted = found + part, owner if last else Owner.FOLDER
            for size in (8, 16, 32):
                key = self._key(candidate)
                if self._of(key) in (None, wanted):
                    break
                candidate = found + _marked(part, f"{prefix}\0{wanted}", size)
            if self._of(key) is None:
                self.stamps[key] = wanted
            found = f"{candidate}/"
        return found.removesuffix("/")

    def _of(self, key: int) -> int | None:
        if key in self.stamps:
            return self.stamps[key]
        if key not in self._known:
            self._recall({key})
        return self._known[key] or None

    def _recall(self, keys: set[int]) -> None:
        asked = [key for key in keys if key not in self._known]
        if asked:
            self._known |= {**dict.fromkeys(asked, 0), **self._memory.recall(asked)}

    def _key(self, path: str) -> int:
        raw = self._mark + b"\0path\0" + path.encode()
        return memory_key(raw)


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _split(name: str) -> tuple[str, str]:
    stem, dot, ending = name.rpartition(".")
    return (stem, dot + ending) if stem else (name, "")


def _marked(path: str, whole: str, size: int = 8) -> str:
    folder, slash, name = path.rpartition("/")
    stem, ending = _split(name)
    return f"{folder}{slash}{stem}-{_digest(whole, size)}{ending}"


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:size]
