"""Where a run is in its trackers. They say so when they have got it, which takes seconds: the collector is asked."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from tracelet.core.plan import RunPlan
from tracelet.core.processes import grpc_is_lost
from tracelet.errors import CollectorError
from tracelet.transport import local
from tracelet.transport.background import importing

__all__ = ["Link", "Links"]

_POLL: Final = 0.1
_PATIENCE: Final = 5.0
_ASK_EVERY: Final = 1.0


@dataclass(frozen=True, slots=True)
class Link:
    """Where a run is in a tracker. As a `str`: the page, or the command that serves it.

    Attributes:
        kind: the tracker: "mlflow".
        target: its address: a server, or a store.
        run: its own id of the run.
        url: the run's page; None when the target is a store, which has no pages.
        command: what serves a store's pages, or uploads a folder, for a shell; None when there is no need.
        page: what comes behind the address of that server: "/#/experiments/1/runs/…".
    """

    kind: str
    target: str
    run: str
    url: str | None = None
    command: str | None = None
    page: str = ""

    def __str__(self) -> str:
        return self.url or self.command or self.target

    @staticmethod
    def read(kind: str, said: str) -> Link:
        """A link as the wire has it: a page, a store's address and behind `#` the page, or a folder of W&B's."""
        if kind == "clearml" and said.startswith("offline:"):
            target, _, run = said.rpartition("#")
            session = f"{target.removeprefix('offline:')}/{run}"
            line = f"from clearml import Task; Task.import_offline_session({json.dumps(session, ensure_ascii=False)})"
            return Link(kind, target, run, command=f"python -c {shlex.quote(line)}")
        target, _, page = said.partition("#")
        run = said.rpartition("/")[2]
        if kind == "wandb" and said.startswith("offline:"):
            folder = said.removeprefix("offline:")
            return Link(
                kind, said, folder.rpartition("/")[2].split("-", 3)[-1], command=f"wandb sync {shlex.quote(folder)}"
            )
        if said.startswith(("http://", "https://")):
            return Link(kind, target.rstrip("/"), run, url=said, page=f"/#{page}")
        if kind == "tensorboard":
            folder = unquote(target.removeprefix("file://"))
            return Link(kind, target, unquote(run), command=f"tensorboard --logdir {shlex.quote(folder)}")
        served = kind == "mlflow" and "://" in target  # not Databricks, which needs no server
        command = f"mlflow ui --backend-store-uri {shlex.quote(target)}" if served else None
        return Link(kind, target, run, command=command, page=f"/#{page}")


class Links:
    """What is known of one run's places."""

    def __init__(self) -> None:
        self._known: dict[str, Link] = {}
        self._asking: threading.Thread | None = None
        self._asked = -_ASK_EVERY

    def known(self, plan: RunPlan) -> Mapping[str, Link]:
        """By kind of tracker, what is known now. When that is not all, it is asked for, behind the caller's back."""
        now = time.monotonic()
        idle = self._asking is None or not self._asking.is_alive()
        if self._lacks(plan) and idle and now - self._asked >= _ASK_EVERY and not grpc_is_lost():
            self._asked = now
            self._asking = threading.Thread(target=self._ask, args=(plan, 0.0), name="tracelet-links", daemon=True)
            try:
                self._asking.start()
            except RuntimeError:  # too many threads, or the interpreter is about to exit
                self._asking = None
        return self._in_order(plan)

    def wait(self, plan: RunPlan, seconds: float) -> Mapping[str, Link]:
        """By kind of tracker, what is known when all have said it, or the time is over."""
        until = time.monotonic() + seconds
        while self._lacks(plan) and not grpc_is_lost():
            left = until - time.monotonic()
            if left <= 0:
                break
            self._ask(plan, left)
            if self._lacks(plan):
                time.sleep(min(_POLL, max(until - time.monotonic(), 0.0)))
        return self._in_order(plan)

    def _in_order(self, plan: RunPlan) -> Mapping[str, Link]:
        """What is known, as the run names its trackers: the first one's page is the run's `url`."""
        return {backend.kind: self._known[backend.kind] for backend in plan.backends if backend.kind in self._known}

    def _lacks(self, plan: RunPlan) -> bool:
        return any(backend.kind not in self._known for backend in plan.backends)

    def _ask(self, plan: RunPlan, start_within: float) -> None:
        """Ask the collector; where none runs, start one, when there is time for that."""
        try:
            with importing():
                from tracelet.transport.wait import status
            if start_within > 0:
                endpoint = local.ensure(plan.home, start_within, plan.starting)
            elif (found := local.find(plan.home)) is not None:
                endpoint = found
            else:
                return
            reply = status(endpoint.address, plan.run_id, min(start_within, _PATIENCE) or _PATIENCE)
        except CollectorError:
            return  # another time
        for run in reply.runs:
            for backend in run.backends:
                if backend.link and backend.slot in ("", backend.kind):  # others are a replay's
                    self._known[backend.kind] = Link.read(backend.kind, backend.link)
