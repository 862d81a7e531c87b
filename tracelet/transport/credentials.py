"""Secrets that delivery needs: taken from the training process's environment, kept in files that only the user can read.

They are never part of a spool, of the log, of a wire message or of a command line: a run names an entry of this store.

    credentials/<hash of the content>.json               {"env": the variables}
    credentials/newest/<hash of kind and target>.json    {"kind", "target", "entry": the one left last; empty: none needed}

A run whose key the tracker takes no more goes on with the newest one that was left for the same tracker.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["STORE_PASSWORD", "collect", "keep", "leave"]

STORE_PASSWORD = "MLFLOW_STORE_PASSWORD"  # of a database; the address that is shown and stored has none

_ALLOWED = re.compile(
    r"(?:MLFLOW|WANDB|CLEARML|AWS|GOOGLE|AZURE|DATABRICKS|SSL)_[A-Z0-9_]+|(?:[A-Z]+_)?PROXY|(?:[a-z]+_)?proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
# Of the process, not of the tracker: a worker must not take them for its own.
_EXCEPT = frozenset(
    {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"}
    | {"CLEARML_TASK_ID", "CLEARML_PROC_MASTER_ID"}
)
# Of wandb's, which has one for each of its settings, a worker gets these: the others are of one run or process, and runs whose
# credentials differ have workers of their own.
_WANDB = frozenset(
    {"WANDB_API_KEY", "WANDB_APP_URL", "WANDB_HTTP_TIMEOUT", "WANDB_INSECURE_DISABLE_SSL", "WANDB_FILE_PUSHER_TIMEOUT"}
)


def collect(environment: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The variables that a worker for this process's runs may see."""
    allowed = {
        name: value
        for name, value in environment.items()
        if _ALLOWED.fullmatch(name) and name not in _EXCEPT and (name in _WANDB or not name.startswith("WANDB_"))
    }
    return {**allowed, **extra}


def keep(home: Path, variables: Mapping[str, str]) -> str:
    """Store variables with mode 0600.

    Returns:
        The entry's name; empty when there is nothing to keep.

    Raises:
        OSError: they cannot be written.
    """
    if not variables:
        return ""
    body = json.dumps({"env": dict(sorted(variables.items()))})
    name = hashlib.sha256(body.encode()).hexdigest()[:16]
    _write(home / "credentials" / f"{name}.json", body)
    return name


def leave(home: Path, kind: str, target: str, name: str) -> bool:
    """Say that an entry is the newest for a tracker: older runs there go on with it, where their own is refused.

    Args:
        home: tracelet's home.
        kind: of the backend.
        target: the tracker's address, as runs name it.
        name: the entry's; empty when none is needed.

    Returns:
        Whether another one was the newest before.

    Raises:
        OSError: it cannot be written.
    """
    place = hashlib.sha256(f"{kind}\0{target}".encode()).hexdigest()[:16]
    body = json.dumps({"kind": kind, "target": target, "entry": name})
    return _write(home / "credentials" / "newest" / f"{place}.json", body)


def _write(path: Path, body: str) -> bool:
    """Write a file that only this user can read, whole or not at all. False: it is there as it should be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_kept(path, body):
        return False
    # Several processes and threads may be at it at once; each has written all of it.
    draft = path.with_name(f".{path.stem}.{os.urandom(16).hex()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(body)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return True


def _is_kept(path: Path, body: str) -> bool:
    """Whether the entry is there, whole, and closed to others: a worker takes no other."""
    try:
        with path.open() as file:
            return stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600 and file.read() == body
    except (OSError, ValueError):
        return False
