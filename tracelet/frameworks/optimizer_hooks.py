"""Where torch is listened to: its step hooks, and the few functions that losses, clippings and scalings pass.

Each entry looks for the run that it belongs to, and does nothing without one. Where torch.compile traces through, it does
nothing either: what it did would break the graph, or be left out of it.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tracelet.core.active import current
from tracelet.frameworks import tracing
from tracelet.frameworks.gradients import Clip, clip_of, total_norm
from tracelet.frameworks.patching import MethodPatch, Switch, Wrapper, after
from tracelet.frameworks.pausing import PausablePatch
from tracelet.frameworks.scaling import of_scaling, scaled_by
from tracelet.frameworks.steps import enter, here, leave
from tracelet.guard import in_a_line, say, swallow

if TYPE_CHECKING:
    from tracelet.frameworks.hearing import Hearing
    from tracelet.frameworks.optimizers import OptimizersFramework

__all__ = ["Hooks", "listening"]

_KEY: Final = "optimizers"
_MOST: Final = 50_000  # parameters of clippings that wait for a step


def listening() -> OptimizersFramework | None:
    """What records the optimizers of the run that something belongs to here and now."""
    run = current()
    if run is None or not run.active:
        return None
    framework: OptimizersFramework | None = run._frameworks.get(_KEY)
    return framework if framework is not None and framework.tracking else None


def _before_step(optimizer: Any, args: Any, kwargs: Any) -> Any:
    if tracing.is_tracing():
        return None
    try:
        # As `listening` does it; every call counts here.
        if (run := current()) is None or (framework := run._frameworks.get(_KEY)) is None or not framework.tracking:
            return None
        kept = framework.kept.get(id(optimizer))
        if (kept is None or kept.optimizer() is not optimizer) and (kept := framework.keep(optimizer)) is None:
            return None
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


def _on_init(optimizer: Any, *_: Any, **__: Any) -> None:
    if not tracing.is_tracing() and (framework := listening()) is not None:
        framework.met(optimizer)


def _backward(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        # What torch.autograd.grad computes is no training step's.
        if not switch.on or not kwargs.get("accumulate_grad", True):
            return wrapped(*args, **kwargs)
        result = wrapped(*args, **kwargs)
        try:
            if (framework := listening()) is not None:
                tensors = args[0] if args else kwargs.get("tensors")
                inputs = args[4] if len(args) > 4 else ()  # the inner function gets a tuple there
                framework.after_backward(tensors, inputs if isinstance(inputs, tuple) else ())
        except Exception as error:
            swallow("reading a loss", error)
        return result

    return wrapper


def _clipping(by_value: bool) -> Callable[[Switch], Wrapper]:
    """Around what scales gradients down to a norm, or cuts off what is above a value."""

    def build(switch: Switch) -> Wrapper:
        def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            if switch.on:
                try:
                    if (framework := listening()) is not None:
                        args, kwargs = _clips(framework, by_value, args, dict(kwargs))
                except Exception as error:
                    swallow("reading the norm of gradients", error)
            return wrapped(*args, **kwargs)

        return wrapper

    return build


def _clips(framework: OptimizersFramework, by_value: bool, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Note a clipping; returns the arguments, with a list in the place of an iterator of parameters."""
    parameters = args[0] if args else kwargs["parameters"]
    if not hasattr(parameters, "grad"):
        parameters = list(parameters)
        if args:
            args = (parameters, *args[1:])
        else:
            kwargs["parameters"] = parameters
    each = [parameters] if hasattr(parameters, "grad") else parameters
    if each and framework.wants_norm(id(each[0])):
        clip: Clip | None
        if by_value:
            clip = clip_of(each, total_norm([parameter.grad for parameter in each]), 2.0)
        else:
            norm = args[2] if len(args) > 2 else kwargs["total_norm"]
            known, norm_type = here.norm_type or (None, 2.0)
            clip = clip_of(each, norm, norm_type if known is norm else 2.0)
        if clip is not None:
            framework.hears()
            here.clips.append(clip)
            while len(here.clips) > 1 and sum(len(each.parameters) for each in here.clips) > _MOST:
                del here.clips[0]  # of what never steps
    here.norm_type = None
    return args, kwargs


