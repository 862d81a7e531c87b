"""What each setting may be: a parser for each, which makes its value out of what a user gave."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tracelet.core.plan import check_run_id
from tracelet.errors import UnknownBackendError
from tracelet.spoolfile.slots import SEGMENT_SIZE

__all__ = ["ARTIFACTS", "EXPORTERS", "PARSERS"]

EXPORTERS: Final = ("mlflow", "clearml", "tensorboard", "wandb")
ARTIFACTS: Final = ("checkpoints", "exports", "profiles")
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


def _rhythm(given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if isinstance(given, bool) or not (seconds == 0 or 0.1 <= seconds <= 86_400):
        raise ValueError("a number of seconds, at least 0.1, or 0 for never")
    return seconds


def _words(*known: str) -> Callable[[Any], tuple[str, ...]]:
    def parsed(given: Any) -> tuple[str, ...]:
        words = given.split(",") if isinstance(given, str) else given
        found = (
            [word.strip() if isinstance(word, str) else "" for word in words] if isinstance(words, Iterable) else [""]
        )
        found = [word for word in found if word] if isinstance(given, str) else found
        if not all(word and word.isprintable() and (not known or word in known) for word in found):
            raise ValueError(f"some of: {', '.join(known)}" if known else 'names, as a list or "a,b"')
        return tuple(sorted(set(found)))

    return parsed


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
    raise ValueError("its settings one by one, as in TRACELET_PYTORCH__PATCH_TENSORBOARD=false")


PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "home": _path,
    "project": _text,
    "run_name": _text,
    "id": _run_id,
    "resume": _one_of("never", "auto", "must", "checkpoint"),
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
    "capture_artifacts": _words(*ARTIFACTS),
    "provenance": _flag,
    "environment": _words(),
    "system_every": _rhythm,
    "console": _flag,
    "plugins": _flag,
    "trials": _flag,
    "pytorch": _nested,
    "pytorch.patch_tensorboard": _flag,
    "lightning": _nested,
    "lightning.capture": _flag,
    "transformers": _nested,
    "transformers.capture": _flag,
    "accelerate": _nested,
    "accelerate.capture": _flag,
}
