"""The collector's own log: one JSON object a line, in a file that does not grow without bound."""

from __future__ import annotations

import json
import logging
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

__all__ = ["open_journal"]

_BYTES: Final = 4 * 1024 * 1024
_BACKUPS: Final = 2
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _QuietFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk takes no log lines; a traceback for each on stderr would help nobody."""


def open_journal(path: Path) -> None:
    """Send everything that is logged in this process to `path`.

    Raises:
        OSError: the file cannot be opened.
    """
    handler = _QuietFile(path, maxBytes=_BYTES, backupCount=_BACKUPS)
    handler.setFormatter(_JsonLine())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    threading.excepthook = _tell


def _tell(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread else "a thread"
    error = failure.exc_value or failure.exc_type()
    logging.getLogger(__name__).critical("%s fails", name, exc_info=error)
