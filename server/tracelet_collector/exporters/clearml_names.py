"""What things are called in ClearML: title and series of a metric, section and name of a param, tags, projects, files.

ClearML's server knows an event by its task, its iteration, and title and series with a dash between: `a-b`, `c` and `a`, `b-c`
are one series to it, and a later value takes the place of an earlier one. So names that would meet are kept apart here, and a
second value of one series and iteration goes to a series of its own: `<series> #2`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

__all__ = [
    "NOT_FINITE",
    "OWN_PREFIX",
    "SeriesBook",
    "artifact_key",
    "file_name",
    "fit_name",
    "folder_name",
    "param_place",
    "project_name",
    "tag_word",
    "task_name",
]

NOT_FINITE: Final = ".nonfinite"
OWN_PREFIX: Final = "tracelet/"  # of the keys of artifacts that are not the user's files
_MACHINE: Final = ":monitor:machine"  # where ClearML's own measurements of the machine are
_GPU: Final = ":monitor:gpu"
_LONGEST: Final = 250
_NUMBERED: Final = re.compile(r"(.*) #([1-9][0-9]*)", re.DOTALL)
_PLAIN: Final = re.compile(r"[^A-Za-z0-9._=()\-]")
_LONGEST_FILE: Final = 100
_SHORTEST: Final = 3  # characters of a task's and a project's name
_DEEPEST: Final = 10  # parts of a project's name
_OWN_SECTION: Final = "tracelet"
_OPERATOR: Final = "__$"  # begins a word of ClearML's query language


class SeriesBook:
    """Which title and series stand for which name, for one run.

    Names are decided in the log's order, so deciding again from the same state comes to the same.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        """Open a book.

        Args:
            state: the run's; `names` (name to title and series) and `again` (title and series, joined, to the largest number
                of a value of one iteration) are ours.
        """
        self._decided: dict[str, list[str]] = state.setdefault("names", {})
        self._again: dict[str, int] = state.setdefault("again", {})
        self._taken = {_joined(*pair) for pair in self._decided.values()}

    def place(self, name: str, wanted: str | None = None, system: bool = False) -> tuple[str, str]:
        """Title and series of a name.

        Args:
            name: what the decision is remembered under.
            wanted: what they should look like; the name itself by default.
            system: it was measured of the machine.
        """
        known = self._decided.get(name)
        if known is not None:
            return known[0], known[1]
        title, series = _split(name if wanted is None else wanted, system)
        clean = series
        for size in (4, 8, 16, 32):
            if not self._is_taken(_joined(title, series)):
                break
            series = f"{clean}~{_digest(name, size)}"
        self._taken.add(_joined(title, series))
        self._decided[name] = [title, series]
        return title, series

    def numbered(self, title: str, series: str, number: int) -> str:
        """The series of the nth value of one title, series and iteration."""
        if number == 1:
            return series
        key, plain = _joined(title, series), f"{series} #{number}"
        if _joined(title, plain) in self._taken:
            return f"{plain}~{_digest(key, 8)}"
        if number > self._again.get(key, 1):
            self._again[key] = number
        return plain

    def _is_taken(self, joined: str) -> bool:
        if joined in self._taken:
            return True
        match = _NUMBERED.fullmatch(joined)
        return match is not None and int(match[2][:18]) <= self._again.get(match[1], 1)


def _joined(title: str, series: str) -> str:
    return f"{title}-{series}"


def _split(name: str, system: bool) -> tuple[str, str]:
    if system and name.startswith("system/"):
        what = name.removeprefix("system/")
        if what.strip():
            return _GPU if what.startswith("gpu") else _MACHINE, fit_name(what)
    title, slash, series = name.partition("/")
    if not (slash and title.strip() and series.strip()):
        title = series = name if name.strip() else "_"
    return fit_name(title), fit_name(series)


def fit_name(text: str) -> str:
    """The text, or, when it is too long for a name, its beginning with a hash."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 17]}~{_digest(text, 16)}"


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()[:size]


def folder_name(text: str) -> str:
    """A part of a path that any store of files takes, and any address; others may have the same."""
    return _PLAIN.sub("_", text)[:_LONGEST_FILE].strip(".") or "_"


def file_name(text: str) -> str:
    """A part of a path that any store of files takes, and any address, and that no other text has."""
    clean = _PLAIN.sub("_", text)
    if clean == text and 0 < len(text) <= _LONGEST_FILE and text.strip(".") == text:
        return text
    return f"{clean[: _LONGEST_FILE - 17].strip('.')}~{_digest(text, 16)}"


def artifact_key(path: str) -> str:
    """The key of a user's file: its path, kept apart from keys of ours."""
    return f"_{path}" if path.lstrip("_").startswith(OWN_PREFIX) else path


def param_place(name: str) -> tuple[str, str]:
    """Section and name of a param, as ClearML's `set_parameters` has them: `optimizer/lr` is `lr` of the section `optimizer`.

    What has no section is in `General`. No two names come to one place.
    """
    section, _, rest = name.partition("/")
    if (
        not (section.strip() and rest.strip())
        or section in ("General", _OWN_SECTION)
        or section.lower() == "properties"
    ):
        return "General", name or "_"
    return section, rest


def tag_word(name: str, value: str) -> str:
    """A tag as ClearML has it, which has no values: `name:value`; a tag that is merely set is its name."""
    word = fit_name(f"_{name}" if name.startswith(_OPERATOR) else name)
    return word if value == "true" and word else f"{word}:{fit_name(value)}"


def task_name(name: str, run_id: str) -> str:
    """A task's name: at least three characters."""
    clean = fit_name(name.strip())
    return clean if len(clean) >= _SHORTEST else f"{clean} ({run_id})".strip()


def project_name(name: str) -> str:
    """A project's name: parts with slashes between, each of at least three characters."""
    parts = [part.strip() for part in name.split("/") if part.strip()] or ["default"]
    if len(parts) > _DEEPEST:
        parts = [*parts[: _DEEPEST - 1], ".".join(parts[_DEEPEST - 1 :])]
    return "/".join(fit_name(part).ljust(_SHORTEST, "_") for part in parts)
