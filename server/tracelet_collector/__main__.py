"""`python -m tracelet_collector serve`: one collector for one home."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelet_collector.app import DeliveryMaker

__all__ = ["main", "serve"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="tracelet_collector", description="tracelet's collector")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("serve", help="serve a home until nobody needs it")
    command.add_argument("--home", type=Path, required=True, help="tracelet's home")
    command.add_argument(
        "--idle",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="exit after this long without anything to do (inf: never)",
    )
    command.add_argument("--listen", metavar="HOST:PORT", help="also listen on this TCP address (loopback only)")
    command.add_argument(
        "--retention-days",
        type=float,
        default=30.0,
        metavar="DAYS",
        help="keep a run's records so long after its end (0: for ever)",
    )
    command.add_argument(
        "--retention-bytes",
        type=int,
        default=20 * 2**30,
        metavar="BYTES",
        help="beyond so many bytes of log and blobs the oldest runs go (0: no limit)",
    )
    options = parser.parse_args(arguments)
    limits = options.retention_days, options.retention_bytes
    return serve(options.home.expanduser().absolute(), options.idle, options.listen, limits=limits)


def serve(
    home: Path,
    idle: float,
    listen: str | None,
    delivery: DeliveryMaker | None = None,
    limits: tuple[float, int] = (0.0, 0),
) -> int:
    """Serve a home until somebody says stop or nobody needs it.

    Args:
        home: tracelet's home; an absolute path.
        idle: seconds without anything to do after which the collector exits.
        listen: a TCP address to listen on, beside the private socket.
        delivery: makes the room that delivers; by default tracelet's own.
        limits: days that a run's records are kept after its end, and bytes beyond which the oldest go; 0: no limit.

    Returns:
        The exit code: 0, also when another collector serves the home already; 1 when it could not serve.
    """
    os.umask(0o077)
    # Who starts a collector may have signals blocked, as `tracelet run` has when one of them has come, and a mask is inherited:
    # SIGTERM would end neither this process nor its workers.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Before gRPC is imported. It is not to be prepared for forks (the workers are started by exec), and not to be told what
    # an unreadable frame from somebody else's probe was: the journal tells what matters.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from tracelet.errors import TraceletError
    from tracelet_collector.app import Collector, check_listen
    from tracelet_collector.home import AlreadyServed, HomeLock
    from tracelet_collector.journal import open_journal
    from tracelet_collector.log.base import LogFailed
    from tracelet_collector.retention import Limits

    try:
        if listen is not None:
            check_listen(listen)
        lock = HomeLock(home)
        lock.writable()
        open_journal(home / "collector.log")
        if delivery is None:
            from tracelet_collector.delivery import Delivery

            delivery = Delivery
        collector = Collector(lock, idle, listen, delivery, Limits(*limits))
    except AlreadyServed as error:
        print(f"tracelet_collector: {error}; nothing to do", file=sys.stderr)  # noqa: T201
        return 0
    except (TraceletError, LogFailed, OSError) as error:
        print(f"tracelet_collector: {error}", file=sys.stderr)  # noqa: T201
        return 1
    collector.run()
    lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
