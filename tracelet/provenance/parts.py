"""What is gathered of a run: host, command line, packages, code, GPUs, part by part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from tracelet.guard import say
from tracelet.provenance import facts, git
from tracelet.provenance.gpus import Gpus
from tracelet.provenance.secrets import redacted_text

__all__ = ["Book", "parts"]

_MOST_PATCH: Final = 4 * 2**20


class Book(Protocol):
    """Where the parts are written."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; those without a value are left out."""

    def file(self, name: str, content: bytes, media_type: str = "text/plain") -> None:
        """Keep a file."""


def parts(book: Book, run: str, environment: Sequence[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The parts by name, quick ones first.

    Args:
        book: where they are written.
        run: the run's name, for what is said of it.
        environment: variables that may be told, beside the default ones.
    """
    yield "host", lambda: _host(book, environment)
    yield "packages", lambda: book.file("packages.txt", facts.packages())
    yield "git commit and changes", lambda: _code(book, run)
    yield "GPUs", lambda: _gpus(book)


def _host(book: Book, environment: Sequence[str]) -> None:
    command = facts.quoted(facts.command_line())
    book.tags({**facts.host(), "command": command, "script": facts.script()})
    book.file("command.json", facts.command(), "application/json")
    book.file("environment.json", facts.environment(environment), "application/json")


def _gpus(book: Book) -> None:
    gpus = Gpus()
    names = gpus.names()
    gpus.close()
    book.tags({"gpu": ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))})


def _code(book: Book, run: str) -> None:
    try:
        repository = _repository()
        if repository is None:
            return
        remote = redacted_text(repository.remote)
        book.tags({"git.commit": repository.commit, "git.branch": repository.branch, "git.repository": remote})
        if repository.bare:
            return
        dirty, untracked = repository.status()
        book.tags({"git.dirty": "true" if dirty else "false"})
        if untracked:
            book.file("untracked.txt", _bytes("".join(f"{path}\n" for path in untracked)))
        if dirty:
            patch, cut = repository.patch(_MOST_PATCH)
            if cut:
                most = f"{_MOST_PATCH // 2**20} MiB"
                say(f"run {run}: the changes since the commit are more than {most}: the rest of them is not recorded")
            book.file(
                "changes.patch", _bytes(patch, "\\ cut here: there is more of it\n" if cut else ""), "text/x-diff"
            )
    except git.GitError as error:
        if str(error):
            say(f"run {run}: the state of its code is not recorded: {error}", key=f"git {error}")


def _bytes(text: str, end: str = "") -> bytes:
    return (redacted_text(text) + end).encode(errors="replace")


def _repository() -> git.Repository | None:
    """The script's, else that of the working directory."""
    path = facts.script_path()
    folders = [os.path.dirname(path)] if path else []
    try:
        folders.append(os.getcwd())
    except OSError:  # it is gone
        pass
    for folder in dict.fromkeys(folders):
        try:
            return git.find(folder)
        except git.GitError as error:
            if str(error):
                raise
    return None
