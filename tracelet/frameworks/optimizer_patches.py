"""The few functions of torch that losses, clippings and scalings pass, and what is noted there.

Each looks for the run that it belongs to, and does nothing without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tracelet.core.active import current
from tracelet.frameworks import tracing
from tracelet.frameworks.gradients import Clip, clip_of, total_norm
from tracelet.frameworks.scaling import of_scaling, scaled_by
from tracelet.frameworks.steps import here
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper, after

if TYPE_CHECKING:
    from tracelet.frameworks.optimizers import OptimizersFramework

__all__ = ["KEY", "listening", "places"]

KEY: Final = "optimizers"  # in the frameworks of a run
_MOST: Final = 50_000  # parameters of clippings that wait for a step


def listening() -> OptimizersFramework | None:
    """What records the optimizers of the run that something belongs to here and now."""
    run = current()
    if run is None or not run.active:
        return None
    framework: OptimizersFramework | None = run._frameworks.get(KEY)
    return framework if framework is not None and framework.tracking else None


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
            framework = listening() if switch.on else None
            if framework is not None and (args or "parameters" in kwargs):
                # Not within the guard: what an iterator of the user's raises is theirs.
                args, kwargs = _listed(args, kwargs)
                try:
                    _clips(framework, by_value, args, kwargs)
                except Exception as error:
                    swallow("reading the norm of gradients", error)
            return wrapped(*args, **kwargs)

        return wrapper

    return build


def _listed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of a clipping, with a list in the place of an iterator of parameters, which can be read only once."""
    parameters = args[0] if args else kwargs["parameters"]
    if not hasattr(parameters, "__next__"):
        return args, kwargs
    return ((list(parameters), *args[1:]), kwargs) if args else (args, {**kwargs, "parameters": list(parameters)})


def _clips(framework: OptimizersFramework, by_value: bool, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note a clipping."""
    parameters = args[0] if args else kwargs["parameters"]
    each = [parameters] if hasattr(parameters, "grad") else list(parameters)
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


_CLIP: Final = "the gradient norm before clipping"


def places(torch: ModuleType) -> Iterator[tuple[str | None, str, str, Callable[[Switch], Wrapper]]]:
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
