"""Compares the schema of an MLflow store with that of the MLflow here, before MLflow opens it.

MLflow refuses some stores of another version, and migrates others without a word. Neither is ours to decide: whoever owns the
store decides, with a backup at hand.
"""

from __future__ import annotations

import functools
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import mlflow

from tracelet_collector.exporters.base import Paused
from tracelet_collector.exporters.mlflow_errors import hide_password

__all__ = ["check_engine", "check_file"]

_QUESTION: Final = "SELECT version_num FROM alembic_version"


def check_file(path: Path, target: str) -> None:
    """Check a SQLite store.

    Args:
        path: the file; a missing or empty one is fine: MLflow will fill it.
        target: the tracking URI, for the message.

    Raises:
        Paused: it has another schema; the message says what to do.
    """
    try:
        if not path.stat().st_size:
            return
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            row = db.execute(_QUESTION).fetchone()
    except (OSError, sqlite3.Error):
        return  # no store yet, or none at all: MLflow has the words for that
    _compare(row, target)


def check_engine(engine: Any, target: str) -> None:
    """Check another database.

    Args:
        engine: SQLAlchemy's; it can connect.
        target: the tracking URI, for the message.

    Raises:
        Paused: it has another schema; the message says what to do.
    """
    import sqlalchemy

    with engine.connect() as connection:
        try:
            row = connection.execute(sqlalchemy.text(_QUESTION)).fetchone()
        except sqlalchemy.exc.DatabaseError:
            return  # no store yet
    _compare(row, target)


def _compare(row: Any, target: str) -> None:
    known = _revisions()
    if row is None or not known or row[0] == known[0]:
        return
    shown = hide_password(target)
    if row[0] in known:
        raise Paused(
            f"the MLflow store {shown} has the schema of an older MLflow than {mlflow.__version__}. Take a backup, then run:  "
            f"{sys.executable} -m mlflow db upgrade {shown}"
        )
    raise Paused(
        f"the MLflow store {shown} has a schema that MLflow {mlflow.__version__} does not know: a newer MLflow made it. "
        f"Install that one:  {sys.executable} -m pip install -U mlflow"
    )


@functools.cache
def _revisions() -> tuple[str, ...]:
    """The schemas that MLflow knows, the newest first; none when it does not say."""
    try:
        from alembic.script import ScriptDirectory
        from mlflow.store.db.utils import _get_alembic_config

        make: Any = _get_alembic_config  # untyped
        script = ScriptDirectory.from_config(make(db_url=""))
        return tuple(revision.revision for revision in script.walk_revisions())
    except Exception:  # mlflow-skinny has none of it, and opens no store
        return ()
