"""`tracelet stop`: has the local collector finish, and waits until it is gone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

from tracelet.commands.asking import find_patiently
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.errors import CollectorError

__all__ = ["stop_collector"]

_POLL: Final = 0.02
_GRACE: Final = 5.0  # seconds beyond the drain: for the answer, and for the process to end


def stop_collector(drain: float) -> int:
    """Stop the collector of the home.

    Args:
        drain: seconds that it may go on delivering what it has.

    Returns:
        0 when none runs any more, 1 when it is still there.

    Raises:
        CollectorError: it does not answer.
    """
    home = usable_home(Options.load().home)
    endpoint, unfound = find_patiently(home)
    if endpoint is None and unfound is not None:
        who, remedy = (
            (f"a collector (pid {unfound})", f"kill {unfound}") if unfound else ("a collector", "end it by hand")
        )
        sys.stderr.write(
            f"tracelet: {who} serves {home}, but cannot be found: it is starting or ending, or it hangs. If that lasts:  "
            f"{remedy}  - nothing is lost by it\n"
        )
        return 1
    if endpoint is None:
        sys.stdout.write(f"no collector runs for {home}\n")
        return 0
    until = time.monotonic() + drain + _GRACE
    lag = _ask(endpoint.address, drain)
    while not _gone(endpoint.pid):
        if time.monotonic() >= until:
            sys.stderr.write(
                f"tracelet: the collector (pid {endpoint.pid}) has been told to stop, but has not ended within "
                f"{drain + _GRACE:g} s; what it says is in {home / 'collector.err'}\n"
            )
            return 1
        time.sleep(_POLL)
    kept = "; what it had not delivered is kept, the next collector goes on with it" if lag else ""
    sys.stdout.write(f"the collector (pid {endpoint.pid}) has stopped{kept}\n")
    return 0


def _ask(address: str, drain: float) -> int:
    """Ask for the stop; the number of points that were not delivered then."""
    import grpc

    from tracelet.proto.v1 import collector_pb2 as wire
    from tracelet.proto.v1 import collector_pb2_grpc as service
    from tracelet.transport.channel import open_channel

    channel = open_channel(address)
    try:
        reply: wire.StopReply = service.CollectorStub(channel).Stop(
            wire.StopRequest(drain_seconds=drain), timeout=drain + _GRACE
        )
    except grpc.RpcError as error:
        raise CollectorError(f"the collector at {address} did not answer: {error.details()}") from error
    finally:
        channel.close()
    return reply.lag_points


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return True  # the number is another user's process by now
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == "Z"  # over; nobody has asked for its exit code yet
