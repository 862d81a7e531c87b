"""Where ClearML's own SDK would report to: a server, by the environment or `clearml.conf`, or offline sessions in a folder.

    https://api.clear.ml      the API server; the addresses of the web and the files server are among the credentials
    offline:/absolute/folder  the folder that has the sessions `offline-<…>` and their zips

Without importing clearml, which takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tracelet.core.here import here
from tracelet.core.hocon import read_hocon
from tracelet.errors import ConfigurationError

__all__ = ["check", "check_key", "resolve"]

_OFFLINE: Final = "offline"
_DEFAULT_HOST: Final = "https://api.clear.ml"
_DEFAULT_CACHE: Final = "~/.clearml/cache"
_ACCESS: Final = "CLEARML_API_ACCESS_KEY"
_SECRET: Final = "CLEARML_API_SECRET_KEY"
# Variables, and what stands for them in the file.
_KEYS: Final[Mapping[str, str]] = {_ACCESS: "api.credentials.access_key", _SECRET: "api.credentials.secret_key"}
_HOSTS: Final[Mapping[str, str]] = {"CLEARML_WEB_HOST": "api.web_server", "CLEARML_FILES_HOST": "api.files_server"}
_CERTIFICATE: Final = "CLEARML_API_HOST_VERIFY_CERT"
_NO: Final = frozenset({"", "0", "false", "no", "off", "f", "n"})


def resolve(asked: str | None) -> tuple[str, dict[str, str]]:
    """The target as it may be shown and stored, and the variables that its worker needs.

    Args:
        asked: the API server's address, `offline`, or `offline:` and a folder; None for what ClearML's SDK would take.

    Raises:
        ConfigurationError: it makes no sense.
    """
    target = check(asked)
    file, said = _configuration()
    secrets = {"CLEARML_CONFIG_FILE": str(file)} if file else {}
    if target == _OFFLINE:
        cache = _variable("CACHE_DIR") or said.get("sdk.storage.cache.default_base_dir") or _DEFAULT_CACHE
        return f"{_OFFLINE}:{_absolute(cache) / 'offline'}", secrets
    if target.startswith(f"{_OFFLINE}:"):
        return f"{_OFFLINE}:{_absolute(target.removeprefix(f'{_OFFLINE}:'))}", secrets
    configured = _configured_host(said)
    names = dict(_KEYS)
    if not target or target == configured:  # another server's neighbours are not its own
        names |= _HOSTS
    for variable, name in names.items():
        if value := _variable(variable.removeprefix("CLEARML_")) or said.get(name, ""):
            secrets[variable] = value
    if not _variable(_CERTIFICATE.removeprefix("CLEARML_")) and (value := said.get("api.verify_certificate", "")):
        secrets[_CERTIFICATE] = value
    return target or configured, secrets


def check(asked: str | None = None) -> str:
    """Whether the target is a place to deliver to, whatever is installed here; as it was given.

    Returns:
        An address, `offline`, `offline:` and a folder; empty for the server of `clearml.conf`.

    Raises:
        ConfigurationError: it makes no sense.
    """
    said = (asked or "").strip()
    if not said and _variable("OFFLINE_MODE").lower() not in _NO:
        return _OFFLINE
    said = said or _variable("API_HOST")
    if not said or said == _OFFLINE:
        return said
    if said.startswith(f"{_OFFLINE}:"):
        if not said.removeprefix(f"{_OFFLINE}:"):
            raise ConfigurationError(f"{said!r} names no folder; give offline:/a/folder, or offline for ClearML's own")
        return said
    try:
        parts = urlsplit(said)
        user, host = parts.username, parts.hostname
    except ValueError:
        user, host = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{said!r} is no ClearML API server; give its address, as https://api.clear.ml or http://host:8008, or offline"
        )
    if user:
        raise ConfigurationError(
            f"the address of {host} has a user in it; ClearML's keys go into {_ACCESS} and {_SECRET}, or api_key"
        )
    return said.rstrip("/")


def check_key(target: str, secrets: dict[str, str], key: str | None) -> None:
    """Whether there are keys for a server; those of `api_key` are put among the variables.

    Args:
        target: as `resolve` has it.
        secrets: `resolve`'s variables.
        key: what was given as `api_key`: the access key and the secret key, with a colon between.

    Raises:
        ConfigurationError: there are none, or they make no sense.
    """
    if target.startswith(f"{_OFFLINE}:"):
        return
    if key:
        access, colon, secret = (part.strip() for part in key.partition(":"))
        if not (colon and access and secret):
            raise ConfigurationError('api_key makes no sense for ClearML; give "<access key>:<secret key>"')
        secrets |= {_ACCESS: access, _SECRET: secret}
    elif not _variable("AUTH_TOKEN") and not (secrets.get(_ACCESS) and secrets.get(_SECRET)):
        raise ConfigurationError(
            f"there are no keys for ClearML at {target}. Run clearml-init, or set {_ACCESS} and {_SECRET}; "
            "CLEARML_OFFLINE_MODE=1 keeps runs in offline sessions instead"
        )


def _configured_host(said: Mapping[str, str]) -> str:
    host = _variable("API_HOST") or said.get("api.api_server") or said.get("api.host") or _DEFAULT_HOST
    return host.rstrip("/")


def _configuration() -> tuple[Path | None, dict[str, str]]:
    """The file that ClearML would read, and what it says. One that cannot be read says nothing, as for ClearML."""
    given = _variable("CONFIG_FILE")
    found: Path | None = None
    said: dict[str, str] = {}
    for name in [given] if given else ["~/trains.conf", "~/clearml.conf"]:
        path = _absolute(name)
        try:
            said |= read_hocon(path.read_text(encoding="utf-8", errors="replace"))
            found = path
        except OSError:
            continue
    return found, said


def _absolute(path: str) -> Path:
    return here() / os.path.expandvars(os.path.expanduser(path))


def _variable(name: str) -> str:
    """A variable of ClearML's, or of what it was called before."""
    return (os.environ.get(f"CLEARML_{name}") or os.environ.get(f"TRAINS_{name}") or "").strip()
