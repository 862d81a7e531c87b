"""`TraceletSettings`: all settings of a run as one object, made of arguments, the environment and `.env`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tracelet.core.labels import WriterPrefix
from tracelet.core.options import ENV_FILE, ENV_PREFIX, NESTED, Options, parse, read_environment
from tracelet.errors import ConfigurationError

__all__ = ["AccelerateSettings", "LightningSettings", "PyTorchSettings", "TraceletSettings", "TransformersSettings"]

_DEFAULTS: Final = Options()


def _setting(given: Any, info: ValidationInfo) -> Any:
    return parse(str(info.field_name), given)


def _setting_or_none(given: Any, info: ValidationInfo) -> Any:
    return None if given is None else parse(str(info.field_name), given)


def _within(outer: str) -> BeforeValidator:
    def setting(given: Any, info: ValidationInfo) -> Any:
        return parse(f"{outer}.{info.field_name}", given)

    return BeforeValidator(setting)


_Given = BeforeValidator(_setting)
_GivenOrNone = BeforeValidator(_setting_or_none)


class PyTorchSettings(BaseModel):
    """Settings of `tracelet.frameworks.pytorch`; variables `TRACELET_PYTORCH__…`.

    Attributes:
        patch_tensorboard: record what SummaryWriters log.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_tensorboard: Annotated[bool, _within("pytorch")] = _DEFAULTS.pytorch.patch_tensorboard


class LightningSettings(BaseModel):
    """Settings of `tracelet.frameworks.lightning`, for both of its packages; variables `TRACELET_LIGHTNING__…`.

    Attributes:
        capture: record what modules log, whatever loggers the Trainer has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    capture: Annotated[bool, _within("lightning")] = _DEFAULTS.lightning.capture


class TransformersSettings(BaseModel):
    """Settings of `tracelet.frameworks.transformers`; variables `TRACELET_TRANSFORMERS__…`.

    Attributes:
        capture: record what Trainers log, whatever they report to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    capture: Annotated[bool, _within("transformers")] = _DEFAULTS.transformers.capture


