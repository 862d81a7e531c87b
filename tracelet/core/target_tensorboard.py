"""The folder that runs are written to for TensorBoard, as an absolute `file:` address."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tracelet.core.here import here
from tracelet.core.options import ENV_FILE, ENV_PREFIX, variable
from tracelet.errors import ConfigurationError

__all__ = ["DEFAULT", "check", "resolve"]

# No SummaryWriter and no logger chooses this by itself, as they do `runs`, `lightning_logs`, `logs` or `tensorboard`: below a
# `tensorboard --logdir` of one of those, each point would be there twice.
DEFAULT: Final = "tracelet-tensorboard"
_VARIABLE: Final = "TENSORBOARD_DIR"


def resolve(asked: str | None) -> tuple[str, dict[str, str]]:
    """The folder as it may be shown and stored, and no secrets.

    Raises:
        ConfigurationError: it is no folder of this machine.
    """
    return _folder(asked).as_uri(), {}


def check(asked: str | None = None) -> str:
    """Whether the folder can be one; as an address.

    Raises:
        ConfigurationError: it is no folder of this machine.
    """
    return _folder(asked).as_uri()


def _folder(asked: str | None) -> Path:
    """The one asked for, `TRACELET_TENSORBOARD_DIR`, or `tracelet-tensorboard` in the working directory."""
    given = asked or variable(_VARIABLE, ENV_FILE) or DEFAULT
    path = given
    if given.startswith("file:"):
        parts = urlsplit(given)
        path = unquote(parts.path) if parts.netloc in ("", "localhost") else ""
    elif "://" in given:
        path = ""
    if not path.strip() or "\0" in path:
        raise ConfigurationError(
            f"{given!r} is no folder of this machine; give one by {ENV_PREFIX}{_VARIABLE} or backend_url"
        )
    folder = Path(os.path.normpath(here() / Path(path).expanduser()))
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder: TensorBoard's event files cannot be written there")
    return folder
