"""Where relative targets lie, and what is installed here."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from tracelet.errors import ConfigurationError

__all__ = ["here", "is_there"]


def is_there(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    if sys.modules.get(module) is not None:
        return True
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of that name in the working directory has none


def here() -> Path:
    """The folder that relative targets lie in: one for all processes of a `tracelet run`, wherever they work."""
    try:
        return Path(os.environ.get("TRACELET_RUN_DIR") or Path.cwd())
    except FileNotFoundError:
        raise ConfigurationError(
            "the working directory is gone, and the target is relative to it; give backend_url, or the tracker's "
            "own variable, an absolute one"
        ) from None
