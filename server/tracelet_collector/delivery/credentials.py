"""What a worker finds in its environment: little of the collector's own, and the credentials that the run names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_collector.exporters.base import Unauthorized
from tracelet_collector.exporters.table import Entry

__all__ = ["newest", "worker_environment"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# What a training process may hand on. Checked again here: nothing that loads code gets into a worker by this way.
_ALLOWED: Final = re.compile(
    r"(?:MLFLOW|WANDB|CLEARML|AWS|GOOGLE|AZURE|DATABRICKS|SSL)_[A-Z0-9_]+"
    r"|(?:[A-Z]+_)?PROXY|(?:[a-z]+_)?proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_REMEDY: Final = "start a run there, or `tracelet sync`, with the tracker's key in the environment"
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
        Unauthorized: the credentials are missing, open to others, or damaged.
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


def newest(home: Path, kind: str, target: str) -> str | None:
    """The name of the credentials that somebody left last for a target: the start of a run there, or `tracelet sync`.

    Args:
        home: tracelet's home.
        kind: of the backend.
        target: the tracker's URI, as runs name it.

    Returns:
        Empty when none are needed; None when nobody left any, or what was left is damaged.
    """
    try:
        place = hashlib.sha256(f"{kind}\0{target}".encode()).hexdigest()[:16]  # as the client has it
        said = _open_private(home / "credentials" / "newest" / f"{place}.json")
        name = said["entry"]
        known = said["kind"] == kind and said["target"] == target and isinstance(name, str)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if known and (not name or _NAME.fullmatch(name)) else None


def _read(home: Path, name: str) -> Mapping[str, str]:
    if not _NAME.fullmatch(name):
        raise Unauthorized(f"the run names credentials {name[:80]!r}, which is no name of an entry")
    path = home / "credentials" / f"{name}.json"
    try:
        variables = _open_private(path)["env"]
        return {str(variable): str(value) for variable, value in variables.items()}
    except PermissionError as error:
        if error.errno is not None:
            raise Unauthorized(f"the run's credentials {path} cannot be read ({error.strerror}): {_REMEDY}") from None
        raise Unauthorized(f"the credentials {path} are open to other users: chmod 600 {path}") from None
    except OSError as error:
        raise Unauthorized(f"the run's credentials {path} cannot be read ({error.strerror}): {_REMEDY}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Unauthorized(f"the credentials {path} are damaged ({type(error).__name__}): {_REMEDY}") from None


def _open_private(path: Path) -> Any:
    """A JSON file of this user's, that nobody else can read.

    Raises:
        PermissionError: somebody can; it has no `errno`, unlike those of the system.
        OSError, ValueError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        found = os.fstat(descriptor)
        if found.st_mode & 0o077 or found.st_uid != os.getuid():
            raise PermissionError
        return json.load(file)
