"""What an intercepted library looks like to tracelet: one class in one file of this folder, all of this shape.

Other packages may have such a class too, and name it as an entry point of the group `tracelet.frameworks`: see `plugins`.

A framework object belongs to one run. The library's patches belong to the process: they go on when the first run wants them,
or when the library is imported later, and record nothing for a run whose framework object is not tracking.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from tracelet.core.active import current
from tracelet.errors import ConfigurationError
from tracelet.frameworks.places import Place, Places
from tracelet.frameworks.variables import arguments_of
from tracelet.frameworks.versions import dotted, reaches, version_of
from tracelet.guard import say, swallow

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.metrics import MetricType
    from tracelet.core.options import Options
    from tracelet.patching import Switch, Wrapper

__all__ = ["Framework"]

F = TypeVar("F", bound="Framework")


class Framework(ABC):
    """A library whose calls are recorded. A subclass declares its attributes, and returns its places from `places`.

    Every run has an object of each; the library is patched once in a process, while there are runs.

    Args:
        captures: the library's calls are recorded; without that, only `log_*` records.

    Attributes:
        identifier: its key in the run's frameworks. One that another package has is called as its entry point is.
        module: the module whose import makes the patches possible.
        package: the top module, whose `__version__` counts.
        since: the oldest version that this was made for, and is tested with; an older one is left alone, and a line says so.
        before: the first version that it was not made for; such a one is listened to as far as it goes, and a line says so.
        settings: the name of its settings; empty when that is its identifier.
        tracking: calls are recorded for the run.
        told: parameters that were recorded, to record each once.
    """

    identifier: ClassVar[str]
    module: ClassVar[str]
    package: ClassVar[str]
    since: ClassVar[tuple[int, ...]]
    before: ClassVar[tuple[int, ...]]
    settings: ClassVar[str] = ""
    _wanted: ClassVar[bool] = False
    _awaited: ClassVar[bool] = False
    _places: ClassVar[Places]

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "module") and hasattr(cls, "package"):
            cls._places = Places(cls.module, cls.package)

    def __init__(self, captures: bool = True) -> None:
        self.captures = captures
        self.tracking = False
        self.told: dict[str, Any] = {}
        self._experiment: Experiment | None = None

    @property
    def experiment(self) -> Experiment | None:
        """The run."""
        return self._experiment

    @classmethod
    def here(cls: type[F]) -> F | None:
        """That of the run which a record made here and now belongs to; None when that records nothing of this library.

        What a patch asks first. `here().experiment` is the run then.
        """
        run = current()
        framework = None if run is None or not run.active else run._frameworks.get(cls.identifier)
        return framework if isinstance(framework, cls) and framework.tracking else None

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about this library, as arguments of the constructor.

        Args:
            options: tracelet's own settings. Of a framework that another package has, variables tell:
                `TRACELET_<IDENTIFIER>__<PARAMETER>` gives a parameter of the constructor whose default is a bool, an int, a
                float or a str.

        Raises:
            ConfigurationError: a variable makes no sense.
        """
        if cls._maker() != "tracelet":
            return arguments_of(cls, cls.settings or cls.identifier)
        settings = getattr(options, cls.settings or cls.identifier, None)
        return asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else {}

    @classmethod
    def _maker(cls) -> str:
        """The package that it belongs to."""
        return cls.__module__.partition(".")[0]

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The settings that switch its capture off, by name."""
        name = cls.settings or cls.identifier
        ours = cls._maker() == "tracelet"
        arguments = cls.arguments(options).items()
        return [f"{name}.{switch}" for switch, on in arguments if on is False and (ours or switch == "captures")]

    def initialize(self, experiment: Experiment) -> None:
        """Become a run's framework of this kind, in place of the one that it has, and track."""
        self._experiment = experiment
        experiment._frameworks[self.identifier] = self
        self.start_tracking()

    def start_tracking(self) -> None:
        """Record the library's calls, if this framework captures any; also again, after `stop_tracking`.

        Raises:
            ConfigurationError: no run was given by `initialize`.
        """
        if self._experiment is None:
            raise ConfigurationError(f"{type(self).__name__}: call initialize(experiment) first")
        if self.captures:
            self.tracking = True
            self.install()

    def stop_tracking(self) -> None:
        """Record nothing more for this run."""
        self.tracking = False

    def log_metric(self, name: str, value: Any, iteration: Any = None) -> None:
        """Record a point by hand; see `Experiment.log_metric`."""
        if (experiment := self._of_run()) is not None:
            experiment.log_metric(name, value, iteration)

    def log_enhanced_metric(
        self,
        name: str,
        value: Any,
        metric_type: MetricType | str,
        iteration: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a point with its type and what belongs to it; see `Experiment.log_enhanced`.

        Args:
            name: the metric's name.
            value: a number.
            metric_type: a `MetricType`, its string, or a word of your own.
            iteration: the step; 0 is step 0.
            metadata: numbers, strings, booleans; anything else as its `str`.
        """
        if (experiment := self._of_run()) is not None:
            experiment.log_enhanced(name, value, metric_type, iteration, metadata)

    def _of_run(self) -> Experiment | None:
        if self._experiment is None:
            say(f"{type(self).__name__}.log_* was called before initialize(experiment): nothing is recorded")
        return self._experiment

    @classmethod
    def install(cls) -> None:
        """Patch the library; one that is not imported yet, when it is."""
        cls._wanted = True
        if sys.modules.get(cls.module) is not None:  # None: somebody forbids its import
            # Not sys.modules[…]: another thread may be in the middle of importing it, and this waits for that.
            cls._patch_once(importlib.import_module(cls.module))
        elif not cls._awaited:
            import wrapt

            cls._awaited = True
            wrapt.register_post_import_hook(cls._on_import, cls.module)

    @classmethod
    def uninstall(cls) -> None:
        """Take the patches off where nobody patched on top, else switch them off."""
        if cls._wanted:
            cls._wanted = False
            cls.unpatch()

    @classmethod
    def places(cls) -> Iterable[Place]:
        """Where the library is listened to. Asked once it is imported, and again by each run that starts."""
        return ()

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Put the patches on; when they are on, do nothing.

        Args:
            module: the library's, which is imported.
        """
        cls._places.patch(cls.places())

    @classmethod
    def unpatch(cls) -> None:
        """Take them off; when they are not on, do nothing."""
        cls._places.unpatch()

    @classmethod
    def patch_method(cls, owner: type | ModuleType, name: str, build: Callable[[Switch], Wrapper]) -> None:
        """Patch a method of a class that is met later, until `unpatch`; when it is patched, do nothing.

        Raises:
            KeyError: there is no such method.
        """
        cls._places.patch_method(owner, name, build)

    @classmethod
    def _on_import(cls, module: ModuleType) -> None:
        if cls._wanted:
            try:
                cls._patch_once(module)
            except Exception as error:  # it must not break the user's import
                swallow(f"intercepting {cls.identifier}", error)

    @classmethod
    def _patch_once(cls, module: ModuleType) -> None:
        version, maker = version_of(cls.package), cls._maker()
        if reaches(version, cls.since) is False:
            oldest = dotted(cls.since)
            say(
                f"{cls.package} {version} is older than {oldest}, the oldest that {maker} is made for: it is not recorded"
            )
            return
        if reaches(version, cls.before):
            say(
                f"{cls.package} {version} is newer than what this {maker} is made for (before {dotted(cls.before)}): "
                "it is recorded as far as it is as it was"
            )
        cls.patch(module)
