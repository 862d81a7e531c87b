"""Which trackers a run goes to: resolved in the training process, as the tracker's own SDK would."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tracelet.core.experiment import BackendTarget
from tracelet.errors import BackendNotInstalledError, ConfigurationError, UnknownBackendError
from tracelet.transport import credentials

__all__ = ["KNOWN", "check_installed", "mlflow_target", "resolve"]

# kind -> (module that must be importable, package that brings it)
KNOWN: Final[Mapping[str, tuple[str, str]]] = {"mlflow": ("mlflow", "mlflow")}
_API_KEYS: Final = {"mlflow": "MLFLOW_TRACKING_TOKEN"}


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
        ConfigurationError: one key or address for several backends.
    """
    if len(kinds) > 1 and isinstance(api_key, str):
        raise ConfigurationError("one api_key for several backends: give a dict, {backend: key}")
    if len(kinds) > 1 and backend_url is not None:
        raise ConfigurationError("one backend_url for several backends: set each tracker's own variable instead")
    targets = []
    for kind in dict.fromkeys(kinds):
        check_installed(kind)
        key = api_key if isinstance(api_key, str) else (api_key or {}).get(kind)
        secrets = credentials.collect(os.environ, {_API_KEYS[kind]: key} if key else {})
        targets.append(
            BackendTarget(
                kind=kind,
                target=mlflow_target(backend_url),
                interpreter=sys.executable,
                credentials=credentials.keep(home, secrets),
            )
        )
    return tuple(targets)


def check_installed(kind: str) -> None:
    """Whether this Python has the backend's package.

    Raises:
        UnknownBackendError: a backend that tracelet does not have.
        BackendNotInstalledError: its package is missing.
    """
    if kind not in KNOWN:
        raise UnknownBackendError(kind, tuple(KNOWN))
    module, package = KNOWN[kind]
    if module not in sys.modules and importlib.util.find_spec(module) is None:
        raise BackendNotInstalledError(kind, package, sys.executable)


def mlflow_target(asked: str | None) -> str:
    """MLflow's tracking URI, absolute: the one asked for, `MLFLOW_TRACKING_URI`, or `mlflow.db` in the working directory."""
    uri = asked or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    # The processes of one `tracelet run` may work in several folders; the run goes to one place.
    here = Path(os.environ.get("TRACELET_RUN_DIR") or Path.cwd())
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{here / uri.removeprefix('sqlite:///')}"
    if "://" not in uri and not uri.startswith(("databricks", "file:")):
        return (here / uri).absolute().as_uri()
    return uri
