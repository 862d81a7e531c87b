"""Where runs go in W&B, as wandb itself would find it: a server and its entity, or a folder.

    https://api.wandb.ai            the key's own entity
    https://api.wandb.ai/my-team    another one
    https://host/wandb/             a server below a path: one that ends in `/` is all address
    offline:/abs/dir                folders `/abs/dir/wandb/offline-run-…`, for `wandb sync`

wandb is not imported: that takes longer than `start_logging` may.
"""

from __future__ import annotations

import configparser
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from tracelet.core.here import here
from tracelet.errors import ConfigurationError

__all__ = ["check", "check_key", "resolve"]

_CLOUD: Final = "https://api.wandb.ai"
# One service under several names; wandb looks for a key under each.
_CLOUD_HOSTS: Final = ("api.wandb.ai", "api.forge.coreweave.com")
_OFFLINE_MODES: Final = ("offline", "dryrun")
_ONLINE_MODES: Final = ("online", "run", "shared", "")


def resolve(asked: str | None) -> tuple[str, dict[str, str]]:
    """The target as it may be shown and stored, and the variables that hold the key.

    Args:
        asked: an address, with the entity behind it; `offline`, or `offline:` and a folder. By default what wandb's own
            variables and settings files say.

    Raises:
        ConfigurationError: wandb is switched off, or the address makes no sense.
    """
    target = check(asked)
    if target.startswith("offline:"):
        return target, {}
    key = _key(urlsplit(target).netloc)
    return target, {"WANDB_API_KEY": key} if key else {}


def check(asked: str | None = None) -> str:
    """Whether the target is a place to deliver to, whatever is installed here; as it is stored.

    Raises:
        ConfigurationError: it is not.
    """
    settings = _settings()
    if asked and (asked == "offline" or asked.startswith("offline:")):
        return _offline(asked.removeprefix("offline").removeprefix(":"))
    if not asked:
        mode = (os.environ.get("WANDB_MODE") or settings.get("mode") or "").strip().lower()
        if mode == "disabled":
            raise ConfigurationError(
                'WANDB_MODE=disabled switches W&B off: take "wandb" out of the backends, or set WANDB_MODE=offline or online'
            )
        if mode in _OFFLINE_MODES:
            return _offline("")
        if mode not in _ONLINE_MODES:
            raise ConfigurationError(f"WANDB_MODE={mode} makes no sense; give online, offline or disabled")
    base = asked or os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or _CLOUD
    entity = "" if asked and _has_entity(asked) else os.environ.get("WANDB_ENTITY") or settings.get("entity") or ""
    return _online(base.strip(), entity.strip())


def check_key(target: str, secrets: Mapping[str, str], key: str | None) -> None:
    """Whether there is a key for a target.

    Args:
        target: as `resolve` has it.
        secrets: what came with it.
        key: the one that was given.

    Raises:
        ConfigurationError: there is none.
    """
    if not (target.startswith("offline:") or secrets.get("WANDB_API_KEY") or key):
        raise ConfigurationError(
            f"there is no API key for W&B at {target}. Run `wandb login`, set WANDB_API_KEY, give api_key=…, or write to a "
            "folder with WANDB_MODE=offline"
        )


def _online(base: str, entity: str) -> str:
    try:
        parts = urlsplit(base)
        user = parts.username
    except ValueError:
        parts, user = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"{base} is no address of a W&B server; give one as {_CLOUD}")
    if user is not None:
        host = parts.netloc.rpartition("@")[2]
        raise ConfigurationError(f"W&B's address at {host} holds a key: give it as WANDB_API_KEY or api_key=…")
    if re.search(r"(^|\.)wandb\.ai$", parts.netloc) and not parts.netloc.startswith("api."):
        raise ConfigurationError(f"{base} is W&B's page, not its server; give {_CLOUD}")
    if parts.netloc in ("forge.coreweave.com",):
        raise ConfigurationError(f"{base} is W&B's page, not its server; give https://api.{parts.netloc}")
    path = parts.path
    if entity:
        path = f"{path.rstrip('/')}/{quote(entity, safe='')}"
    elif path == "/":
        path = ""
    elif path and not _has_entity(base):
        path = f"{path.rstrip('/')}/"
    return parts._replace(path=path, query="", fragment="").geturl()


def _has_entity(address: str) -> bool:
    """Whether an address that was asked for names the entity: the end of its path, unless that is a `/`."""
    path = urlsplit(address).path
    return bool(path) and not path.endswith("/")


def _offline(folder: str) -> str:
    folder = folder or os.environ.get("WANDB_DIR") or ""
    path = Path(folder).expanduser()
    return f"offline:{os.path.normpath(path if path.is_absolute() else here() / path)}"


def _settings() -> dict[str, str]:
    """What wandb's settings files say; that of the folder goes before that of the user."""
    config = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    found: dict[str, str] = {}
    root = Path(os.environ.get("WANDB_DIR") or here())
    local = root / (".wandb" if (root / ".wandb").exists() else "wandb")
    for path in (Path(config).expanduser() / "settings", local / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            if parser.read(path, encoding="utf-8") and parser.has_section("default"):
                found |= dict(parser.items("default"))
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # wandb does without it, too
    return found


def _key(host: str) -> str:
    """The API key: of the environment, of the netrc, or of a settings file."""
    if key := os.environ.get("WANDB_API_KEY", "").strip():
        return key
    hosts = _CLOUD_HOSTS if host in _CLOUD_HOSTS else (host,)
    try:
        entries = netrc.netrc(_netrc())
        for name in hosts:
            if (entry := entries.authenticators(name)) and entry[2]:
                return entry[2]
    except (OSError, netrc.NetrcParseError):
        pass
    return _settings().get("api_key", "").strip()


def _netrc() -> Path:
    given = os.environ.get("NETRC")
    return Path(given).expanduser() if given else Path("~/.netrc").expanduser()
