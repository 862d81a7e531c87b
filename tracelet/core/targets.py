"""Which trackers a run goes to: resolved in the training process, as the tracker's own SDK would."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from tracelet.core.plan import BackendTarget
from tracelet.errors import BackendNotInstalledError, ConfigurationError, HomeError, UnknownBackendError
from tracelet.transport import credentials

__all__ = ["KNOWN", "check_installed", "check_mlflow_target", "mlflow_target", "resolve"]

# kind -> (module that must be importable, package that brings it)
KNOWN: Final[Mapping[str, tuple[str, str]]] = {"mlflow": ("mlflow", "mlflow")}
# kind -> the variable that holds its key, and those that would go before it
_API_KEYS: Final = {"mlflow": ("MLFLOW_TRACKING_TOKEN", ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"))}
_LATER: Final = ("wandb", "clearml")  # a script may hold their keys already
_SQLITE: Final = re.compile(r"(sqlite(?:\+\w+)?://)/?([^?]*)(.*)", re.DOTALL)
_DATABASE: Final = re.compile(r"(?:sqlite|postgresql|mysql|mssql)(?:\+\w+)?://")


def resolve(
    kinds: Sequence[str],
    home: Path,
    backend_url: str | None = None,
    api_key: str | Mapping[str, str] | None = None,
) -> tuple[BackendTarget, ...]:
    """Targets and credentials of the backends that were asked for.

    Args:
        kinds: names of backends.
        home: tracelet's home; credentials are kept there.
        backend_url: the tracker's address; by default what its own SDK would use.
        api_key: its key; with several backends a mapping.

    Raises:
        UnknownBackendError: a backend that tracelet does not have.
        BackendNotInstalledError: its package is missing.
        ConfigurationError: one key or address for several backends, or one that makes no sense.
        HomeError: credentials cannot be kept.
    """
    kinds = list(dict.fromkeys(kinds))
    if backend_url is not None and not isinstance(backend_url, str | os.PathLike):
        raise ConfigurationError(f"backend_url={backend_url!r} makes no sense; give an address")
    if len(kinds) > 1 and backend_url is not None:
        raise ConfigurationError("one backend_url for several backends: set each tracker's own variable instead")
    keys = _keys(kinds, api_key)
    found = []
    for kind in kinds:
        check_installed(kind)
        target, secrets = _without_secrets(mlflow_target(None if backend_url is None else os.fspath(backend_url)))
        found.append((kind, _sendable(target), secrets))
    return tuple(
        BackendTarget(kind, target, _sendable(sys.executable), _keep(home, kind, secrets, keys.get(kind)))
        for kind, target, secrets in found
    )


def _keys(kinds: Sequence[str], api_key: Any) -> Mapping[str, str]:
    if api_key is None:
        return {}
    if isinstance(api_key, str):
        if len(kinds) > 1:
            raise ConfigurationError("one api_key for several backends: give a dict, {backend: key}")
        return {kinds[0]: api_key}
    if not isinstance(api_key, Mapping) or not all(isinstance(key, str) for key in api_key.values()):
        raise ConfigurationError("api_key makes no sense; give a str, or a dict, {backend: key}")
    for kind in api_key:
        if kind not in (*KNOWN, *_LATER):
            raise UnknownBackendError(kind, tuple(KNOWN))
    return api_key


def check_installed(kind: str) -> None:
    """Whether this Python has the backend's package.

    Raises:
        UnknownBackendError: a backend that tracelet does not have.
        BackendNotInstalledError: its package is missing.
    """
    if kind not in KNOWN:
        raise UnknownBackendError(kind, tuple(KNOWN))
    module, package = KNOWN[kind]
    if not _is_there(module):
        raise BackendNotInstalledError(kind, package, sys.executable)


def _is_there(module: str) -> bool:
    if sys.modules.get(module) is not None:
        return True
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of that name in the working directory has none


def mlflow_target(asked: str | None) -> str:
    """MLflow's tracking URI, absolute: the one asked for, `MLFLOW_TRACKING_URI`, or `mlflow.db` in the working directory.

    Raises:
        BackendNotInstalledError: it is a database, and this is mlflow-skinny.
        ConfigurationError: it is kept in memory, or is a folder.
    """
    uri = check_mlflow_target(asked)
    if _DATABASE.match(uri) and not _is_there("sqlalchemy"):
        raise BackendNotInstalledError("mlflow", "sqlalchemy", sys.executable)
    if sqlite := _SQLITE.fullmatch(uri):
        scheme, path, query = sqlite.groups()
        if not path.startswith("/"):
            # The user's part is an address already; the folder becomes one: `%20` in an address is a blank.
            path = str(_here()).rstrip("/").replace("%", "%25").replace("?", "%3F") + "/" + path
        return f"{scheme}/{path}{query}"
    return uri


def check_mlflow_target(asked: str | None = None) -> str:
    """Whether MLflow's tracking URI is a place to deliver to, whatever is installed here; as it was given.

    Raises:
        ConfigurationError: it is kept in memory, or is a folder.
    """
    uri = asked or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if (sqlite := _SQLITE.fullmatch(uri)) and sqlite[2] in ("", ":memory:"):
        raise ConfigurationError(f"{uri} is gone when its process ends; give a file, as sqlite:///mlflow.db")
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith("databricks")):
        folder = Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else _here() / uri
        database = shlex.quote(f"sqlite:///{folder.parent}/mlflow.db")
        raise ConfigurationError(
            f"{uri} is a folder, MLflow's file store, which MLflow itself no longer writes to. Give a database or a server: "
            f"MLFLOW_TRACKING_URI={database}. What is in the folder gets there by:  mlflow migrate-filestore --source "
            f"{shlex.quote(str(folder))} --target {database}"
        )
    return uri


def _here() -> Path:
    """The folder that relative targets lie in: one for all processes of a `tracelet run`, wherever they work."""
    try:
        return Path(os.environ.get("TRACELET_RUN_DIR") or Path.cwd())
    except FileNotFoundError:
        raise ConfigurationError(
            "the working directory is gone, and the target is relative to it; give backend_url or MLFLOW_TRACKING_URI an "
            "absolute one"
        ) from None


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


def _keep(home: Path, kind: str, secrets: Mapping[str, str], key: str | None) -> str:
    variables = credentials.collect(os.environ, secrets)
    if key:
        name, others = _API_KEYS[kind]
        variables = {**{name: value for name, value in variables.items() if name not in others}, name: key}
    try:
        return credentials.keep(home, variables)
    except OSError as error:
        raise HomeError(home, error.strerror or str(error)) from error


def _sendable(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{word!a} cannot be told to a tracker: it is not UTF-8") from None
    return word
