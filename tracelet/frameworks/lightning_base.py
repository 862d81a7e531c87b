"""What both packages of Lightning have in common: where their calls are seen.

A library's patches are a table: for each place, where it is, and how it is wrapped. A place that a version does not have costs
one line on stderr, and the rest is recorded.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tracelet.core.active import current
from tracelet.frameworks.base import Framework
from tracelet.frameworks.once import Recent
from tracelet.guard import say, swallow
from tracelet.patching import MethodPatch, Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options

__all__ = ["LightningBase", "Place", "lightning_rank"]

_patches: dict[tuple[str, Any, str], MethodPatch] = {}
_awaited: dict[str, bool] = {}


class Place(NamedTuple):
    """A method of a class, or a function of a module.

    Attributes:
        module: behind the package's name; with a dot in front.
        owner: the class in it; empty for the module itself.
        name: of the method or function.
        build: makes the wrapper.
        newer: the oldest versions do not have it: nobody misses it there.
    """

    module: str
    owner: str
    name: str
    build: Callable[[Switch], Wrapper]
    newer: bool = False


def lightning_rank() -> int:
    """The rank that Lightning says this process has: of a process that it forked, the run does not know."""
    ranks = sys.modules.get("lightning_utilities.core.rank_zero")
    return 0 if ranks is None else getattr(ranks.rank_zero_only, "rank", None) or 0


class LightningBase(Framework):
    """A package of Lightning, in a run.

    Args:
        capture: record what modules log.
        artifacts: files that become artifacts: "checkpoints", "exports", "profiles".

    Attributes:
        artifacts: those that are kept.
        recent: what the script gave to loggers by itself.
        told: parameters that were recorded, to record each once.
        met: classes of loggers that are patched.
        beside: the loggers of the Trainer that was met last.
        explicit: there is, or was, a logger of our own: what its Trainer logs is recorded, captured or not.
    """

    since: ClassVar[tuple[int, ...]] = (2, 2)
    settings: ClassVar[str] = "lightning"
    met: ClassVar[set[type]]
    beside: ClassVar[tuple[weakref.ref[Any], ...]]
    explicit: ClassVar[bool] = False
    _files_wanted: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.met, cls.beside = set(), ()

    def __init__(self, capture: bool = True, artifacts: tuple[str, ...] = ()) -> None:
        super().__init__(captures=capture or bool(artifacts))
        self.capture = capture
        self.artifacts = frozenset(artifacts)
        self.recent = Recent()
        self.told: dict[str, Any] = {}

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about Lightning."""
        return {"capture": options.lightning.capture, "artifacts": options.capture_artifacts}

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The setting that switches the capture off, if it does."""
        return [] if options.lightning.capture else ["lightning.capture"]

    def start_tracking(self) -> None:
        """Record the library's calls; see `Framework.start_tracking`."""
        if self.artifacts:
            type(self)._files_wanted = True
        super().start_tracking()

    @property
    def experiment(self) -> Experiment | None:
        """The run."""
        return self._experiment

    @classmethod
    def here(cls) -> LightningBase | None:
        """The framework of the run that a record made here and now belongs to; None when that records nothing of Lightning."""
        framework = cls.of_run()
        return framework if framework is not None and framework.tracking else None

    @classmethod
    def capturing(cls) -> LightningBase | None:
        """The same; None also when only files are kept."""
        framework = cls.of_run()
        return framework if framework is not None and framework.tracking and framework.capture else None

    @classmethod
    def of_run(cls) -> LightningBase | None:
        """The framework of that run, whether it tracks or not; None in a process whose points do not count."""
        run = current()
        if run is None or not run.active:
            return None
        framework = run._frameworks.get(cls.identifier)
        if not isinstance(framework, LightningBase):
            return None
        return None if lightning_rank() and not run.plan.rank_label else framework

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch what there is; what is patched already stays so."""
        from tracelet.frameworks import (
            lightning_events,
            lightning_files,
            lightning_media,
            lightning_metrics,
            lightning_params,
            lightning_trainer,
        )

        parts = [lightning_metrics, lightning_params, lightning_trainer, lightning_media, lightning_events]
        if cls._files_wanted:
            parts.append(lightning_files)
        cls._patch_places(place for part in parts for place in part.places(cls))
        lightning_metrics.meet_loggers_of(cls)
        cls._patch_command_line(lightning_params.command_line(cls))

    @classmethod
    def unpatch(cls) -> None:
        """Take the patches off; when they are not on, do nothing."""
        cls._files_wanted = False
        for key, patch in list(_patches.items()):
            if key[0] == cls.identifier:
                patch.uninstall()
                if patch.gone:
                    del _patches[key]  # it would keep the script's class alive
        cls.met.clear()
        cls.beside = ()

    @classmethod
    def patch_method(cls, owner: type | ModuleType, name: str, build: Callable[[Switch], Wrapper]) -> None:
        """Patch one method; when it is patched, do nothing.

        Raises:
            KeyError: there is no such method.
        """
        _patches.setdefault((cls.identifier, owner, name), MethodPatch(owner, name, build)).install()

    @classmethod
    def _patch_places(cls, places: Iterable[Place]) -> None:
        missed, met = [], 0
        for place in places:
            try:
                owner: Any = importlib.import_module(cls.module + place.module)
                owner = getattr(owner, place.owner) if place.owner else owner
                cls.patch_method(owner, place.name, place.build)
                met += 1
            except (AttributeError, ImportError, KeyError):
                if not place.newer:
                    missed.append(place)
        if len(missed) > 1 and not met:
            say(f"the {cls.package} that was imported has nothing of what is listened to: it is not recorded")
            return
        for place in missed:
            where = ".".join(part for part in (cls.module + place.module, place.owner, place.name) if part)
            say(f"there is no {where} in this version of {cls.package}: what is seen there is not recorded")

    @classmethod
    def _patch_command_line(cls, places: list[Place]) -> None:
        """Its module is a part of its own, with a dependency of its own."""
        name = f"{cls.module}{places[0].module}"
        if name in sys.modules:
            cls._patch_places(places)
        elif name not in _awaited:
            import wrapt

            def patch(_: ModuleType) -> None:
                if cls._wanted:
                    try:
                        cls._patch_places(places)
                    except Exception as error:  # it must not break the user's import
                        swallow(f"intercepting {name}", error)

            _awaited[name] = True
            wrapt.register_post_import_hook(patch, name)
