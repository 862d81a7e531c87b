"""Opens an MLflow tracking URI: a SQLite file, another database, or a server."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from mlflow import MlflowClient

from tracelet_collector.exporters.base import Paused, Retryable
from tracelet_collector.exporters.mlflow_schema import check_engine, check_file

__all__ = ["Targets", "with_password"]

_SQLITE: Final = "sqlite:///"
_DATABRICKS: Final = "databricks"
_KNOCK_SECONDS: Final = 1.0
_SQLITE_MAGIC: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class _Open:
    client: MlflowClient
    inode: tuple[int, int] | None  # of a SQLite file


class Targets:
    """The tracking URIs that this process speaks to, opened once each."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._opened: dict[str, int] = {}

    def client(self, target: str) -> MlflowClient:
        """A client of `target`.

        Raises:
            Paused: it is nothing that MLflow can open now; the message says what to do.
            Retryable: a SQLite file that somebody else holds locked, or that cannot be opened.
        """
        known = self._open.get(target)
        if known is not None and known.inode == _inode(target):
            if known.inode is not None:
                _knock(_path(target))
                check_file(_path(target), target)  # somebody may have upgraded it under us
            return known.client
        self._open.pop(target, None)
        if target.startswith(_SQLITE):
            opened = self._sqlite(target)
        elif target.startswith("file:") or not ("://" in target or target.startswith(_DATABRICKS)):
            raise Paused(
                f"{target} is a folder, MLflow's file store, which MLflow itself no longer writes to: it keeps a point twice "
                "when it is delivered twice. Move it into a database:  mlflow migrate-filestore --source "
                f"{_folder(target)} --target sqlite:///{_folder(target).parent}/mlflow.db  and start runs with "
                f"MLFLOW_TRACKING_URI=sqlite:///{_folder(target).parent}/mlflow.db. (The points of this run stay in "
                "tracelet's log)"
            )
        else:
            opened = _Open(_remote(target), None)
        self._open[target] = opened
        return opened.client

    def check(self, target: str) -> None:
        """Make sure that what was written since `client` went where the target says.

        Raises:
            Retryable: the SQLite file was removed or replaced under us: we wrote to one that nobody sees.
        """
        known = self._open.get(target)
        if known is not None and known.inode != _inode(target):
            del self._open[target]
            raise Retryable(f"{target} was removed or replaced while points were delivered to it")

    def close(self) -> None:
        """Forget all clients."""
        self._open.clear()

    def _sqlite(self, target: str) -> _Open:
        path = _path(target)
        folder = path.parent
        if not path.is_absolute():
            raise Paused(f"{target} is relative to a folder that is not known here; use sqlite:////absolute/path")
        if not folder.is_dir():
            raise Paused(f"the folder {folder} of the MLflow store {target} does not exist: create it")
        if path.is_dir():
            raise Paused(f"{path} is a folder, not an MLflow store")
        for needed in (folder, path):
            if needed.exists() and not os.access(needed, os.W_OK):
                raise Paused(f"the MLflow store {target} cannot be written: {needed} is read-only for this user")
        if not path.exists():
            _create(path)
        with path.open("rb") as file:
            start = file.read(len(_SQLITE_MAGIC))
        if start and start != _SQLITE_MAGIC:
            raise Paused(f"{path} is not a SQLite database, so no MLflow store")
        _knock(path)
        check_file(path, target)
        inode = _inode(target)
        # MLflow keeps one engine per URI for the life of the process, and with it open connections to a file that was
        # replaced since. Another spelling of the same path is another engine.
        times = self._opened[target] = self._opened.get(target, -1) + 1
        with _working_in(folder):
            return _Open(MlflowClient(f"{_SQLITE}{'/.' * times}{target.removeprefix(_SQLITE)}"), inode)


def _folder(target: str) -> Path:
    """The folder of a file store."""
    return Path(unquote(urlsplit(target).path) if target.startswith("file:") else target).absolute()


def _path(target: str) -> Path:
    """The file that MLflow opens: in an address, `%20` stands for a blank, and `?` begins options."""
    return Path(unquote(target.removeprefix(_SQLITE).partition("?")[0]))


def _knock(path: Path) -> None:
    """Ask SQLite itself whether the file can be written now: MLflow tries for minutes, and others wait behind it."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_KNOCK_SECONDS, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError):
            return  # no database: there are better words for that
        raise Retryable(f"the MLflow store {path} cannot be written now: {error}") from error


def _inode(target: str) -> tuple[int, int] | None:
    if not target.startswith(_SQLITE):
        return None
    try:
        found = _path(target).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create(path: Path) -> None:
    """Make a fresh store, whole or not at all.

    MLflow makes its tables in about 40 migrations that are no transaction: a process killed on the way leaves a file that no
    MLflow opens again. So it is made under another name, and linked when it is done.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = path.parent / f".{path.name}.draft"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir()
    try:
        draft = folder / path.name
        # As MLflow itself does it in the store's folder: artifacts are in mlruns beside the file.
        make: Any = SqlAlchemyStore  # untyped
        make(_SQLITE + str(draft).replace("%", "%25").replace("?", "%3F"), str(path.parent / "mlruns")).engine.dispose()
        _publish(draft, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        return  # somebody else was faster: theirs it is
    except OSError:  # a file system without links
        if not path.exists():
            draft.rename(path)


def with_password(target: str) -> str:
    """A database's address with the password that the client took out of it, if it did: that is among the credentials."""
    password = os.environ.get("MLFLOW_STORE_PASSWORD")
    parts = urlsplit(target)
    user, at, host = parts.netloc.rpartition("@")
    if not password or not at or parts.scheme in ("http", "https"):
        return target
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def _remote(shown: str) -> MlflowClient:
    target = with_password(shown)
    if not target.startswith(("http://", "https://")):
        # MLflow tries a database that does not answer for two minutes before it says so. Try once ourselves.
        with contextlib.suppress(ModuleNotFoundError):
            import sqlalchemy

            with contextlib.suppress(sqlalchemy.exc.NoSuchModuleError):  # not a database: MLflow knows what it is
                engine = sqlalchemy.create_engine(target)
                try:
                    engine.connect().close()
                    check_engine(engine, shown)
                finally:
                    engine.dispose()
    # MLflow gives experiments of a database an artifact folder relative to the working directory; ours is `/`.
    with _working_in(Path.home()):
        return MlflowClient(target)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """The process's working directory, for a moment: MLflow resolves the artifacts' folder against it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
