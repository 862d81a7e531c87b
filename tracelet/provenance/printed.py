"""What was printed, line by line, as a terminal would leave it: no colours, each line in its last state, no private keys."""

from __future__ import annotations

import re
from typing import Final

from tracelet.secrets import MARK, KeyBlocks

__all__ = ["Lines"]

_LONGEST_LINE: Final = 64 * 1024
_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Lines:
    """The lines of one stream, as a terminal would leave them."""

    def __init__(self) -> None:
        self._open = ""
        self._keys = KeyBlocks()

    def add(self, text: str) -> list[str]:
        """The lines that a piece of text completes."""
        *whole, self._open = (self._open + text).split("\n")
        if len(self._open) > _LONGEST_LINE:
            if "\r" in self._open:
                self._open = _last_state(self._open)
            if len(self._open) > _LONGEST_LINE:
                whole.append(self._open)
                self._open = ""
        return [said for line in whole if (said := self._of(line)) is not None]

    def rest(self) -> str:
        """The line that is not over yet."""
        return "" if self._keys.inside else _last_state(self._open)

    def _of(self, line: str) -> str | None:
        line = _last_state(line)
        if not self._keys.hides(line):
            return line
        return MARK if "-----BEGIN " in line else None


def _last_state(line: str) -> str:
    """What of a line is seen when a carriage return has taken the cursor back, perhaps often."""
    states = [state for state in _ANSI.sub("", line).split("\r") if state.strip()]
    return states[-1].rstrip() if len(states) > 1 else (states[0] if states else "")
