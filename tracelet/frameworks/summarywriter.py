"""What a SummaryWriter is given, of whichever library: the shape that torch's and tensorboardX's have in common.

`add_scalar` and `add_scalars` are recorded from their arguments, once they have returned: the event file would only have
float32. Media are taken as TensorBoard encoded them. `add_hparams` makes a SummaryWriter of its own and logs to it: that one is
not the user's, and is left alone. What a Lightning logger writes is recorded once, however many there are: see `once`.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core.active import current, in_context, is_muted
from tracelet.core.labels import normalise
from tracelet.frameworks import once
from tracelet.frameworks.base import Framework
from tracelet.patching import MethodPatch, Switch, Wrapper, after

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["SummaryWriterFramework", "Writers"]

_ATTRIBUTE: Final = "_tracelet"
_patches: dict[tuple[str, type, str], MethodPatch] = {}


class SummaryWriterFramework(Framework):
    """A library with a SummaryWriter, in a run.

    Args:
        patch_tensorboard: record what SummaryWriters log. Without it only `log_metric` and `log_enhanced_metric` record.

    Attributes:
        layout: the module with the message of custom scalars' layouts.
        hparams_step: where `add_hparams` takes the step, as an argument without a name.
    """

    layout: ClassVar[str]
    hparams_step: ClassVar[int]

    def __init__(self, patch_tensorboard: bool = True) -> None:
        super().__init__(captures=patch_tensorboard)

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch `SummaryWriter`; when it is patched, do nothing."""
        from tracelet.frameworks.media import media_methods

        owner, writers = module.SummaryWriter, Writers(cls)
        # An older version may lack a method for media.
        media = {name: build for name, build in media_methods(writers).items() if name in owner.__dict__}
        for name, build in {**writers.methods(), **media}.items():
            _patches.setdefault((cls.identifier, owner, name), MethodPatch(owner, name, build)).install()

    @classmethod
    def unpatch(cls) -> None:
        """Take the patches off; when they are not on, do nothing."""
        for (identifier, _, _), patch in list(_patches.items()):
            if identifier == cls.identifier:
                patch.uninstall()


class Known:
    """What is remembered of a SummaryWriter, on it.

    Attributes:
        log_dir: its folder, as labels know it; empty when it does not say.
        run: the run in which it was made, while somebody else holds that; None when there was none.
        nested: it is the one that `add_hparams` makes.
    """

    __slots__ = ("log_dir", "nested", "run")

    def __init__(self, writer: Any, run: Experiment | None = None, nested: bool = False) -> None:
        self.log_dir = normalise(getattr(writer, "log_dir", None) or getattr(writer, "logdir", None) or "")
        self.run = None if run is None else weakref.ref(run)
        self.nested = nested


class Writers:
    """The SummaryWriters of one library.

    Args:
        library: the framework.
    """

    def __init__(self, library: type[SummaryWriterFramework]) -> None:
        self.library = library
        self._identifier = library.identifier

    def methods(self) -> Mapping[str, Callable[[Switch], Wrapper]]:
        """The wrappers of what is no media."""
        return {
            "__init__": after("meeting a SummaryWriter", self._on_init),
            "add_scalar": after("recording SummaryWriter.add_scalar", self._on_scalar),
            "add_scalars": after("recording SummaryWriter.add_scalars", self._on_scalars),
            "add_hparams": after("recording SummaryWriter.add_hparams", self._on_hparams),
        }

    def known(self, writer: Any) -> Known:
        """What is remembered of a writer."""
        return writer.__dict__.get(_ATTRIBUTE) or _first_seen(writer)

    def run_of(self, known: Known) -> Experiment | None:
        """The run of a point: the context's, else that in which the writer was made, else the process's only one."""
        if known.nested:
            return None
        run = in_context()
        if run is None:
            if is_muted():
                return None
            run = None if known.run is None else known.run()
            if run is None or not run.active:
                run = current()
        return run if run is not None and self._tracks(run) else None

    def _tracks(self, run: Experiment) -> bool:
        framework = run._frameworks.get(self._identifier)
        return framework is not None and framework.tracking

    def _on_init(self, writer: Any, *_: Any, **__: Any) -> None:
        run = current()
        known = Known(writer, run, nested=self._within_add_hparams())
        writer.__dict__[_ATTRIBUTE] = known
        if run is not None and self._tracks(run) and not known.nested:
            run.writer_seen(known.log_dir)

    def _on_scalar(
        self,
        writer: Any,
        tag: Any,
        scalar_value: Any,
        global_step: Any = None,
        walltime: Any = None,
        *_: Any,
        **__: Any,
    ) -> None:
        known = writer.__dict__.get(_ATTRIBUTE) or _first_seen(writer)
        run = self.run_of(known)
        if run is None:
            return
        name = tag if type(tag) is str else text_of(tag)
        value = scalar_value if type(scalar_value) is float else _number(scalar_value)
        step = global_step if global_step is None or type(global_step) is int else int(global_step)
        scope = once.here()
        if scope is None or scope.takes(writer, name, value, step):
            run.record(name, value, step, walltime if walltime is None else float(walltime), known.log_dir)

    def _on_scalars(
        self,
        writer: Any,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        walltime: Any = None,
        *_: Any,
        **__: Any,
    ) -> None:
        known = self.known(writer)
        run = self.run_of(known)
        if run is None:
            return
        step = None if global_step is None else int(global_step)
        at = time.time() if walltime is None else float(walltime)
        scope = once.here()
        for tag, each in tag_scalar_dict.items():
            name, value = f"{main_tag}/{tag}", _number(each)
            if scope is None or scope.takes(writer, name, value, step):
                run.record(name, value, step, at, known.log_dir)

    def _on_hparams(
        self, writer: Any, hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Parameters of the run, and its results under their own names."""
        known = self.known(writer)
        run = self.run_of(known)
        if run is None:
            return
        at = self.library.hparams_step - 2
        step = kwargs.get("global_step", args[at] if len(args) > at else None)
        if hparam_dict:
            run.log_params(hparam_dict)
        for name, value in metric_dict.items():
            run.record(text_of(name), _number(value), None if step is None else int(step), None, known.log_dir)

    def _within_add_hparams(self) -> bool:
        # By the stack: a mark that `add_hparams` leaves and takes away might stay when an exception of a signal handler passes.
        frame = sys._getframe()
        while (caller := frame.f_back) is not None:
            frame = caller
            if frame.f_code.co_name == "add_hparams" and frame.f_globals.get("__name__") == self.library.module:
                return True
        return False


def _first_seen(writer: Any) -> Known:
    known = writer.__dict__.setdefault(_ATTRIBUTE, Known(writer))
    assert isinstance(known, Known)
    return known


def text_of(tag: Any) -> str:
    """A tag as TensorBoard takes it."""
    if tag is None:
        return ""
    return tag.decode() if isinstance(tag, bytes) else str(tag)


def _number(value: Any) -> float:
    """The float64 of what TensorBoard took for a scalar: numbers, text of a number, anything with one element."""
    item = getattr(value, "item", None)
    return float(value if item is None else item())
