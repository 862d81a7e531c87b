"""Gathers what a run was, on a thread of its own.

Parameters are kept back until the script has had time to tell its own; and so is the command line: which of its words is a
secret, the script's parser knows (`-k …`), and it may come after the start.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from tracelet.guard import Guard, say
from tracelet.transport.background import importing

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Gathering", "Scope"]

Scope: TypeAlias = Literal["all", "tags", "parameters"]

_HOLD: Final = 5.0  # for the script's own log_params: MLflow takes a parameter once
_SOON: Final = 0.05  # start_logging returns first
_GATHERING: Final = Guard("recording what the run was")


class Gathering:
    """What is found out of one run.

    Args:
        run: the run.
        environment: variables that may be told, beside the default ones.
        scope: how much of it: parameters; those and tags; those and files, too.

    Attributes:
        alongside: what its thread starts first. To start a thread is to wait until it runs: the caller waits for one only.
    """

    def __init__(self, run: Experiment, environment: Sequence[str], scope: Scope) -> None:
        self.alongside: list[Callable[[], None]] = []
        self._run = run
        self._environment = environment
        self._scope: Scope = scope
        self._found: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        self._held: dict[str, Any] = {}
        self._under_way = "arguments, host, packages and git commit"
        self._ended = threading.Event()
        self._recording = threading.Lock()  # between the thread and the run's end; no user code takes it
        self._closed = False
        self._pid = os.getpid()
        self._main: str | None = getattr(sys.modules.get("__main__"), "__file__", None)
        self._directory = ""
        with suppress(OSError):  # it is gone
            self._directory = os.getcwd()
        self._recorded: dict[str, Any] = {}
        self._told_command = scope == "parameters"
        self._starting: dict[str, threading.Thread] = {}

    def found(self, params: Mapping[str, Any]) -> None:
        """Parameters that the script has: to be recorded soon, but for those that it logs itself."""
        if params and not self._closed and os.getpid() == self._pid:
            self._found.put(params)
            if self._run.begun:
                self.start()

    def start(self) -> None:
        """Begin, once."""
        if self._scope == "parameters" and self._found.empty():
            return
        thread = threading.Thread(target=self._work, name="tracelet-provenance", daemon=True)
        if self._starting.setdefault("thread", thread) is thread:
            try:
                thread.start()
            except RuntimeError:  # too many, or the interpreter is about to exit
                del self._starting["thread"]

    def end(self, wait: float) -> None:
        """The run is about to end: record the rest, and say what is missing.

        Args:
            wait: seconds at most for what is under way.
        """
        self._ended.set()
        self._found.put(None)
        thread = self._starting.get("thread")
        if thread is not None:
            thread.join(wait)
        if self._run.begun and (thread.is_alive() if thread is not None else self._scope != "parameters"):
            say(f"run {self._run.name}: it ends without its {self._under_way}, which took too long")
        with self._recording:
            self._closed = True
        if self._run.begun:
            with _GATHERING:
                self._record_held()

    # -- where the parts are written

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; those without a value are left out."""
        with self._recording:
            if not self._closed and (said := {name: value for name, value in tags.items() if value}):
                self._run.found_tags(said)

    def file(self, name: str, content: bytes, media_type: str = "text/plain") -> None:
        """Keep a file."""
        with self._recording:
            if not self._closed:
                self._run.record_artifact(f"provenance/{name}", content, media_type)

    # -- on the thread

    def _work(self) -> None:
        for start in self.alongside:
            with _GATHERING:
                start()
        self._ended.wait(_SOON)
        with _GATHERING:
            with importing():
                from tracelet.provenance import facts, parts  # noqa: F401
                from tracelet.provenance.secrets import learn_surroundings
            learn_surroundings()
            facts.of_main(self._main)
            with self._recording:
                self._hold_params()  # a secret among them is hidden in what comes now
            for name, gather in self._parts():
                self._under_way = name
                with _GATHERING:
                    gather()
        self._under_way = "parameters"
        while not self._ended.wait(_HOLD):
            with _GATHERING, self._recording:
                self._record_held()

    def _parts(self) -> Iterable[tuple[str, Callable[[], None]]]:
        from tracelet.provenance.parts import parts, tags_alone

        if self._scope == "all":
            return parts(self, self._run.name, self._environment)
        return tags_alone(self, self._run.name) if self._scope == "tags" else ()

    def _hold_params(self) -> None:
        from tracelet.provenance.secrets import redacted_params

        while not self._found.empty():
            self._held.update(redacted_params(self._found.get() or {}))

    def _record_held(self) -> None:
        with _GATHERING:
            self._record_params()
        if self._told_command:
            return
        self._told_command = True
        from tracelet.provenance import facts

        self._run.found_tags({"command": facts.quoted(facts.command_line())})
        if self._scope == "all":
            self._run.record_artifact("provenance/command.json", facts.command(self._directory), "application/json")

    def _record_params(self) -> None:
        from tracelet.provenance.parameters import of_absl, of_hydra
        from tracelet.provenance.secrets import redacted_params

        self._hold_params()
        params, self._held = self._held, {}
        params = {**redacted_params({**of_absl(), **of_hydra()}), **params}
        if new := {name: value for name, value in params.items() if self._recorded.get(name, self) != value}:
            self._recorded.update(new)
            self._run.found_params(new)