class AccelerateSettings(BaseModel):
    """Settings of `tracelet.frameworks.accelerate`; variables `TRACELET_ACCELERATE__…`.

    Attributes:
        capture: record what Accelerators log, whatever trackers they have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    capture: Annotated[bool, _within("accelerate")] = _DEFAULTS.accelerate.capture


class TraceletSettings(BaseSettings):
    """Settings of a run, for `start_logging(settings=…)`.

    Arguments go first, then variables (`TRACELET_` and the setting's name; nested ones as `TRACELET_PYTORCH__…`), then `.env`
    in the working directory. An unknown argument is an error; unknown variables are left alone.

    Attributes:
        home: where spools, the local collector's log and its endpoint lie; None for the platform's state directory.
        project: MLflow experiment, W&B project, ClearML project.
        run_name: the run's name; None for one made of the script's name and the time.
        id: the id of the first run that a script begins; None for a new one.
        resume: where there is a run with an id already: "never" is an error, with "auto" it goes on, with "must" there has to
            be one. "checkpoint" is "auto", and a training that a library resumes from a checkpoint goes on with its run.
        backend: trackers to deliver to: a list, or "a,b".
        disabled: nothing is recorded, every call is a no-op.
        writer_prefix: when metrics carry the label of their SummaryWriter: "auto" (when the run has several), "always" or
            "never".
        spool_cap_bytes: disk that one process's spool may take; None for 2 GiB or a tenth of the disk.
        flush_interval: seconds between two looks of the sender.
        collector_idle: seconds after which a local collector with nothing to do exits.
        retention_days: days that a local collector keeps a run's records after its end, once they are delivered; 0 for ever.
        retention_bytes: bytes of a local collector's log and files beyond which the oldest runs that are delivered go; 0 for no
            limit.
        stop_timeout: seconds that `stop_logging` waits for everything to be durable.
        stop_wait: what stopping waits for: "durable", "delivered" (at most two minutes), or "auto": delivered where no
            collector can outlive this process.
        ranks: which ranks of a distributed training record after `start_logging`: the "first", or "all", with a label.
        child_runs: what `start_logging` does in a process below one that records: "join" its run, or begin a "new" one.
        parent: run id of the run that it belongs to.
        group: what the run is compared with.
        tags: tags of the run: a mapping, words, or "a=1,b".
        notes: a text about the run, in Markdown.
        optimizer_every: steps between two records of an optimizer, 0 for no records; None for each one's own rhythm (every
            step of a population optimizer, every 50th of an ordinary one).
        optimizer_status: record all numbers of a population optimizer's `status`.
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

    Raises:
        ConfigurationError: a value makes no sense; the message names it and says what would.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    home: Annotated[Path | None, _GivenOrNone] = _DEFAULTS.home
    project: Annotated[str, _Given] = _DEFAULTS.project
    run_name: Annotated[str | None, _GivenOrNone] = _DEFAULTS.run_name
    id: Annotated[str | None, _GivenOrNone] = _DEFAULTS.id
    resume: Annotated[Literal["never", "auto", "must", "checkpoint"], _Given] = _DEFAULTS.resume
    backend: Annotated[list[str], _Given] = list(_DEFAULTS.backend)
    disabled: Annotated[bool, _Given] = _DEFAULTS.disabled
    writer_prefix: Annotated[WriterPrefix, _Given] = _DEFAULTS.writer_prefix
    spool_cap_bytes: Annotated[int | None, _GivenOrNone] = _DEFAULTS.spool_cap_bytes
    flush_interval: Annotated[float, _Given] = _DEFAULTS.flush_interval
    collector_idle: Annotated[float, _Given] = _DEFAULTS.collector_idle
    retention_days: Annotated[float, _Given] = _DEFAULTS.retention_days
    retention_bytes: Annotated[int, _Given] = _DEFAULTS.retention_bytes
    stop_timeout: Annotated[float, _Given] = _DEFAULTS.stop_timeout
    stop_wait: Annotated[Literal["auto", "durable", "delivered"], _Given] = _DEFAULTS.stop_wait
    ranks: Annotated[Literal["first", "all"], _Given] = _DEFAULTS.ranks
    child_runs: Annotated[Literal["join", "new"], _Given] = _DEFAULTS.child_runs
    parent: Annotated[str | None, _GivenOrNone] = _DEFAULTS.parent
    group: Annotated[str | None, _GivenOrNone] = _DEFAULTS.group
    tags: Annotated[dict[str, str], _Given] = dict(_DEFAULTS.tags)
    notes: Annotated[str | None, _GivenOrNone] = _DEFAULTS.notes
    optimizer_every: Annotated[int | None, _GivenOrNone] = _DEFAULTS.optimizer_every
    optimizer_status: Annotated[bool, _Given] = _DEFAULTS.optimizer_status
    optimizer_histogram_every: Annotated[int, _Given] = _DEFAULTS.optimizer_histogram_every
    capture_artifacts: Annotated[Set[str], _Given] = frozenset(_DEFAULTS.capture_artifacts)
    provenance: Annotated[bool, _Given] = _DEFAULTS.provenance
    environment: Annotated[list[str], _Given] = list(_DEFAULTS.environment)
    system_every: Annotated[float, _Given] = _DEFAULTS.system_every
    console: Annotated[bool, _Given] = _DEFAULTS.console
    plugins: Annotated[bool, _Given] = _DEFAULTS.plugins
    trials: Annotated[bool, _Given] = _DEFAULTS.trials
    pytorch: PyTorchSettings = PyTorchSettings()
    lightning: LightningSettings = LightningSettings()
    transformers: TransformersSettings = TransformersSettings()
    accelerate: AccelerateSettings = AccelerateSettings()

    if not TYPE_CHECKING:  # checkers take the arguments from the fields

        def __init__(self, *, _env_file: str | os.PathLike[str] | None = ENV_FILE, **given: Any) -> None:
            # Read here, not by pydantic's own sources: `Options.load` must say the same, to the letter.
            for name, found in read_environment(_env_file).items():
                said = given.setdefault(name, found)
                if isinstance(said, Mapping) and isinstance(found, Mapping):
                    given[name] = {**found, **said}
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise _configuration_error(error) from error

    def options(self) -> Options:
        """The same as plain data."""
        return Options().override(**self.model_dump())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables and `.env` come by the constructor."""
        return (init_settings,)


_KINDS: Final[Mapping[str, type[BaseModel]]] = {
    "pytorch": PyTorchSettings,
    "lightning": LightningSettings,
    "transformers": TransformersSettings,
    "accelerate": AccelerateSettings,
}
assert _KINDS.keys() == NESTED.keys()


def _configuration_error(error: ValidationError) -> ConfigurationError:
    problems = error.errors()
    ours = problems[0].get("ctx", {}).get("error")
    if len(problems) == 1 and isinstance(ours, ConfigurationError):
        return ours
    return ConfigurationError("; ".join(_sentence(problem) for problem in problems))


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _KINDS.get(name.partition(".")[0], TraceletSettings)
        return f"there is no setting {name!r}; there are: {', '.join(known.model_fields)}"
    ours = problem.get("ctx", {}).get("error")
    return str(ours) if isinstance(ours, ConfigurationError) else f"{name}: {problem['msg']}"
