"""PyTorch: what `torch.utils.tensorboard.SummaryWriter` is given.

`add_scalar` and `add_scalars` are recorded from their arguments, once they have returned: the event file would only have
float32. `add_hparams` makes a SummaryWriter of its own and logs to it: that one is not the user's, and is left alone.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core.active import current, in_context
from tracelet.core.labels import normalise
from tracelet.frameworks.base import Framework
from tracelet.frameworks.patching import MethodPatch, Switch, Wrapper, after

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["PyTorchFramework"]


class PyTorchFramework(Framework):
    """PyTorch in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        patch_tensorboard: record what SummaryWriters log. Without it only `log_metric` and `log_enhanced_metric` record.
    """

    identifier: ClassVar[str] = "pytorch"
    module: ClassVar[str] = "torch.utils.tensorboard.writer"
    package: ClassVar[str] = "torch"
    since: ClassVar[tuple[int, ...]] = (2, 2)

    def __init__(self, patch_tensorboard: bool = True) -> None:
        super().__init__(captures=patch_tensorboard)

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch `SummaryWriter`; when it is patched, do nothing."""
        owner = module.SummaryWriter
        for name, build in _METHODS.items():
            _patches.setdefault((owner, name), MethodPatch(owner, name, build)).install()

    @classmethod
    def unpatch(cls) -> None:
        """Take the patches off; when they are not on, do nothing."""
        for patch in list(_patches.values()):
            patch.uninstall()


class _Known:
    """What is remembered of a SummaryWriter, on it.

    Attributes:
        log_dir: its folder, as labels know it; empty when it does not say.
        run: the run in which it was made, while somebody else holds that; None when there was none.
        nested: it is the one that `add_hparams` makes.
    """

    __slots__ = ("log_dir", "nested", "run")

    def __init__(self, writer: Any, run: Experiment | None = None, nested: bool = False) -> None:
        self.log_dir = normalise(getattr(writer, "log_dir", None) or "")
        self.run = None if run is None else weakref.ref(run)
        self.nested = nested


_ATTRIBUTE: Final = "_tracelet"
_patches: dict[tuple[type, str], MethodPatch] = {}


def _on_init(writer: Any, *_: Any, **__: Any) -> None:
    run = current()
    writer.__dict__[_ATTRIBUTE] = known = _Known(writer, run, nested=_within_add_hparams())
    if run is not None and _tracks(run) and not known.nested:
        run.writer_seen(known.log_dir)


def _on_scalar(
    writer: Any, tag: Any, scalar_value: Any, global_step: Any = None, walltime: Any = None, *_: Any, **__: Any
) -> None:
    known = writer.__dict__.get(_ATTRIBUTE) or _first_seen(writer)
    run = _run_of(known)
    if run is None:
        return
    run.record(
        tag if type(tag) is str else _text(tag),
        scalar_value if type(scalar_value) is float else _number(scalar_value),
        global_step if global_step is None or type(global_step) is int else int(global_step),
        walltime if walltime is None else float(walltime),
        known.log_dir,
    )


def _on_scalars(
    writer: Any,
    main_tag: str,
    tag_scalar_dict: Mapping[str, Any],
    global_step: Any = None,
    walltime: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    known = writer.__dict__.get(_ATTRIBUTE) or _first_seen(writer)
    run = _run_of(known)
    if run is None:
        return
    step = None if global_step is None else int(global_step)
    at = time.time() if walltime is None else float(walltime)
    for tag, value in tag_scalar_dict.items():
        run.record(f"{main_tag}/{tag}", _number(value), step, at, known.log_dir)


def _within_add_hparams() -> bool:
    # By the stack: a mark that `add_hparams` leaves and takes away might stay when an exception of a signal handler passes.
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_name == "add_hparams" and frame.f_globals.get("__name__") == PyTorchFramework.module:
            return True
    return False


_METHODS: Final[Mapping[str, Callable[[Switch], Wrapper]]] = {
    "__init__": after("meeting a SummaryWriter", _on_init),
    "add_scalar": after("recording SummaryWriter.add_scalar", _on_scalar),
    "add_scalars": after("recording SummaryWriter.add_scalars", _on_scalars),
}


def _first_seen(writer: Any) -> _Known:
    known = writer.__dict__.setdefault(_ATTRIBUTE, _Known(writer))
    assert isinstance(known, _Known)
    return known


def _run_of(known: _Known) -> Experiment | None:
    """The run of a point: the context's, else that in which the writer was made, else the process's only one."""
    if known.nested:
        return None
    run = in_context()
    if run is None:
        run = None if known.run is None else known.run()
        if run is None or not run.active:
            run = current()
    return run if run is not None and _tracks(run) else None


def _tracks(run: Experiment) -> bool:
    framework = run._frameworks.get(PyTorchFramework.identifier)
    return framework is not None and framework.tracking


def _text(tag: Any) -> str:
    if tag is None:
        return ""  # what TensorBoard makes of it
    return tag.decode() if isinstance(tag, bytes) else str(tag)


def _number(value: Any) -> float:
    """The float64 of what TensorBoard took for a scalar: numbers, text of a number, anything with one element."""
    item = getattr(value, "item", None)
    return float(value if item is None else item())
