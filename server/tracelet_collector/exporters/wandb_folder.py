"""The folder of an offline run: where it is, how many rows it has, and how a new one takes its place.

    <folder>/wandb/offline-run-<date>_<time>-<id>/run-<id>.wandb

is where wandb itself would write, and `wandb sync` looks. A run that is built again is written to
`<folder>/wandb/.tracelet/<id>` first. When it has as many rows as the old folder it takes that one's place, in one step; wandb
still writes to the first path, where a link is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Audit", "Folder", "Place", "secure", "wandb_folder"]

_BLOCK: Final = 32 * 1024  # the framing is that of LevelDB's log, behind a header of seven bytes
_HEADER: Final = 7
_WHOLE, _FIRST, _LAST = 1, 2, 4
_HEAD: Final = 128  # of a record: its number, and of what kind it is
_HISTORY: Final = 2
_EXIT: Final = 18
_BESIDE: Final = frozenset({1, 16, 19, 200})  # number, control, uuid, _info
_LENGTHY: Final = 2
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2


def wandb_folder(root: Path) -> Path:
    """Where wandb keeps runs below a folder."""
    hidden = root / ".wandb"
    return hidden if hidden.exists() else root / "wandb"


class Audit:
    """Counts the rows that are in a `.wandb` file, from where it was the last time.

    Attributes:
        file: it; may be told to be somewhere else.
        rows: of the history, so far.
        ended: the record of the run's end is there.
    """

    def __init__(self, file: Path) -> None:
        self.rows = 0
        self.ended = False
        self.file = file
        self._at = _HEADER  # of the first record that was not read to its end

    def advance(self) -> int:
        """Read on.

        Returns:
            The rows so far. What is torn or damaged, and all behind it, does not count.
        """
        try:
            with self.file.open("rb") as file:
                # One block after the other: a file may be of gigabytes.
                while self._read(file.fileno()):
                    pass
        except FileNotFoundError:
            pass
        return self.rows

    def _read(self, descriptor: int) -> bool:
        start = self._at - self._at % _BLOCK
        data = os.pread(descriptor, 64 * _BLOCK, start)
        at = whole = self._at - start
        head, open_record = b"", False
        while at < len(data):
            if (left := _BLOCK - at % _BLOCK) < _HEADER:
                at += left
                whole = at if not open_record else whole
                continue
            if at + _HEADER > len(data):
                break
            _, length, kind = struct.unpack_from("<IHB", data, at)
            if not _WHOLE <= kind <= _LAST or at + _HEADER + length > len(data):
                break
            if kind in (_WHOLE, _FIRST):
                head, open_record = b"", True
            if len(head) < _HEAD:
                head += data[at + _HEADER : at + _HEADER + min(length, _HEAD)]
            at += _HEADER + length
            if kind in (_WHOLE, _LAST) and open_record:
                self._count(head)
                open_record = False
                whole = at
        moved = start + whole > self._at
        self._at = start + whole
        if not moved and len(data) == 64 * _BLOCK:  # one record of more than that
            return self._leap(descriptor)
        return moved

    def _leap(self, descriptor: int) -> bool:
        """Over a record that is longer than what is read at once."""
        at, head = self._at, b""
        while True:
            if (left := _BLOCK - at % _BLOCK) < _HEADER:
                at += left
            frame = os.pread(descriptor, _HEADER, at)
            if len(frame) < _HEADER:
                return False
            _, length, kind = struct.unpack("<IHB", frame)
            if not _WHOLE <= kind <= _LAST or at + _HEADER + length > os.fstat(descriptor).st_size:
                return False
            if len(head) < _HEAD:
                head += os.pread(descriptor, min(length, _HEAD), at + _HEADER)
            at += _HEADER + length
            if kind in (_WHOLE, _LAST):
                self._count(head)
                self._at = at
                return True

    def _count(self, head: bytes) -> None:
        kind = _kind(head)
        self.rows += kind == _HISTORY
        self.ended = self.ended or kind == _EXIT


def _kind(head: bytes) -> int:
    """The field of a record (`wandb.proto`'s `Record`) that says what it is; wandb-core writes it behind all others."""
    at = 0
    while at < len(head):
        tag, at = _varint(head, at)
        field, wire = tag >> 3, tag & 7
        if field not in _BESIDE:
            return field
        size, at = _varint(head, at)
        at += size if wire == _LENGTHY else 0
    return 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    return number, at


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a run.

    Attributes:
        path: of the folder.
        file: the `.wandb` file in it.
    """

    path: Path
    file: Path

    @property
    def synced(self) -> bool:
        """`wandb sync` has uploaded it."""
        return self.file.with_name(f"{self.file.name}.synced").exists()

    def rows(self) -> int:
        """The rows in it."""
        return Audit(self.file).advance()


class Place:
    """Where the folders of a run are.

    Args:
        root: what wandb calls `dir`.
        run_id: the run's id in W&B.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self._wandb = wandb_folder(root)
        self._id = run_id
        self._hidden = self._wandb / ".tracelet"
        self._old = self._hidden / f"{run_id}.old"
        self.root = root
        self.scratch = self._hidden / run_id

    def folders(self) -> list[Folder]:
        """The run's folders, in the order of their making."""
        name = re.compile(rf"offline-run-\d{{8}}_\d{{6}}-{re.escape(self._id)}(-\d+)?")
        found = (
            [path for path in self._wandb.glob("offline-run-*") if name.fullmatch(path.name)] if self._there() else []
        )
        folders = [Folder(path, path / f"run-{self._id}.wandb") for path in sorted(found)]
        return [folder for folder in folders if folder.file.exists()]

    def recover(self) -> None:
        """Clear away what a crash left."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._old.exists():
            home = next(self._old.iterdir(), None)
            if home is not None and not (self._wandb / home.name).exists():
                home.rename(self._wandb / home.name)  # the crash came before the new one was in its place
            shutil.rmtree(self._old, ignore_errors=True)

    def replace(self, new: Path, old: Path) -> None:
        """Put a folder in the place of another one, and leave a link where it was."""
        if not _exchanged(new, old):
            self._old.mkdir(parents=True, exist_ok=True)
            old.rename(self._old / old.name)
            new.rename(old)
            shutil.rmtree(self._old, ignore_errors=True)
        else:
            shutil.rmtree(new, ignore_errors=True)
        new.symlink_to(old)

    def settle(self, new: Path) -> Path:
        """Put a folder beside the others.

        Returns:
            Where it is.
        """
        number, path = 0, self._wandb / new.name
        while path.exists():
            number += 1
            path = self._wandb / f"{new.name}-{number}"
        new.rename(path)
        new.symlink_to(path)
        return path

    def tidy(self) -> None:
        """The links are of no more use."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._hidden.rmdir()

    def _there(self) -> bool:
        return self._wandb.is_dir()


def secure(folder: Folder) -> None:
    """Make sure that a folder's run survives a power cut."""
    for path in (folder.file, folder.path, folder.path.parent):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, where the system can."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0)
