"""Files that Lightning writes: checkpoints, exported models and profiles, as artifacts, where a setting asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tracelet.frameworks import kept
from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["places"]

Library = type[LightningBase]
RunOf = Callable[[], "Experiment | None"]


def places(library: Library) -> list[Place]:
    """Where they are seen."""

    def wants(kind: str) -> RunOf:
        def run_of() -> Experiment | None:
            framework = library.here()
            return framework.experiment if framework is not None and kind in framework.artifacts else None

        return run_of

    exports = kept.keeping("exports", wants("exports"), kept.path_in(0, "file_path"))
    return [
        Place(".trainer.trainer", "Trainer", "save_checkpoint", _checkpoints(wants("checkpoints"))),
        # A ModelCheckpoint's `last`, where it is a link to another one.
        Place(
            ".callbacks.model_checkpoint",
            "ModelCheckpoint",
            "_link_checkpoint",
            kept.keeping("checkpoints", wants("checkpoints"), kept.path_in(2, "linkpath")),
        ),
        Place(".core.module", "LightningModule", "to_torchscript", exports),  # `to_onnx` ends in `torch.onnx.export`
        Place(".profilers.profiler", "Profiler", "teardown", _report(wants("profiles"))),
        Place(
            ".profilers.advanced",
            "AdvancedProfiler",
            "_dump_stats",
            kept.keeping("profiles", wants("profiles"), _statistics),
            newer=True,
        ),
    ]


def _checkpoints(run_of: RunOf) -> Callable[[Switch], Wrapper]:
    def paths(trainer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        written = kept.path_in(0, "filepath")(trainer, args, kwargs)
        executor = getattr(trainer.strategy.checkpoint_io, "_executor", None)
        if executor is None:
            return written
        # AsyncCheckpointIO's only thread, which writes it now or soon, and which the end of the training waits for.
        executor.submit(_keep_later, run_of(), written)
        return []

    return kept.keeping("checkpoints", run_of, paths)


def _keep_later(run: Experiment | None, paths: list[Any]) -> None:
    try:
        if run is not None:
            kept.keep(run, "checkpoints", paths)
    except Exception as error:
        swallow("keeping checkpoints", error)


def _report(run_of: RunOf) -> Callable[[Switch], Wrapper]:
    """Around a profiler's `teardown`, which closes the file that its summary went to."""

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            file = getattr(instance, "_output_file", None)
            result = wrapped(*args, **kwargs)
            if switch.on and file is not None:
                try:
                    if (run := run_of()) is not None:
                        kept.keep(run, "profiles", [getattr(file, "name", None)])
                except Exception as error:
                    swallow("keeping profiles", error)
            return result

        return wrapper

    return build


def _statistics(profiler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    action = args[0] if args else kwargs.get("action_name")
    return [os.path.join(profiler.dirpath, profiler._prepare_filename(action_name=action, extension=".prof"))]
