"""Secrets that delivery needs: taken from the training process's environment, kept in files that only the user can read.

They are never part of a spool, of the log, of a wire message or of a command line: a run names an entry of this store.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["collect", "keep"]

_ALLOWED = re.compile(
    r"(?:MLFLOW|WANDB|CLEARML|AWS|GOOGLE|AZURE|SSL)_[A-Z0-9_]+|(?:[A-Z]+_)?PROXY|(?:[a-z]+_)?proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
# Of the process, not of the tracker: a worker must not take them for its own.
_EXCEPT = frozenset(
    {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI", "WANDB_RUN_ID"}
)


def collect(environment: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The variables that a worker for this process's runs may see."""
    allowed = {name: value for name, value in environment.items() if _ALLOWED.fullmatch(name) and name not in _EXCEPT}
    return {**allowed, **extra}


def keep(home: Path, variables: Mapping[str, str]) -> str:
    """Store variables with mode 0600.

    Returns:
        The entry's name; empty when there is nothing to keep.
    """
    if not variables:
        return ""
    body = json.dumps({"env": dict(sorted(variables.items()))})
    name = hashlib.sha256(body.encode()).hexdigest()[:16]
    store = home / "credentials"
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = store / f"{name}.json"
    if not path.exists():
        draft = store / f".{name}.{os.getpid()}.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(body)
        draft.rename(path)
    return name
