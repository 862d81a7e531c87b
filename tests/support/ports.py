"""A port for a server that a test starts in another process, which is told its number."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

# Below those that systems give out by themselves: nobody is given it between this look and the server's start.
_FIRST, _LAST = 20000, 32000


def free_port() -> int:
    """One on which nobody listens."""
    chance = random.SystemRandom()
    while True:
        port = chance.randint(_FIRST, _LAST)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
