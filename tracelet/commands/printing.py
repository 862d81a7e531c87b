"""Where tables are printed: as wide as the terminal; in a pipe or a file, where others read the lines, as wide as they are."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["stdout"]

_WIDE: Final = 10_000


def stdout() -> Console:
    """A console on stdout."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(width=_WIDE if wide else None)
