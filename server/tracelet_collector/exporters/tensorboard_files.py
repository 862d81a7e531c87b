"""A run's folder: files that only grow, each as long as what was committed says, and files that are written whole.

A growing file's bytes are made of the log's records and of nothing else (no clock, no chunk), so its first n bytes are the same
however often it is written. What a crash left behind the committed size is cut off before the next byte is written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from tracelet_collector.exporters.base import Rewind

__all__ = ["RunFolder"]

_BUFFER: Final = 1024 * 1024
_DRAFT: Final = ".tracelet-draft"  # TensorBoard takes every file for its own that has `tfevents` in its name


class RunFolder:
    """The folder, for one call of `export`.

    Args:
        root: the folder; made when something is written.
        sizes: by path, the committed bytes of the files that grow.
    """

    def __init__(self, root: Path, sizes: Mapping[str, int]) -> None:
        self.root = root
        self._committed = dict(sizes)
        self._open: dict[str, BinaryIO] = {}

    def check(self) -> None:
        """Whether all that was committed is there.

        Raises:
            Rewind: it is not.
        """
        for path, size in self._committed.items():
            try:
                found = (self.root / path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                raise Rewind(f"{self.root / path} was deleted: it is written again") from None
            if found < size:
                raise Rewind(f"{self.root / path} has {found} bytes of {size}: it is written again")

    def append(self, path: str, data: bytes) -> None:
        """Write at the end of a file that grows."""
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = self._opened(path)
        file.write(data)

    def has(self, path: str) -> bool:
        """A growing file has something in it."""
        return path in self._open or bool(self._committed.get(path))

    def _opened(self, path: str) -> BinaryIO:
        place, size = self.root / path, self._committed.get(path, 0)
        self._make(place.parent)
        new = not place.exists()
        # Not in append mode: where bytes go is what is committed, whatever the file's end is.
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
            if new:
                _sync_folder(place.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "wb", _BUFFER)

    def finish(self) -> dict[str, int]:
        """All that was appended is on the disk.

        Returns:
            The sizes that are to be committed.
        """
        sizes = dict(self._committed)
        for path, file in self._open.items():
            file.flush()
            os.fsync(file.fileno())
            sizes[path] = file.tell()
        return sizes

    def close(self) -> None:
        """Close the files. What was appended and not finished is cut off where that is possible: it counts for nothing."""
        while self._open:
            _, file = self._open.popitem()
            with contextlib.suppress(OSError, ValueError):
                file.close()

    def cut_back(self) -> None:
        """Undo what was appended. Where that is not possible now, it is done before the next byte is written."""
        paths = list(self._open)
        self.close()
        for path in paths:
            with contextlib.suppress(OSError):
                os.truncate(self.root / path, self._committed.get(path, 0))

    def write(self, path: str, content: bytes | Path) -> None:
        """Write a whole file, or copy it; it takes the place of another one at once, or not at all."""
        place = self.root / path
        self._make(place.parent)
        draft = place.parent / _DRAFT
        try:
            with draft.open("wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, _BUFFER)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        _sync_folder(place.parent)

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder, *folder.parents):
                _sync_folder(made)
                if made == self.root:
                    _sync_folder(made.parent)
                    break


def _sync_folder(folder: Path) -> None:
    """Its entries are on the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
