"""Reads the words of a HOCON file, as `clearml.conf` is one: what its values are, by their dotted names.

Without a parser's package: importing one takes longer than `start_logging` may. Read are objects, text, quoted or not,
comments, and `${VARIABLE}` of the environment. Lists and includes are passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Final

__all__ = ["read_hocon"]

_TRIPLE: Final = '"""'
_ENDS: Final = frozenset("\n,}]")


def read_hocon(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The values of a file; of several of one name the last.

    Args:
        text: the file's.
        environment: what `${…}` stands for, unless the file has a value of that name.
    """
    reader = _Reader(text, environment)
    reader.read_object("")
    return reader.found


class _Reader:
    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self.found: dict[str, str] = {}
        self._text = text
        self._at = 0
        self._environment = environment

    def read_object(self, prefix: str) -> None:
        """To its `}`, or to the end."""
        while True:
            self._skip(" \t\r\n,")
            char = self._char()
            if char in ("", "}"):
                self._at += 1
                return
            if char in "{[":  # the braces around the file; or what nobody expects
                self._at += 1
                if not prefix and char == "{":
                    self.read_object("")
                continue
            key = self._read_key()
            self._skip(" \t")
            if self._char() in ":=+":
                self._at += 1
                self._skip("=")
                self._skip(" \t\r\n")
            if not key:
                self._at += 1
            elif self._char() == "{":
                self._at += 1
                self.read_object(f"{prefix}{key}.")
            elif self._char() == "[":
                self._pass_list()
            else:
                self.found[prefix + key] = self._read_value()

    def _read_key(self) -> str:
        parts = ""
        while (char := self._char()) and char not in ":={}[],\n+":
            parts += self._read_quoted() if char == '"' else self._take()
        return parts.strip()

    def _read_value(self) -> str:
        parts, raw = "", ""  # blanks at the ends of text that is not quoted do not count
        while (char := self._char()) and char not in _ENDS and not self._is_comment():
            if char == '"':
                parts, raw = parts + (raw if parts else raw.lstrip()) + self._read_quoted(), ""
            elif self._text.startswith("${", self._at):
                parts, raw = parts + (raw if parts else raw.lstrip()) + self._read_variable(), ""
            else:
                raw += self._take()
        return parts + (raw.rstrip() if parts else raw.strip())

    def _read_variable(self) -> str:
        end = self._text.find("}", self._at)
        end = len(self._text) if end < 0 else end
        name = self._text[self._at + 2 : end].lstrip("?").strip()
        self._at = end + 1
        return self.found.get(name, self._environment.get(name, ""))

    def _read_quoted(self) -> str:
        if self._text.startswith(_TRIPLE, self._at):
            start = self._at + 3
            end = self._text.find(_TRIPLE, start)
            end = len(self._text) if end < 0 else end
            self._at = end + 3
            return self._text[start:end]
        start = self._at
        self._at += 1
        while (char := self._char()) not in ("", '"', "\n"):
            self._at += 2 if char == "\\" else 1
        self._at += self._char() == '"'
        quoted = self._text[start : self._at]
        try:
            return str(json.loads(quoted))
        except ValueError:
            return quoted.strip('"')

    def _pass_list(self) -> None:
        depth = 0
        while char := self._char():
            if char == '"':
                self._read_quoted()
                continue
            if self._is_comment():
                self._skip("")
                continue
            depth += (char in "[{") - (char in "]}")
            self._at += 1
            if depth == 0:
                return

    def _skip(self, blanks: str) -> None:
        """Past blanks, and past comments."""
        while (char := self._char()) and (char in blanks or self._is_comment()):
            if char in blanks:
                self._at += 1
            else:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end

    def _is_comment(self) -> bool:
        if self._char() == "#":
            return True
        before = self._text[self._at - 1] if self._at else "\n"
        return self._text.startswith("//", self._at) and before in " \t\r\n,{}"  # not within an address

    def _char(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]
