"""torch's step hooks, and how they and the patches go on and come off.

Where torch.compile traces through, nothing is done: it would break the graph, or be left out of it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tracelet.core.active import current
from tracelet.frameworks import tracing
from tracelet.frameworks.optimizer_patches import KEY, places
from tracelet.frameworks.pausing import PausablePatch
from tracelet.frameworks.steps import enter, here, leave
from tracelet.guard import in_a_line, say, swallow
from tracelet.patching import MethodPatch, Switch

if TYPE_CHECKING:
    from tracelet.frameworks.hearing import Hearing

__all__ = ["Hooks"]

_always = Switch()


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> Any:
    if tracing.is_tracing():
        return None
    try:
        # As `listening` does it; every call counts here.
        if (run := current()) is None or (framework := run._frameworks.get(KEY)) is None or not framework.tracking:
            return _passes()
        kept = framework.kept.get(id(optimizer))
        if (kept is None or kept.optimizer() is not optimizer) and (kept := framework.keep(optimizer)) is None:
            return _passes()
        stack, frame = here.stack, sys._getframe(1)
        if here.scaler is not None:
            here.entered += 1
        if not stack:
            stack.append((id(frame), kept))
        elif not enter(stack, frame, optimizer, kept):
            return None
        return kept.begins(optimizer, args, kwargs) if kept.due else None
    except Exception as error:
        swallow("looking at an optimizer's step", error)
    return None


def _passes() -> None:
    """A step begins that is not recorded. Its frame may lie where that of one lay which failed, and is not that one's end."""
    if here.stack:
        here.stack.append((id(sys._getframe(2)), None))


def _after_step(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    if tracing.is_tracing():
        return
    try:
        stack = here.stack
        if stack:
            mine = id(sys._getframe(1))
            if stack[-1][0] == mine:
                _, kept = stack.pop()
            else:
                kept = leave(stack, mine)
            if kept is not None:
                kept.ended(optimizer)
    except Exception as error:
        swallow("recording an optimizer's step", error)


class Hooks:
    """All of them. They go on and come off together; one whose place is gone costs a line, and the others go on."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._patches: dict[tuple[str, str], MethodPatch] = {}
        self._leaving: list[PausablePatch] = []
        self._listening = Switch()
        self._open: set[Hearing] = set()

    def install(self, torch: ModuleType) -> None:
        """Put them on; when they are on, do nothing."""
        if (module := sys.modules.get("torch.optim.optimizer")) is None:
            return  # torch imports it: this is another module of that name
        tracing.know(torch)
        if not self._handles:
            self._handles = [
                module.register_optimizer_step_pre_hook(_before_step),
                module.register_optimizer_step_post_hook(_after_step),
            ]
        for what, owner, name, build in places(torch):
            try:
                patch = self._patches.get((owner, name))
                if patch is None:
                    place = importlib.import_module(owner)
                    if what is None and name not in vars(place):
                        continue
                    kind, _, method = name.rpartition(".")
                    place = getattr(place, kind) if kind else place
                    if method == "__init__":
                        patch = MethodPatch(place, method, build)
                    else:
                        # A skipped step is counted at any time.
                        listening = _always if name == "GradScaler.step" else self._listening
                        patch = PausablePatch(place, method, build, listening)
                        patch.leaves = "backward" in name
                    self._patches[owner, name] = patch
                patch.install()
            except (KeyError, AttributeError, ImportError) as error:
                self._patches.pop((owner, name), None)
                if what is None:
                    continue
                say(f"{what} is not recorded: this torch has no place to read it ({in_a_line(error)})")
        self._leaving = [patch for patch in self._patches.values() if isinstance(patch, PausablePatch) and patch.leaves]
        self._pause_or_resume()

    def hearing(self, hearing: Hearing) -> None:
        """A run wants to hear of losses and clippings, or does not any more: where no run does, nothing is in their way."""
        (self._open.add if hearing.open else self._open.discard)(hearing)
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        self._listening.on = bool(self._open)
        for patch in self._leaving:
            if self._open:
                patch.resume()
            else:
                patch.pause()

    def uninstall(self) -> None:
        """Take them off; when they are not on, do nothing."""
        self._open.clear()  # no run is left
        handles, self._handles, self._leaving = self._handles, [], []
        for handle in handles:
            handle.remove()
        for patch in self._patches.values():
            patch.uninstall()
