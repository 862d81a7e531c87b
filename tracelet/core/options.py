"""Tracelet's settings as plain data, read from the environment and `.env`.

Without pydantic: importing that takes longer than `start_logging` may. `tracelet.settings.TraceletSettings` is the same with
pydantic's comforts; both parse here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from tracelet.core.labels import WriterPrefix
from tracelet.core.plan import check_run_id
from tracelet.errors import ConfigurationError, UnknownBackendError
from tracelet.spoolfile.slots import SEGMENT_SIZE

__all__ = ["ENV_FILE", "ENV_PREFIX", "EXPORTERS", "Options", "PyTorchOptions", "parse", "read_environment", "variable"]

ENV_PREFIX: Final = "TRACELET_"
ENV_FILE: Final = ".env"
EXPORTERS: Final = ("mlflow", "clearml", "tensorboard", "wandb")
_NESTED: Final = "__"
_LONGEST_NOTES: Final = 8000  # what MLflow takes


# Each makes a setting's value out of what was given; the message of its ValueError says what would be right.


def _text(given: Any) -> str:
    if isinstance(given, str) and given.strip().isprintable() and (text := given.strip()):
        return text
    raise ValueError("a line of text")


def _flag(given: Any) -> bool:
    word = str(given).strip().lower()
    if word in ("1", "true", "yes", "on", "t", "y"):
        return True
    if word in ("0", "false", "no", "off", "f", "n"):
        return False
    raise ValueError("true or false")


def _seconds(given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(given, bool) or not 0 < seconds <= 86_400 * 365:
        raise ValueError("a number of seconds above 0")
    return seconds


def _spool_bytes(given: Any) -> int:
    try:
        size = int(given) if isinstance(given, int | str) and not isinstance(given, bool) else 0
    except ValueError:
        size = 0
    if size < SEGMENT_SIZE:
        raise ValueError(f"a whole number of bytes, at least {SEGMENT_SIZE}")
    return size


def _days(given: Any) -> float:
    try:
        days = 0.0 if _is_none(given) else float(given)
    except (TypeError, ValueError, OverflowError):
        days = math.nan
    if isinstance(given, bool) or not 0 <= days <= 365_000:
        raise ValueError("a number of days, or none for ever")
    return days


def _bytes(given: Any) -> int:
    try:
        size = 0 if _is_none(given) else int(given) if isinstance(given, int | str) else -1
    except ValueError:
        size = -1
    if isinstance(given, bool) or not 0 <= size < 2**63:
        raise ValueError("a whole number of bytes, or none for no limit")
    return size


def _is_none(given: Any) -> bool:
    return isinstance(given, str) and given.strip().lower() == "none"


def _steps(given: Any) -> int:
    try:
        steps = int(given) if isinstance(given, int | str) and not isinstance(given, bool) else -1
    except ValueError:
        steps = -1
    if steps < 0:
        raise ValueError("a whole number of steps, 0 for never")
    return steps


def _path(given: Any) -> Path:
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError("a directory")
    return Path(text.strip()).expanduser().absolute()


def _one_of(*words: str) -> Callable[[Any], str]:
    def parsed(given: Any) -> str:
        word = given.strip().lower() if isinstance(given, str) else ""
        if word not in words:
            raise ValueError(f"{', '.join(words[:-1])} or {words[-1]}")
        return word

    return parsed


def _backends(given: Any) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError('a name, several as "a,b", or a list of names')
    names = [word.strip().lower() for word in words if word.strip()]
    if not names:
        raise ValueError(f"at least one of: {', '.join(EXPORTERS)}")
    for name in names:
        if name not in EXPORTERS:
            raise UnknownBackendError(name, EXPORTERS)
    return tuple(dict.fromkeys(names))


def _notes(given: Any) -> str:
    if isinstance(given, str) and len(given) <= _LONGEST_NOTES:
        return _without_surrogates(given)
    raise ValueError(f"a text of at most {_LONGEST_NOTES} characters")


def _tags(given: Any) -> dict[str, str]:
    if isinstance(given, str):
        pairs = [word.partition("=") for word in given.split(",") if word.strip()]
        given = {name: value if is_pair else "true" for name, is_pair, value in pairs}
    elif not isinstance(given, Mapping):
        words = list(given) if isinstance(given, Iterable) else [""]
        given = dict.fromkeys((word if isinstance(word, str) else "" for word in words), "true")
    names = [name.strip() if isinstance(name, str) else "" for name in given]
    if not all(name and name.isprintable() for name in names):
        raise ValueError('a mapping, words, or "a=1,b"')
    return {name: _without_surrogates(str(value)).strip() for name, value in zip(names, given.values(), strict=True)}


def _without_surrogates(text: str) -> str:
    # A variable or an argument may have bytes that are no UTF-8; the wire takes no such text.
    return text.encode(errors="replace").decode()


def _run_id(given: Any) -> str:
    return check_run_id(getattr(given, "id", given))


def _nested(given: Any) -> Any:
    raise ValueError("its settings one by one (TRACELET_PYTORCH__PATCH_TENSORBOARD=false)")


@dataclass(frozen=True, slots=True)
class PyTorchOptions:
    """Settings of `tracelet.frameworks.pytorch`.

    Attributes:
        patch_tensorboard: record what SummaryWriters log.
    """

    patch_tensorboard: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """All settings.

    Attributes:
        home: where spools, the local collector's log and its endpoint lie; None for the platform's state directory.
        project: MLflow experiment, W&B project, ClearML project.
        run_name: the run's name; None for one made of the script's name and the time.
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
        pytorch: settings of this framework.
    """

    home: Path | None = None
    project: str = "default"
    run_name: str | None = None
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
    pytorch: PyTorchOptions = PyTorchOptions()

    def without_capture(self) -> Options:
        """The same for a run that records nothing: no library is listened to."""
        return replace(self, pytorch=PyTorchOptions(patch_tensorboard=False), optimizer_every=0)

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
            if name == "pytorch" and isinstance(value, Mapping):
                nested = {inner: parse(f"{name}.{inner}", each) for inner, each in value.items() if each is not None}
                changes[name] = replace(self.pytorch, **nested)
            elif name == "tags":
                changes[name] = {**self.tags, **parse(name, value)}
            else:
                changes[name] = parse(name, value)
        return replace(self, **changes)


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "home": _path,
    "project": _text,
    "run_name": _text,
    "backend": _backends,
    "disabled": _flag,
    "writer_prefix": _one_of("auto", "always", "never"),
    "spool_cap_bytes": _spool_bytes,
    "flush_interval": _seconds,
    "collector_idle": _seconds,
    "retention_days": _days,
    "retention_bytes": _bytes,
    "stop_timeout": _seconds,
    "stop_wait": _one_of("auto", "durable", "delivered"),
    "ranks": _one_of("first", "all"),
    "child_runs": _one_of("join", "new"),
    "parent": _run_id,
    "group": _text,
    "tags": _tags,
    "notes": _notes,
    "optimizer_every": _steps,
    "optimizer_status": _flag,
    "optimizer_histogram_every": _steps,
    "pytorch": _nested,
    "pytorch.patch_tensorboard": _flag,
}


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
    if name not in _PARSERS:
        raise TypeError(f"there is no setting {name!r}; there are: {', '.join(_PARSERS)}")
    try:
        return _PARSERS[name](given)
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
            name = variable[len(ENV_PREFIX) :].lower().replace(_NESTED, ".")
            if name in _PARSERS and name not in found:
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
