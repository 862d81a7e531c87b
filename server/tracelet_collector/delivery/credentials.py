"""What a worker finds in its environment: little of the collector's own, and the credentials that the run names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tracelet_collector.exporters.base import Paused
from tracelet_collector.exporters.table import Entry

__all__ = ["worker_environment"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# What a training process may hand on. Checked again here: nothing that loads code gets into a worker by this way.
_ALLOWED: Final = re.compile(
    r"(?:MLFLOW|WANDB|CLEARML|AWS|GOOGLE|AZURE|DATABRICKS|SSL)_[A-Z0-9_]+"
    r"|(?:[A-Z]+_)?PROXY|(?:[a-z]+_)?proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_BASE: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"
)  # fmt: skip


def worker_environment(home: Path, name: str, entry: Entry) -> dict[str, str]:
    """The environment of a worker.

    Args:
        home: tracelet's home.
        name: of the credentials; empty for none.
        entry: the exporter's.

    Raises:
        Paused: the credentials are missing, open to others, or damaged.
    """
    environment = {variable: os.environ[variable] for variable in _BASE if variable in os.environ}
    environment["PYTHONSAFEPATH"] = "1"  # the worker's folder is `/`: nothing is to be imported from there
    environment |= entry.environment
    given = _read(home, name) if name else {}
    return environment | {
        variable: value
        for variable, value in given.items()
        if _ALLOWED.fullmatch(variable) and variable not in entry.ignored
    }


def _read(home: Path, name: str) -> Mapping[str, str]:
    if not _NAME.fullmatch(name):
        raise Paused(f"the run names credentials {name[:80]!r}, which is no name of an entry")
    path = home / "credentials" / f"{name}.json"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Paused(
            f"the run's credentials {path} cannot be read ({error.strerror}): start a run again to store them"
        ) from None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        found = os.fstat(descriptor)
        if found.st_mode & 0o077 or found.st_uid != os.getuid():
            raise Paused(f"the credentials {path} are open to other users: chmod 600 {path}")
        try:
            variables = json.load(file)["env"]
            return {str(variable): str(value) for variable, value in variables.items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Paused(f"the credentials {path} are damaged: {type(error).__name__}: start a run again") from None
