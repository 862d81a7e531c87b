"""`tracelet collector`: the collector in the foreground."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.transport.local import Starting

__all__ = ["serve"]


def serve(home: str | None, idle: float | None, listen: str | None) -> NoReturn:
    """Become the collector.

    Args:
        home: tracelet's home; None for the settings'.
        idle: seconds without work after which it ends; None for its default.
        listen: another address to listen on, HOST:PORT.

    Raises:
        HomeError: the home cannot be used.
    """
    options = Options.load().override(home=home)
    words = ["-m", "tracelet_collector", "serve", "--home", str(usable_home(options.home))]
    words += Starting(idle, options.retention_days, options.retention_bytes).words()
    if listen is not None:
        words += ["--listen", listen]
    os.chdir("/")  # the collector's folder, and none whose files could stand for its modules
    os.execv(sys.executable, [sys.executable, *words])
