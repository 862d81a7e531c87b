"""Which trackers a run goes to: resolved in the training process, as the tracker's own SDK would."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracelet.core.here import is_there
from tracelet.core.plan import BackendTarget
from tracelet.errors import BackendNotInstalledError, ConfigurationError, HomeError, TraceletError, UnknownBackendError
from tracelet.transport import credentials

__all__ = ["KNOWN", "TRACKERS", "Tracker", "check", "check_installed", "check_key", "leave_key", "resolve", "shown"]


@dataclass(frozen=True, slots=True)
class Tracker:
    """A tracker that runs can go to.

    Attributes:
        module: what must be importable.
        package: what brings it.
        resolver: the module of ours that knows its targets: `resolve(asked)` and `check(asked)`; and, where nothing goes
            without a key, `check_key(target, secrets, key)`.
        key: the variable that holds its key; empty when it has none.
        instead: variables that would go before the key.
    """

    module: str
    package: str
    resolver: str
    key: str
    instead: tuple[str, ...] = ()


TRACKERS: Final[Mapping[str, Tracker]] = {
    "mlflow": Tracker(
        "mlflow",
        "mlflow",
        "tracelet.core.target_mlflow",
        key="MLFLOW_TRACKING_TOKEN",
        instead=("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    ),
    "clearml": Tracker(
        "clearml",
        "clearml",
        "tracelet.core.target_clearml",
        key="CLEARML_API_KEY_PAIR",
        instead=("CLEARML_AUTH_TOKEN",),
    ),
    "tensorboard": Tracker("tensorboard", "tensorboard", "tracelet.core.target_tensorboard", key=""),
    "wandb": Tracker("wandb", "wandb", "tracelet.core.target_wandb", key="WANDB_API_KEY"),
}
KNOWN: Final = tuple(TRACKERS)


def resolve(
    kinds: Sequence[str],
    home: Path,
    backend_url: str | Mapping[str, str] | None = None,
    api_key: str | Mapping[str, str] | None = None,
) -> tuple[BackendTarget, ...]:
    """Targets and credentials of the backends that were asked for.

    Args:
        kinds: names of backends.
        home: tracelet's home; credentials are kept there.
        backend_url: the tracker's address, with several backends a mapping; by default what its own SDK would use.
        api_key: its key; with several backends a mapping.

    Raises:
        UnknownBackendError: a backend that tracelet does not have.
        BackendNotInstalledError: its package is missing.
        ConfigurationError: one key or address for several backends, or one that makes no sense.
        HomeError: credentials cannot be kept.
    """
    kinds = list(dict.fromkeys(kinds))
    addresses, keys = _addresses(kinds, backend_url), _keys(kinds, api_key)
    found = []
    for kind in kinds:
        check_installed(kind)
        resolver = _resolver(kind)
        target, secrets = resolver.resolve(addresses.get(kind))
        if (check := getattr(resolver, "check_key", None)) is not None:
            check(target, secrets, keys.get(kind))
        found.append((kind, _sendable(target), secrets))
    return tuple(
        BackendTarget(kind, target, _sendable(sys.executable), _keep(home, kind, target, secrets, keys.get(kind)))
        for kind, target, secrets in found
    )


def _addresses(kinds: Sequence[str], backend_url: Any) -> Mapping[str, str]:
    if backend_url is None:
        return {}
    if isinstance(backend_url, str | os.PathLike):
        if len(kinds) > 1:
            raise ConfigurationError(
                "one backend_url for several backends: give a dict, {backend: address}, or set each tracker's own variable"
            )
        backend_url = {kinds[0]: backend_url}
    if not isinstance(backend_url, Mapping):
        raise ConfigurationError(f"backend_url={backend_url!r} makes no sense; give an address")
    for kind, address in backend_url.items():
        if kind not in KNOWN:
            raise UnknownBackendError(kind, KNOWN)
        if not isinstance(address, str | os.PathLike):
            raise ConfigurationError(f"backend_url={{{kind!r}: {address!r}}} makes no sense; give an address")
    return {kind: str(os.fspath(address)) for kind, address in backend_url.items()}


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
        if kind not in KNOWN:
            raise UnknownBackendError(kind, KNOWN)
    return api_key


def check_installed(kind: str) -> None:
    """Whether this Python has the backend's package.

    Raises:
        UnknownBackendError: a backend that tracelet does not have.
        BackendNotInstalledError: its package is missing.
    """
    if kind not in KNOWN:
        raise UnknownBackendError(kind, KNOWN)
    if not is_there(TRACKERS[kind].module):
        raise BackendNotInstalledError(kind, TRACKERS[kind].package, sys.executable)


def check(kind: str) -> None:
    """Whether a backend's target makes sense here, whatever is installed.

    Raises:
        ConfigurationError: it does not.
    """
    _resolver(kind).check(None)


def shown(kind: str) -> str:
    """Where a run that is started here would go, as it may be shown.

    Raises:
        TraceletError: nowhere.
    """
    check_installed(kind)
    target: str = _resolver(kind).resolve(None)[0]
    return target


def check_key(kind: str) -> None:
    """Whether this environment has the key that a run started here needs.

    Raises:
        TraceletError: it has none, or a run would go nowhere.
    """
    resolver = _resolver(kind)
    if (check := getattr(resolver, "check_key", None)) is not None:
        check(*resolver.resolve(None), None)


def leave_key(home: Path, kind: str, target: str) -> bool:
    """Leave this process's credentials for the runs that go to a tracker, when they are meant for it.

    They are, when this environment names the tracker, or no server at all: a key is not shown to a server it is not of.

    Args:
        home: tracelet's home; credentials are kept there.
        kind: of the backend.
        target: where runs go.

    Returns:
        Whether there are other ones now than before.

    Raises:
        HomeError: they cannot be kept.
    """
    try:
        named, secrets = _resolver(kind).resolve(None)
    except (KeyError, TraceletError):
        return False
    variables = credentials.collect(os.environ, secrets)
    server = "://" in named and not named.startswith(("sqlite:", "file:"))
    if not variables or (server and named != target):
        return False
    try:
        return credentials.leave(home, kind, target, credentials.keep(home, variables))
    except OSError as error:
        raise HomeError(home, error.strerror or str(error)) from error


def _resolver(kind: str) -> Any:
    return importlib.import_module(TRACKERS[kind].resolver)


def _keep(home: Path, kind: str, target: str, secrets: Mapping[str, str], key: str | None) -> str:
    variables = credentials.collect(os.environ, secrets)
    tracker = TRACKERS[kind]
    if key and tracker.key:
        variables = {name: value for name, value in variables.items() if name not in tracker.instead} | {
            tracker.key: key
        }
    try:
        name = credentials.keep(home, variables)
        credentials.leave(home, kind, target, name)
        return name
    except OSError as error:
        raise HomeError(home, error.strerror or str(error)) from error


def _sendable(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{word!a} cannot be told to a tracker: it is not UTF-8") from None
    return word
