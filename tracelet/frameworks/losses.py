"""The terms of losses that are made of several: of a criterion that is a module, and of sums in the user's own code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tracelet.core.active import current
from tracelet.core.metrics import MetricType
from tracelet.core.values import as_float, as_step
from tracelet.frameworks import tracing
from tracelet.frameworks.reading import Point, Reader
from tracelet.frameworks.steps import is_capturing
from tracelet.frameworks.tensors import is_scalar
from tracelet.guard import Guard, say, swallow

__all__ = ["WatchedLosses", "log_terms", "watch_losses"]

_KEY: Final = "optimizers"
_TERMS: Final = Guard("recording the terms of a loss")


def log_terms(terms: Mapping[str, Any], prefix: str = "loss", step: Any = None) -> None:
    """Record the terms of a loss that is summed by hand.

        loss = recon + beta * kl
        tracelet.log_terms({"recon": recon, "kl": kl, "total": loss})

    Tensors on an accelerator are not waited for: their values arrive up to 200 ms later, with the time of the call. Without a
    run nothing happens, and what is no number costs one line.

    Args:
        terms: by name, a number or a tensor of one element.
        prefix: what goes before each name, with a slash; empty for nothing.
        step: without one, the calls are counted per name.
    """
    run = current()
    if run is None or not run.active or _is_traced():
        return
    with _TERMS:
        at = None if step is None else as_step(step)
        points = []
        for name, value in dict(terms).items():
            number = _detached(value)
            if number is None:
                say(f"{name!r} is no number: it is not recorded as a term of a loss", key=f"no term {name}")
            else:
                points.append(Point(_named(prefix, str(name)), number, MetricType.LOSS, at, log_dir=""))
        _reader(run).add(points)


class WatchedLosses:
    """A criterion whose terms are recorded; see `watch_losses`."""

    def __init__(self, criterion: Any, prefix: str) -> None:
        self._prefix = prefix
        self._is_copy = False
        self._calls: dict[str, int] = {}
        self._here = threading.local()
        self._handles = [
            criterion.register_forward_pre_hook(self._begin),
            criterion.register_forward_hook(self._end),
        ]
        for name, child in _children(criterion):
            self._handles.append(child.register_forward_hook(_Child(self, name)))

    def remove(self) -> None:
        """Record nothing more of it."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_a_copy, ()

    def _begin(self, criterion: Any, _: Any) -> None:
        if tracing.is_tracing() or self._is_copy:
            return
        self._here.terms = None
        with _TERMS:
            self._here.terms = self._counted(criterion)

    def _counted(self, criterion: Any) -> dict[str, Any] | None:
        """A call of the criterion: what its terms go into, if they are recorded."""
        run = current()
        if run is None or not run.active or not criterion.training or not sys.modules["torch"].is_grad_enabled():
            return None
        if _is_traced():
            return None
        calls = self._calls.get(run.id, 0)
        self._calls[run.id] = calls + 1
        framework = run._frameworks.get(_KEY)
        every = (framework.every if framework is not None else None) or 1
        return {} if calls % every == 0 else None

    def _heard(self, name: str, output: Any) -> None:
        if self._is_copy:
            return
        terms = getattr(self._here, "terms", None)
        if terms is None or not is_scalar(output) or is_capturing(output):
            return
        unique, number = name, 0
        while unique in terms:
            number += 1
            unique = f"{name}.{number}"
        terms[unique] = output.detach().clone()

    def _end(self, _criterion: Any, _args: Any, output: Any) -> None:
        if tracing.is_tracing() or self._is_copy or (terms := getattr(self._here, "terms", None)) is None:
            return
        self._here.terms = None
        with _TERMS:
            for name, value in _entries(output):
                if is_scalar(value) and not is_capturing(value):
                    terms[name] = value.detach().clone()
            if terms and (run := current()) is not None:
                step = self._calls.get(run.id, 1)
                prefix, kind = self._prefix, MetricType.LOSS
                _reader(run).add(Point(_named(prefix, name), value, kind, step) for name, value in terms.items())


def _of_a_copy() -> WatchedLosses:
    """What the hooks of a criterion that was pickled or copied call."""
    copy = WatchedLosses.__new__(WatchedLosses)
    copy._is_copy, copy._handles = True, []
    return copy


class _Child:
    """The hook of one child."""

    def __init__(self, watched: WatchedLosses, name: str) -> None:
        self._watched = watched
        self._name = name

    def __call__(self, _module: Any, _args: Any, output: Any) -> None:
        if not tracing.is_tracing():
            try:
                self._watched._heard(self._name, output)
            except Exception as error:
                swallow("recording the terms of a loss", error)


def watch_losses(criterion: Any, prefix: str = "loss") -> WatchedLosses:
    """Record the terms of a criterion that is a module.

    Each call in training leaves in the run that is active then: as `loss/<child>` what each child module returned, if that is
    one number (a second call as `loss/<child>.1`); as `loss/<key>` each number in a mapping, a named tuple or a tuple that
    the criterion returns; as `loss/total` the one number that it returns. A call in training is one with the criterion in
    training mode and gradients enabled: `criterion.eval()` and `torch.no_grad()` leave nothing. The step is the number of such
    calls in the run, from 1; with `optimizer_every` set, every so many are recorded, else each. A copy of the criterion is not
    watched.

    Args:
        criterion: a `torch.nn.Module`.
        prefix: what goes before each name, with a slash; empty for nothing.

    Returns:
        A handle: its `remove()` ends it.

    Raises:
        TypeError: the criterion is no module.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(criterion, torch.nn.Module):
        raise TypeError(
            f"a criterion is a torch.nn.Module, not {type(criterion).__name__}; log_terms takes sums by hand"
        )
    tracing.know(torch)
    return WatchedLosses(criterion, prefix)


def _is_traced() -> bool:
    """Whether torch.jit.trace notes what is computed: what we compute would become part of it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.jit.is_tracing()


def _reader(run: Any) -> Reader:
    framework = run._frameworks.get(_KEY)
    return framework.reader if framework is not None else Reader(run)


def _named(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _detached(value: Any) -> Any:
    """A number, or a tensor of its own; None for what is neither."""
    if hasattr(value, "data_ptr"):
        return value.detach().clone() if is_scalar(value) and not is_capturing(value) else None
    try:
        return as_float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _children(module: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The children by name; those of a mere list or dictionary of modules in its place."""
    nn = sys.modules["torch"].nn
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _children(child, f"{path}{name}.")
        elif name != "_orig_mod":  # of a compiled module: nothing calls its hooks from outside
            yield f"{path}{name}", child


def _entries(output: Any) -> Iterator[tuple[str, Any]]:
    """The numbers in what a criterion returned, by name."""
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        yield from zip(output._fields, output, strict=True)
    elif isinstance(output, tuple | list):
        for number, value in enumerate(output):
            if isinstance(value, Mapping):
                yield from _entries(value)
            else:
                yield str(number), value
    else:
        yield "total", output
