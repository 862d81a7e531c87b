"""Tracelet's settings as plain data, read from the environment and `.env`.

Without pydantic: importing that takes longer than `start_logging` may. `tracelet.settings.TraceletSettings` is the same with
pydantic's comforts; both parse here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from tracelet.core.labels import WriterPrefix
from tracelet.core.parsers import EXPORTERS, PARSERS
from tracelet.errors import ConfigurationError

__all__ = [
    "ENV_FILE",
    "ENV_PREFIX",
    "EXPORTERS",
    "NESTED",
    "AccelerateOptions",
    "LightningOptions",
    "Options",
    "PyTorchOptions",
    "TransformersOptions",
    "parse",
    "read_environment",
    "variable",
    "variables_of",
]

ENV_PREFIX: Final = "TRACELET_"
ENV_FILE: Final = ".env"
_BETWEEN: Final = "__"


@dataclass(frozen=True, slots=True)
class PyTorchOptions:
    """Settings of `tracelet.frameworks.pytorch`.

    Attributes:
        patch_tensorboard: record what SummaryWriters log.
    """

    patch_tensorboard: bool = True


@dataclass(frozen=True, slots=True)
class LightningOptions:
    """Settings of `tracelet.frameworks.lightning`, for both of its packages.

    Attributes:
        capture: record what modules log, whatever loggers the Trainer has.
    """

    capture: bool = True


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """Settings of `tracelet.frameworks.transformers`.

    Attributes:
        capture: record what Trainers log, whatever they report to.
    """

    capture: bool = True


@dataclass(frozen=True, slots=True)
class AccelerateOptions:
    """Settings of `tracelet.frameworks.accelerate`.

    Attributes:
        capture: record what Accelerators log, whatever trackers they have.
    """

    capture: bool = True


# Settings of frameworks, each with settings of its own.
NESTED: Final[Mapping[str, type]] = {
    "pytorch": PyTorchOptions,
    "lightning": LightningOptions,
    "transformers": TransformersOptions,
    "accelerate": AccelerateOptions,
}


@dataclass(frozen=True, slots=True)
class Options:
    """All settings.

    Attributes:
        home: where spools, the local collector's log and its endpoint lie; None for the platform's state directory.
        project: MLflow experiment, W&B project, ClearML project.
        run_name: the run's name; None for one made of the script's name and the time.
        id: the id of the first run that a script begins; None for a new one.
        resume: what becomes of a run that there is with an id: see `tracelet.core.identity`.
        backend: trackers to deliver to.
        disabled: nothing is recorded, every call is a no-op.
        writer_prefix: when metrics carry the label of their SummaryWriter: see `tracelet.core.labels`.
        spool_cap_bytes: disk that one process's spool may take; None for 2 GiB or a tenth of the disk.
        flush_interval: seconds between two looks of the sender.
        collector_idle: seconds after which a local collector with nothing to do exits.
        retention_days: days that a local collector keeps a run's records after its end; 0 for ever.
        retention_bytes: bytes of a local collector's log and files beyond which the oldest runs go; 0 for no limit.
        stop_timeout: seconds that `stop_logging` waits for everything to be durable.
        stop_wait: what stopping waits for: see `tracelet.core.outlive`.
        ranks: which ranks of a distributed training record after `start_logging`: see `tracelet.core.ranks`.
        child_runs: a process below one that records joins its run, or begins one of its own.
        parent: run id of the run that it belongs to.
        group: what the run is compared with.
        tags: tags of the run.
        notes: a text about the run, in Markdown.
        optimizer_every: steps between two records of an optimizer; None for each one's own rhythm, 0 for none.
        optimizer_status: record all numbers of a population optimizer's status.
        optimizer_histogram_every: steps between two histograms of a population; 0 for none.
        capture_artifacts: files that libraries write and that become artifacts: checkpoints, exports, profiles.
        provenance: record what the run was: arguments, git commit and changes, packages, command line, host.
        environment: environment variables that are recorded with it: names, or patterns with `*`.
        system_every: seconds between two looks at CPU, memory, disk, network and GPU; 0 for none.
        console: keep what the script prints as an artifact.
        plugins: listen to the libraries too that other packages' frameworks are for.
        trials: the trials of Optuna and Ray Tune are runs within the one that searches.
        pytorch: settings of this framework.
        lightning: settings of this framework.
        transformers: settings of this framework.
        accelerate: settings of this framework.
    """

    home: Path | None = None
    project: str = "default"
    run_name: str | None = None
    id: str | None = None
    resume: Literal["never", "auto", "must", "checkpoint"] = "never"
    backend: tuple[str, ...] = EXPORTERS[:1]
    disabled: bool = False
    writer_prefix: WriterPrefix = "auto"
    spool_cap_bytes: int | None = None
    flush_interval: float = 0.1
    collector_idle: float = 60.0
    retention_days: float = 30.0
    retention_bytes: int = 20 * 2**30
    stop_timeout: float = 5.0
    stop_wait: Literal["auto", "durable", "delivered"] = "auto"
    ranks: Literal["first", "all"] = "first"
    child_runs: Literal["join", "new"] = "join"
    parent: str | None = None
    group: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: str | None = None
    optimizer_every: int | None = None
    optimizer_status: bool = False
    optimizer_histogram_every: int = 100
    capture_artifacts: tuple[str, ...] = ()
    provenance: bool = True
    environment: tuple[str, ...] = ()
    system_every: float = 10.0
    console: bool = False
    plugins: bool = True
    trials: bool = True
    pytorch: PyTorchOptions = PyTorchOptions()
    lightning: LightningOptions = LightningOptions()
    transformers: TransformersOptions = TransformersOptions()
    accelerate: AccelerateOptions = AccelerateOptions()

    def without_capture(self) -> Options:
        """The same for a run that records nothing: no library is listened to."""
        return replace(
            self,
            optimizer_every=0,
            capture_artifacts=(),
            provenance=False,
            system_every=0.0,
            console=False,
            plugins=False,
            trials=False,
            pytorch=PyTorchOptions(patch_tensorboard=False),
            lightning=LightningOptions(capture=False),
            transformers=TransformersOptions(capture=False),
            accelerate=AccelerateOptions(capture=False),
        )

    @staticmethod
    def load() -> Options:
        """The settings that the environment and `.env` in the working directory make; the environment goes first.

        Raises:
            ConfigurationError: a value makes no sense; the message names the variable, the value and what would be right.
        """
        return Options().override(**read_environment(ENV_FILE))

    def override(self, **arguments: Any) -> Options:
        """These settings with some replaced.

        Args:
            arguments: by name, as a user gives them; None leaves a setting as it is. A mapping for a nested one. Tags are
                added to those that there are.

        Raises:
            ConfigurationError: a value makes no sense.
            TypeError: there is no such setting.
        """
        changes: dict[str, Any] = {}
        for name, value in arguments.items():
            if value is None:
                continue
            if name in NESTED and isinstance(value, Mapping):
                nested = {inner: parse(f"{name}.{inner}", each) for inner, each in value.items() if each is not None}
                changes[name] = replace(getattr(self, name), **nested)
            elif name == "tags":
                changes[name] = {**self.tags, **parse(name, value)}
            else:
                changes[name] = parse(name, value)
        return replace(self, **changes)


def parse(name: str, given: Any, source: str | None = None) -> Any:
    """The value of a setting, made of what a user gave.

    Args:
        name: the setting, dotted when nested.
        given: as it was given: the text of a variable, or a Python value.
        source: what the message calls it; by default the setting's name.

    Raises:
        ConfigurationError: it makes no sense.
        TypeError: there is no such setting.
    """
    source = source or name
    if name not in PARSERS:
        raise TypeError(f"there is no setting {name!r}; there are: {', '.join(PARSERS)}")
    try:
        return PARSERS[name](given)
    except ConfigurationError as error:
        error.args = (f"{source}={given!r}: {error}",)
        raise
    except ValueError as error:
        raise ConfigurationError(f"{source}={given!r} makes no sense; give {error}") from None


def read_environment(env_file: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The settings that are set by variables.

    `TRACELET_` and the setting's name, nested ones behind `__` (`TRACELET_PYTORCH__PATCH_TENSORBOARD`), in any case. An
    empty variable counts as not set; unknown names are left alone: they may be another version's.

    Args:
        env_file: a file of variables that the environment does not set; None for none.

    Returns:
        Parsed values by name; nested ones as a mapping.

    Raises:
        ConfigurationError: a value makes no sense, or the file cannot be read.
    """
    found: dict[str, Any] = {}
    for suffix, variables in (("", os.environ), (f" (in {env_file})", _env_file(env_file))):
        for variable, value in variables.items():
            if not value or not variable.upper().startswith(ENV_PREFIX):
                continue
            name = variable[len(ENV_PREFIX) :].lower().replace(_BETWEEN, ".")
            if name in PARSERS and name not in found:
                found[name] = parse(name, value, variable + suffix)
    settings: dict[str, Any] = {}
    for name, value in found.items():
        outer, _, inner = name.partition(".")
        if inner:
            settings.setdefault(outer, {})[inner] = value
        else:
            settings[outer] = value
    return settings


