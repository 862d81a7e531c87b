"""Takes the spools of another home into this one: copied whole, adopted by this home's collector, and only then deleted there.

A copy goes the way of every spool: the log knows each stream's positions, so taking the same spool in twice adds nothing. Where
the other folder cannot be written to, its spools stay, and the log's memory is what keeps them from counting twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracelet_collector.home import log_path
from tracelet_collector.log import reading
from tracelet_collector.log.schema import open_reader
from tracelet_collector.spools import has_committed

from tracelet.core.targets import check_installed
from tracelet.errors import TraceletError
from tracelet.spoolfile import SpoolDirectory, SpoolInfo

__all__ = ["Copy", "NotTaken", "put_away", "spools_in", "take_in"]

_DEPTH: Final = 4  # <folder>/spool/<run>/<writer>-<epoch>/spool.json, or less
_NOT_THERE: Final = frozenset({"spool-damaged", "spool-incoming"})
_INCOMING: Final = "spool-incoming"


class NotTaken(Exception):
    """A spool stays where it is; the message says why."""


@dataclass(frozen=True)
class Copy:
    """A spool that was taken in.

    Attributes:
        source: where it was.
        here: the copy, for the collector to adopt; None when this home's log has all of it already.
        lock: keeps others from the source, until it is put away.
    """

    source: SpoolDirectory
    here: Path | None
    lock: int


def spools_in(folder: Path) -> Iterator[SpoolDirectory]:
    """The spools of a home, of its folder `spool`, of a run's folder, or the one that the folder is itself."""
    for depth in range(_DEPTH):
        for said in sorted(folder.glob("/".join(["*"] * depth + ["spool.json"]))):
            if not _NOT_THERE.intersection(said.relative_to(folder).parts):
                yield SpoolDirectory(said.parent)


def take_in(home: Path, source: SpoolDirectory) -> Copy:
    """Copy a spool to where this home's collector finds it.

    Args:
        home: tracelet's home.
        source: a spool of another one.

    Raises:
        NotTaken: its writer lives, it cannot be read, or it lacks its beginning.
        OSError: it cannot be copied.
    """
    try:
        info = source.info()
    except (OSError, ValueError) as error:
        raise NotTaken(f"it cannot be read: {error}") from error
    names = (str(info.run["run_id"]), f"{info.writer['writer_id']}-{info.epoch}")
    if any(Path(name).name != name for name in names):
        raise NotTaken("its spool.json has no proper names")
    lock = _lock(source)
    try:
        here = home.joinpath("spool", *names)
        known = _known(home, info)
        if not here.exists():
            if known and not has_committed(source, known):
                return Copy(source, None, lock)
            first = min((number for number, _ in source.segments()), default=0)
            if first and not known:
                raise NotTaken("its beginning is in the log of the home that it comes from")
            _copy(home, source, here, info)
        return Copy(source, here, lock)
    except BaseException:
        os.close(lock)
        raise


def put_away(home: Path, copy: Copy, *, keep: bool) -> bool:
    """The copy is adopted: delete the source, where that is possible.

    Args:
        home: tracelet's home.
        copy: a spool that was taken in, and is no more where it was put.
        keep: leave the source as it is.

    Returns:
        Whether it is in this home's log: what could not be adopted is in `spool-damaged`, and the source stays.
    """
    try:
        if copy.here is not None:
            name = f"{copy.here.parent.name}-{copy.here.name}"
            if (home / "spool-damaged" / name).exists():
                return False
        if not keep and os.access(copy.source.path, os.W_OK) and os.access(copy.source.path.parent, os.W_OK):
            copy.source.remove()
        return True
    finally:
        os.close(copy.lock)


def _lock(spool: SpoolDirectory) -> int:
    """Keep its home's collector from it; whoever writes it holds the lock."""
    path = spool.path / "lock"
    try:
        try:
            lock, how = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX
        except OSError:
            if path.exists():
                lock, how = os.open(path, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH
            else:  # a copy that cannot be written to
                return os.open(spool.path / "spool.json", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotTaken(f"its lock cannot be looked at: {error.strerror}") from error
    try:
        fcntl.lockf(lock, how | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise NotTaken("its writer lives: it delivers by itself") from None
    return lock


def _known(home: Path, info: SpoolInfo) -> int:
    """The first position of a spool's stream that this home's log does not have."""
    try:
        with closing(open_reader(log_path(home))) as db:
            rows = reading.streams(db, str(info.run["run_id"]))
    except FileNotFoundError:
        return 0
    mine = (str(info.writer["writer_id"]), info.epoch)
    return next((row.next_seq for row in rows if (row.writer_id, row.epoch) == mine), 0)


def _copy(home: Path, source: SpoolDirectory, here: Path, info: SpoolInfo) -> None:
    """Copy it, whole before it is seen: drafts lie where no collector looks."""
    draft = home / _INCOMING / os.urandom(8).hex()
    draft.mkdir(mode=0o700, parents=True)
    try:
        _copy_files(source.path, draft)
        if source.blobs.is_dir():
            (draft / source.blobs.name).mkdir(mode=0o700)
            _copy_files(source.blobs, draft / source.blobs.name)
        (draft / "lock").touch(0o600)
        said = json.loads((draft / "spool.json").read_text())
        said["run"]["backends"] = [_backend(home, source, each) for each in info.run.get("backends", ())]
        (draft / "spool.json").write_text(json.dumps(said))
        here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.rename(here)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        try:
            (home / _INCOMING).rmdir()
        except OSError:
            pass  # others are at it too


def _copy_files(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, target / path.name)
            times = path.stat()
            os.utime(target / path.name, ns=(times.st_atime_ns, times.st_mtime_ns))  # they say when the writer died


def _backend(home: Path, source: SpoolDirectory, said: Any) -> dict[str, Any]:
    """A backend as it can be delivered from here: by a Python that is here, with credentials that are in this home's store."""
    backend = dict(said)
    interpreter, kind = str(backend.get("interpreter", "")), str(backend.get("kind", ""))
    if not os.access(interpreter, os.X_OK):
        try:
            check_installed(kind)
        except TraceletError:
            pass  # nor has this one what it needs: status says so
        else:
            backend["interpreter"] = sys.executable
    if name := str(backend.get("credentials", "")):
        _bring_credentials(home, source, name)
    return backend


def _bring_credentials(home: Path, source: SpoolDirectory, name: str) -> None:
    target = home / "credentials" / f"{name}.json"
    if target.exists() or Path(name).name != name:
        return
    for folder in source.path.parents[1:4]:
        path = folder / "credentials" / target.name
        if path.is_file():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(path.read_bytes())
            return