def _total_norm(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = wrapped(*args, **kwargs)
        if switch.on:
            try:
                if listening() is not None:
                    norm_type = args[1] if len(args) > 1 else kwargs.get("norm_type", 2.0)
                    here.norm_type = result, float(norm_type)
            except Exception as error:
                swallow("reading the norm of gradients", error)
        return result

    return wrapper


def _scale(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], scaler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = wrapped(*args, **kwargs)
        if switch.on:
            try:
                if (framework := listening()) is not None:
                    framework.hears()
                    outputs = args[0] if args else kwargs["outputs"]
                    here.scaled = scaled_by(here.scaled, of_scaling(scaler, outputs, result))
            except Exception as error:
                swallow("reading a scaled loss", error)
        return result

    return wrapper


def _scaled_step(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], scaler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        framework = listening() if switch.on else None
        if framework is None or not getattr(scaler, "_enabled", False):
            return wrapped(*args, **kwargs)
        outer, entered = here.scaler, here.entered
        here.scaler = scaler
        try:
            result = wrapped(*args, **kwargs)
        finally:
            here.scaler = outer
        if here.entered == entered:
            try:
                framework.skipped(args[0] if args else kwargs["optimizer"])
            except Exception as error:
                swallow("counting a skipped step", error)
        return result

    return wrapper


class Hooks:
    """All of them. They go on and come off together; one whose place is gone costs a line, and the others go on."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._patches: dict[tuple[str, str], MethodPatch] = {}
        self._pausable: list[PausablePatch] = []
        self._open: weakref.WeakSet[Hearing] = weakref.WeakSet()

    def install(self, torch: ModuleType) -> None:
        """Put them on; when they are on, do nothing."""
        tracing.know(torch)
        if not self._handles:
            module = importlib.import_module("torch.optim.optimizer")
            self._handles = [
                module.register_optimizer_step_pre_hook(_before_step),
                module.register_optimizer_step_post_hook(_after_step),
            ]
        for what, owner, name, build in _places(torch):
            try:
                patch = self._patches.get((owner, name))
                if patch is None:
                    place = importlib.import_module(owner)
                    if what is None and name not in vars(place):
                        continue
                    kind, _, method = name.rpartition(".")
                    patch = (MethodPatch if method == "__init__" else PausablePatch)(
                        getattr(place, kind) if kind else place, method, build
                    )
                    self._patches[owner, name] = patch
                    if isinstance(patch, PausablePatch):
                        patch.leaves = "backward" in name
                patch.install()
            except (KeyError, AttributeError, ImportError) as error:
                self._patches.pop((owner, name), None)
                if what is None:
                    continue
                say(f"{what} is not recorded: this torch has no place to read it ({in_a_line(error)})")
        # A skipped step is counted at any time.
        patches = [patch for (_, name), patch in self._patches.items() if name != "GradScaler.step"]
        self._pausable = [patch for patch in patches if isinstance(patch, PausablePatch)]
        self._pause_or_resume()

    def hearing(self, hearing: Hearing) -> None:
        """A run wants to hear of losses and clippings, or does not any more: where no run does, nothing is in their way."""
        (self._open.add if hearing.open else self._open.discard)(hearing)
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        if self._open:
            for patch in self._pausable:
                patch.resume()
        else:
            for patch in self._pausable:
                patch.pause()

    def uninstall(self) -> None:
        """Take them off; when they are not on, do nothing."""
        handles, self._handles, self._pausable = self._handles, [], []
        for handle in handles:
            handle.remove()
        for patch in self._patches.values():
            patch.uninstall()


_CLIP: Final = "the gradient norm before clipping"


def _places(torch: ModuleType) -> Iterator[tuple[str | None, str, str, Callable[[Switch], Wrapper]]]:
    """What is patched: what is lost without it (None: nothing), the module, the name in it, how."""
    yield "which optimizers there are", "torch.optim", "Optimizer.__init__", after("meeting an optimizer", _on_init)
    # Where there is an inner function, callers who imported `backward` earlier pass it too.
    inner = "_engine_run_backward" if "_engine_run_backward" in vars(torch.autograd) else "backward"
    yield "the loss of loops without closures", "torch.autograd", inner, _backward
    # Those who imported clip_grad_norm_ earlier pass what it looks up in its module.
    yield _CLIP, "torch.nn.utils.clip_grad", "_clip_grads_with_norm_", _clipping(by_value=False)
    yield _CLIP, "torch.nn.utils.clip_grad", "_get_total_norm", _total_norm
    yield _CLIP, "torch.nn.utils.clip_grad", "clip_grad_value_", _clipping(by_value=True)
    yield None, "torch.nn.utils", "clip_grads_with_norm_", _clipping(by_value=False)
    yield None, "torch.nn.utils", "get_total_norm", _total_norm
    yield None, "torch.nn.utils", "clip_grad_value_", _clipping(by_value=True)
    scaler = "torch.amp" if hasattr(torch.amp, "GradScaler") else "torch.cuda.amp"
    yield "AMP's unscaled loss", scaler, "GradScaler.scale", _scale
    yield "AMP's scale and skipped steps", scaler, "GradScaler.step", _scaled_step
