"""What the user typed after `tracelet run`: which program it is, and whether our runner can stand in front of it.

    script.py args…            the Python that tracelet is installed in, on that script
    -m module args…            likewise; so are -c code, and a directory or archive with a __main__.py
    python -u script.py args…  that Python, with its options
    torchrun args…             a program whose first line names a Python: that Python, on that file
    bash train.sh              any other program

Nothing is started or imported here.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracelet.errors import ConfigurationError

__all__ = ["Command", "Kind", "understand"]


class Kind(str, enum.Enum):
    """What runs. The runner stands in front of the first four; their words are its first argument."""

    SCRIPT = "script"
    MODULE = "module"
    CODE = "code"
    ARCHIVE = "archive"  # a directory or a zip file with a __main__.py
    BARE = "bare"  # a Python without any of them: standard input, a prompt, --version
    PROGRAM = "program"  # no Python

    @property
    def has_runner(self) -> bool:
        """Our runner can stand in front of it."""
        return self in {Kind.SCRIPT, Kind.MODULE, Kind.CODE, Kind.ARCHIVE}


@dataclass(frozen=True, slots=True)
class Command:
    """The user's command.

    Attributes:
        kind: What runs.
        program: The interpreter, or the program, as a path.
        word: Its name as it was typed: what it finds as its own name.
        flags: The interpreter's own options, as they were typed.
        target: The script, module, code or archive; empty for the other kinds.
        arguments: What the target gets, verbatim.
        letters: The interpreter's options without an argument, letter by letter.
    """

    kind: Kind
    program: str
    word: str
    flags: tuple[str, ...] = ()
    target: str = ""
    arguments: tuple[str, ...] = ()
    letters: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """A short name for it: the script's stem, the module, the program."""
        if self.kind in {Kind.SCRIPT, Kind.ARCHIVE}:
            return Path(os.path.abspath(self.target)).stem
        if self.kind is Kind.MODULE:
            return self.target.removesuffix(".__main__")
        return Path(self.program).stem

    @property
    def ignores_environment(self) -> bool:
        """`-E` or `-I`: this Python reads no PYTHONPATH, so nothing of ours is there when it starts."""
        return bool(self.letters & {"E", "I"})


def understand(words: Sequence[str]) -> Command:
    """Understand what was typed.

    Raises:
        ConfigurationError: there is no command, or its script or program does not exist.
    """
    if not words:
        raise ConfigurationError(
            "nothing to run. Type the command after the options:  tracelet run train.py --epochs 3"
        )
    first = words[0]
    if first in {"-m", "-c"} or _is_source(first):
        return _python(sys.executable, sys.executable, words)
    if first.startswith("-"):
        raise ConfigurationError(
            f"no such option: {first}. The options of `tracelet run` come first, then the command."
        )
    program = shutil.which(first)
    if program is None:
        if os.path.exists(first):
            raise ConfigurationError(f"{first} is not executable. To run it as a Python script, type:  python {first}")
        raise ConfigurationError(f"{first}: no such script or command")
    if _is_python(first):
        return _python(program, first, words[1:])
    interpreter = _shebang(program)
    if interpreter and _is_python(interpreter[0]):
        found = shutil.which(interpreter[0])
        if found is not None:
            # A shebang passes the file's path, as the kernel resolved it, and the rest.
            return _python(found, interpreter[0], [*interpreter[1:], program, *words[1:]])
    return Command(Kind.PROGRAM, program, first, arguments=tuple(words[1:]))


def _is_source(word: str) -> bool:
    return word.endswith((".py", ".pyw", ".pyz")) or (os.sep in word and _is_archive(word))


def _is_python(word: str) -> bool:
    return re.fullmatch(r"python(\d+(\.\d+)?)?[td]?", os.path.basename(word)) is not None


def _is_archive(path: str) -> bool:
    return os.path.isdir(path) or (os.path.isfile(path) and zipfile.is_zipfile(path))


def _python(program: str, typed: str, words: Sequence[str]) -> Command:
    """The command line of a Python, read as Python reads it."""
    rest = list(words)
    flags: list[str] = []
    letters: set[str] = set()

    def bare() -> Command:
        return Command(Kind.BARE, program, typed, arguments=tuple(words), letters=frozenset(letters))

    while rest:
        word = rest[0]
        if word == "--":
            rest.pop(0)
            break
        if word == "-" or not word.startswith("-"):
            break
        if word.startswith("--"):
            if word != "--check-hash-based-pycs" or len(rest) < 2:
                return bare()  # --version, --help…
            flags += rest[:2]
            del rest[:2]
            continue
        rest.pop(0)
        before = "-"  # the letters of this word that came before the current one
        for position, letter in enumerate(word[1:], start=1):
            attached = word[position + 1 :]
            if letter in "mcWX":
                if not attached and not rest:
                    return bare()  # Python says itself what is missing
                argument = attached or rest.pop(0)
                if before != "-":
                    flags.append(before)
                if letter in "WX":
                    flags.append(f"-{letter}{argument}")
                    break
                kind = Kind.MODULE if letter == "m" else Kind.CODE
                return Command(kind, program, typed, tuple(flags), argument, tuple(rest), frozenset(letters))
            if letter in "hV?x":
                # -x skips the first line of whatever file runs: ours, if the runner stood in front.
                letters.update(word[position:])
                return bare()
            letters.add(letter)
            before += letter
        else:
            flags.append(before)

    if not rest or rest[0] == "-":
        return bare()
    target = rest.pop(0)
    if not os.path.exists(target):
        raise ConfigurationError(f"can't open file {os.path.abspath(target)!r}: no such script")
    if not os.access(target, os.R_OK):
        raise ConfigurationError(f"can't open file {os.path.abspath(target)!r}: permission denied")
    kind = Kind.ARCHIVE if _is_archive(target) else Kind.SCRIPT
    return Command(kind, program, typed, tuple(flags), target, tuple(rest), frozenset(letters))


def _shebang(program: str) -> list[str]:
    """The interpreter and its options that a file's first line names; empty: none."""
    try:
        with open(program, "rb") as file:
            first, second = file.readline(4096), file.readline(4096)
    except OSError:
        return []
    if not first.startswith(b"#!"):
        return []
    try:
        line = first[2:].decode()
        # Where a path is too long for a first line or has blanks, installers write: '''exec' "/the/path/python" "$0" "$@"
        if line.strip() == "/bin/sh" and second.startswith(b"'''exec' "):
            return shlex.split(second.removeprefix(b"'''exec' ").decode())[:1]
    except (UnicodeDecodeError, ValueError):
        return []
    words = line.split(maxsplit=1)
    if words and os.path.basename(words[0]) == "env":
        given = words[1] if len(words) > 1 else ""
        return shlex.split(given.removeprefix("-S"))
    return [word.strip() for word in words]
