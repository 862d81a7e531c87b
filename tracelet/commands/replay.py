"""`tracelet replay`: a past run, to a tracker that it never went to, or once more to one that it did."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tracelet.commands.calling import call, starting
from tracelet.commands.choosing import choose_run
from tracelet.commands.wait import deliver
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.core.plan import BackendTarget
from tracelet.core.targets import resolve
from tracelet.errors import ConfigurationError
from tracelet.transport.watch import Watch

if TYPE_CHECKING:
    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["replay"]

_ADOPTION: Final = 30.0  # what dead processes left is read in by then
_POLL: Final = 0.2


def replay(wanted: str, to: str, timeout: float | None, *, again: bool, wait: bool) -> int:
    """Have a run delivered from its first record on.

    Args:
        wanted: the run: id, the start of one, or name.
        to: the backend, or `backend=target`.
        timeout: seconds to wait for delivery; None for ever.
        again: though it is there already.
        wait: wait for delivery.

    Returns:
        The exit code: 0; 1 when something was not delivered in time (said on stderr).

    Raises:
        ConfigurationError: there is no such run or backend, the target makes no sense, or the run cannot be replayed.
        BackendNotInstalledError: the tracker's package is missing here.
        CollectorError: no collector could be started, or it did not answer.
    """
    from tracelet.proto.v1 import collector_pb2 as wire

    options = Options.load()
    home = usable_home(options.home)
    word, given, target = to.partition("=")
    if given and not target.strip():
        raise ConfigurationError(f"--to {to}: there is no target behind the =")
    kind = word.strip().lower()
    (backend,) = resolve([kind], home, target.strip() or None)
    run = _find(home, wanted)
    if run.retired:
        raise ConfigurationError(
            f"run {run.name} ({run.run_id}) is retired: its records are no longer in the log, so it cannot be replayed"
        )
    there = next((known for known in run.backends if (known.kind, known.target) == (kind, backend.target)), None)
    slot = (there.slot or there.kind) if there is not None else _slot(run, backend)
    if there is not None and not again:
        accounted = there.delivered + there.collapsed + there.rerouted + there.dead
        raise ConfigurationError(
            f"run {run.name} ({run.run_id}) goes to {slot} already: {accounted:,} of {run.durable:,} points are through, to "
            f"{backend.target}. --again delivers it once more, from its first record on: {_AGAIN.get(kind, _AGAIN[''])}"
        )
    spec = wire.BackendSpec(
        kind=kind,
        target=backend.target,
        interpreter=backend.interpreter,
        credentials=backend.credentials,
        slot="" if slot == kind else slot,
    )
    reply: wire.ReplayReply = call(
        home, "Replay", wire.ReplayRequest(run_id=run.run_id, backend=spec, again=there is not None)
    )
    whole = "once more" if there is not None else "for the first time"
    _line(f"run {run.name} ({run.run_id}) goes to {slot} {whole}: {reply.points:,} points to {backend.target}")
    if not wait:
        return 0
    watch = deliver(home, Watch(home, run.run_id, slot=slot, starting=starting(options)), timeout, _line)
    if watch.missing:
        return 1
    for backend_state in (b for told in watch.replies for known in told.runs for b in known.backends):
        if (backend_state.slot or backend_state.kind) == slot:
            _tell(slot, backend_state)
    return 0


# What becomes of what the tracker has of the run.
_AGAIN: Final = {
    "mlflow": "MLflow keeps one of two equal points, so the same points stay once",
    "wandb": "rows that W&B has are left out, and an offline folder is written anew",
    "clearml": "what ClearML has takes the place of itself, and an offline session is written anew",
    "tensorboard": "its event files are written anew",
    "": "its page of the reference says what becomes of what it has",
}


def _find(home: Path, wanted: str) -> wire.RunState:
    """The run; one that a dead process has just left is waited for."""
    from tracelet.proto.v1 import collector_pb2 as wire

    until = time.monotonic() + _ADOPTION
    while True:
        reply: wire.StatusReply = call(home, "Status", wire.StatusRequest())
        try:
            return choose_run(reply.runs, wanted)
        except ConfigurationError:
            if not reply.pending_spools or time.monotonic() >= until:
                raise
        time.sleep(_POLL)


def _slot(run: wire.RunState, backend: BackendTarget) -> str:
    """What the run is to call a backend that it does not have: its kind, or, when that is taken, the kind and where it is."""
    taken = {known.slot or known.kind for known in run.backends}
    try:
        host = urlsplit(backend.target).netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    mark = hashlib.sha256(backend.target.encode()).hexdigest()[:8]
    names = [backend.kind, *([f"{backend.kind}@{host}"] if host else []), f"{backend.kind}@{mark}"]
    return next((name for name in names if name not in taken), names[-1])


def _tell(slot: str, state: wire.BackendState) -> None:
    counts = [
        (state.delivered, "delivered"),
        (state.collapsed, "collapsed"),
        (state.rerouted, "rerouted"),
        (state.dead, "dead"),
    ]
    _line(f"{slot} has it: {', '.join(f'{count:,} {word}' for count, word in counts if count) or 'no points'}")
    if state.dead:
        _line("`tracelet dead-letters list` says why points are dead")


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
