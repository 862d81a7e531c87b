"""Makes a name that a tracker takes out of any name, and remembers what it decided."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

__all__ = ["KeyBook", "marked", "memory_key", "sanitise"]

# What MLflow takes (mlflow.utils.validation): Unicode letters and digits and these marks. Combining marks are no letters.
_REFUSED: Final = re.compile(r"[^\w.\- :/]")
_HASH_SIZES: Final = (4, 8, 16, 32)


def sanitise(name: str, limit: int) -> str:
    """The nearest name that MLflow takes for a metric, param or tag.

    Composed (NFC), with `_` for every character that is refused, and a normal relative path: no empty part, no `.` or `..`.
    A name that is too long is cut and gets a hash of the whole, so that two long names stay two.

    Args:
        name: any text.
        limit: the most characters the result may have.

    Returns:
        A name that is not empty; the name itself when there is nothing wrong with it.
    """
    clean = _REFUSED.sub("_", unicodedata.normalize("NFC", name))
    parts = ["_" * len(part) if part in (".", "..") else part for part in clean.split("/") if part]
    clean = "/".join(parts) or "_"
    if clean.startswith(".."):  # read as a way out of the run's folder
        clean = "_" + clean[1:]
    return clean if len(clean) <= limit else marked(clean, name, 8, limit)


def marked(clean: str, name: str, size: int, limit: int) -> str:
    """A key with a hash of the name that it stands for, cut to a length."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{clean[: limit - size - 1]}-{digest[:size]}"


def memory_key(raw: bytes, of: bytes = b"") -> int:
    """What a run's memory keeps something under (`base.Memory`): a hash.

    Args:
        raw: what it is.
        of: which kind of things it is one of, at most 16 bytes; two kinds share no key.
    """
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, person=of).digest(), "little", signed=True)


class KeyBook:
    """Which key stands for which name, for one run.

    The first name that wants a key has it for good; a later one gets `<key>-<hash of its name>`. Keys are decided in the
    log's order, so deciding again from the same state comes to the same.

    Attributes:
        decided: name to key; the caller keeps it in the exporter's state.
    """

    def __init__(self, decided: dict[str, str], limit: int, taken: set[str] | None = None) -> None:
        """Open a book.

        Args:
            decided: decisions so far, added to in place.
            limit: the most characters of a key.
            taken: keys that are in use, when several books share one space of names.
        """
        self.decided = decided
        self._limit = limit
        self._taken = set() if taken is None else taken
        self._taken.update(decided.values())

    def key(self, name: str, wanted: str | None = None) -> str:
        """The key of a name.

        Args:
            name: what the decision is remembered under.
            wanted: what the key should look like; the name itself by default.
        """
        known = self.decided.get(name)
        if known is not None:
            return known
        clean = self._sanitised(name if wanted is None else wanted)
        key = clean
        for size in _HASH_SIZES:
            if key not in self._taken:
                break
            key = marked(clean, name, size, self._limit)
        self._taken.add(key)
        self.decided[name] = key
        return key

    def _sanitised(self, wanted: str) -> str:
        """The nearest key that the tracker takes."""
        return sanitise(wanted, self._limit)
