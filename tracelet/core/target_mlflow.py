"""MLflow's tracking URI, as MLflow itself would find it: absolute, and without its password."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tracelet.core.here import here, is_there
from tracelet.errors import BackendNotInstalledError, ConfigurationError
from tracelet.transport import credentials

__all__ = ["check", "mlflow_target", "resolve"]

_SQLITE: Final = re.compile(r"(sqlite(?:\+\w+)?://)/?([^?]*)(.*)", re.DOTALL)
_DATABASE: Final = re.compile(r"(?:sqlite|postgresql|mysql|mssql)(?:\+\w+)?://")


def resolve(asked: str | None) -> tuple[str, dict[str, str]]:
    """The tracking URI as it may be shown and stored, and the variables that hold what was taken out of it.

    Raises:
        BackendNotInstalledError: it is a database, and this is mlflow-skinny.
        ConfigurationError: it is kept in memory, or is a folder.
    """
    return _without_secrets(mlflow_target(asked))


def mlflow_target(asked: str | None) -> str:
    """MLflow's tracking URI, absolute: the one asked for, `MLFLOW_TRACKING_URI`, or `mlflow.db` in the working directory.

    Raises:
        BackendNotInstalledError: it is a database, and this is mlflow-skinny.
        ConfigurationError: it is kept in memory, or is a folder.
    """
    uri = check(asked)
    if _DATABASE.match(uri) and not is_there("sqlalchemy"):
        raise BackendNotInstalledError("mlflow", "sqlalchemy", sys.executable)
    if sqlite := _SQLITE.fullmatch(uri):
        scheme, path, query = sqlite.groups()
        if not path.startswith("/"):
            # The user's part is an address already; the folder becomes one: `%20` in an address is a blank.
            path = str(here()).rstrip("/").replace("%", "%25").replace("?", "%3F") + "/" + path
        return f"{scheme}/{path}{query}"
    return uri


def check(asked: str | None = None) -> str:
    """Whether MLflow's tracking URI is a place to deliver to, whatever is installed here; as it was given.

    Raises:
        ConfigurationError: it is kept in memory, or is a folder.
    """
    uri = asked or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if (sqlite := _SQLITE.fullmatch(uri)) and sqlite[2] in ("", ":memory:"):
        raise ConfigurationError(f"{uri} is gone when its process ends; give a file, as sqlite:///mlflow.db")
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith("databricks")):
        folder = Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else here() / uri
        database = shlex.quote(f"sqlite:///{folder.parent}/mlflow.db")
        raise ConfigurationError(
            f"{uri} is a folder, MLflow's file store, which MLflow itself no longer writes to. Give a database or a server: "
            f"MLFLOW_TRACKING_URI={database}. What is in the folder gets there by:  mlflow migrate-filestore --source "
            f"{shlex.quote(str(folder))} --target {database}"
        )
    return uri


def _without_secrets(uri: str) -> tuple[str, dict[str, str]]:
    """An address as it may be shown and stored, and the variables that hold what was taken out of it."""
    try:
        parts = urlsplit(uri)
        user, password = parts.username, parts.password
    except ValueError:
        return uri, {}
    if not password:
        return uri, {}
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme in ("http", "https"):
        secrets = {"MLFLOW_TRACKING_USERNAME": unquote(user or ""), "MLFLOW_TRACKING_PASSWORD": unquote(password)}
        return parts._replace(netloc=host).geturl(), secrets
    return parts._replace(netloc=f"{user or ''}@{host}").geturl(), {credentials.STORE_PASSWORD: unquote(password)}