def variable(suffix: str, env_file: str | os.PathLike[str] | None) -> str:
    """What a variable says that belongs to one backend and is no setting of the run; empty when it is not set.

    Args:
        suffix: its name behind `TRACELET_`.
        env_file: as for `read_environment`.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    name = ENV_PREFIX + suffix
    return os.environ.get(name) or _env_file(env_file).get(name) or ""


def variables_of(name: str, env_file: str | os.PathLike[str] | None) -> dict[str, str]:
    """The variables of a framework that is another package's, by the rest of their names in lower case.

    `TRACELET_`, its name, `__` and that rest, in any case. An empty variable counts as not set.

    Args:
        name: the framework's.
        env_file: as for `read_environment`.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    begin = f"{ENV_PREFIX}{name}{_BETWEEN}".upper()
    found: dict[str, str] = {}
    for variables in (os.environ, _env_file(env_file)):
        for variable, value in variables.items():
            if value and variable.upper().startswith(begin):
                found.setdefault(variable[len(begin) :].lower(), value)
    return found


def _env_file(path: str | os.PathLike[str] | None) -> Mapping[str, str | None]:
    if path is None or not os.path.isfile(path):
        return {}
    try:
        with open(path, "rb") as file:
            if ENV_PREFIX.encode() not in file.read().upper():
                return {}  # nothing for us, so nothing to import a parser for
        import dotenv

        return dotenv.dotenv_values(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
