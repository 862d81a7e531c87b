"""Files that PyTorch writes when it is told to: exported models and profiles, as artifacts, where a setting asks for them.

Exports: `torch.jit.save` and a script module's `save`, `torch.onnx.export`, `torch.export.save`. Profiles: a profiler's
`export_chrome_trace`, which `tensorboard_trace_handler` calls too. What is written to an open file is its writer's affair.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core.active import current
from tracelet.frameworks import kept
from tracelet.frameworks.base import Framework
from tracelet.guard import say
from tracelet.patching import MethodPatch

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options

__all__ = ["FilesFramework"]

_patches: dict[tuple[Any, str], MethodPatch] = {}


class FilesFramework(Framework):
    """Exports and profiles of PyTorch in a run. Of a run that keeps neither, nothing is patched.

    Args:
        kinds: what is kept: "exports", "profiles"; other kinds are other frameworks'.
    """

    identifier: ClassVar[str] = "files"
    module: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch"
    since: ClassVar[tuple[int, ...]] = (2, 2)
    before: ClassVar[tuple[int, ...]] = (3,)
    _kinds: ClassVar[set[str]] = set()

    def __init__(self, kinds: tuple[str, ...] = ()) -> None:
        self.kinds = frozenset(kinds) & {"exports", "profiles"}
        super().__init__(captures=bool(self.kinds))

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about files."""
        return {"kinds": options.capture_artifacts}

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """None: it is off until it is asked for."""
        return []

    def start_tracking(self) -> None:
        """Keep files; see `Framework.start_tracking`."""
        type(self)._kinds |= self.kinds
        super().start_tracking()

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch what writes the kinds that are wanted; when that is patched, do nothing."""
        for kind, owner, name, paths in _PLACES:
            if kind not in cls._kinds:
                continue
            where, _, kind_of_object = owner.partition(":")
            try:
                found: Any = importlib.import_module(where)
                found = getattr(found, kind_of_object) if kind_of_object else found
                build = kept.keeping(kind, _run_of(kind), paths)
                _patches.setdefault((found, name), MethodPatch(found, name, build)).install()
            except (AttributeError, ImportError, KeyError):
                say(f"there is no {owner.replace(':', '.')}.{name} in this version of torch: its files are not kept")

    @classmethod
    def unpatch(cls) -> None:
        """Take the patches off; when they are not on, do nothing."""
        cls._kinds.clear()
        for patch in _patches.values():
            patch.uninstall()


def _run_of(kind: str) -> Callable[[], Experiment | None]:
    def run_of() -> Experiment | None:
        run = current()
        framework = run._frameworks.get(FilesFramework.identifier) if run is not None else None
        return run if framework is not None and framework.tracking and kind in framework.kinds else None

    return run_of


def _onnx(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    path = args[2] if len(args) > 2 else kwargs.get("f")
    return _with_data([path])


def _program(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    return _with_data([args[0] if args else kwargs.get("destination")])


def _with_data(paths: list[Any]) -> list[Any]:
    """With the weights that lie beside a large model."""
    return paths + [f"{os.fspath(path)}.data" for path in paths if isinstance(path, str | os.PathLike)]


_PLACES: Final[tuple[tuple[str, str, str, Any], ...]] = (
    ("exports", "torch.jit:ScriptModule", "save", kept.path_in(0, "f")),
    ("exports", "torch.jit:RecursiveScriptModule", "save", kept.path_in(0, "f")),
    ("exports", "torch.onnx", "export", _onnx),
    ("exports", "torch.onnx:ONNXProgram", "save", _program),
    ("exports", "torch.export", "save", kept.path_in(1, "f")),
    ("profiles", "torch.profiler.profiler:_KinetoProfile", "export_chrome_trace", kept.path_in(0, "path")),
)
