"""What is gathered of a run: host, command line, packages, code, GPUs, part by part."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final, Protocol

from tracelet.guard import say
from tracelet.provenance import facts, git
from tracelet.provenance.gpus import Gpus
from tracelet.secrets import redacted_text

__all__ = ["Book", "parts", "tags_alone"]

_MOST_PATCH: Final = 4 * 2**20
_asking = threading.Lock()  # one asks git; who comes meanwhile waits for what it is told
_told: dict[tuple[str, ...], dict[str, str]] = {}  # tags, by the folders that may be in the repository


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


def tags_alone(book: Book, run: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """The same without files, for a run within one that has them: git is not asked again for what that one was told."""
    yield "host", lambda: _host_tags(book)
    yield "git commit", lambda: _code_tags(book, run)
    yield "GPUs", lambda: _gpus(book)


def _host(book: Book, environment: Sequence[str]) -> None:
    _host_tags(book)
    book.file("environment.json", facts.environment(environment), "application/json")


def _host_tags(book: Book) -> None:
    book.tags({**facts.host(), "script": facts.script()})


def _gpus(book: Book) -> None:
    book.tags({"gpu": _gpu_names()})


@cache
def _gpu_names() -> str:
    gpus = Gpus()
    names = gpus.names()
    gpus.close()
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _code(book: Book, run: str) -> None:
    with _asking:
        folders = _folders()
        _told[folders] = _ask(book, run, folders, files=True)


def _code_tags(book: Book, run: str) -> None:
    with _asking:
        folders = _folders()
        if folders in _told:
            book.tags(_told[folders])
        else:
            _told[folders] = _ask(book, run, folders, files=False)


def _ask(book: Book, run: str, folders: tuple[str, ...], files: bool) -> dict[str, str]:
    """Ask git, and write down what it says as it says it.

    Returns:
        The tags.
    """
    told: dict[str, str] = {}

    def tell(tags: dict[str, str]) -> None:
        told.update(tags)
        book.tags(tags)

    try:
        repository = _repository(folders)
        if repository is None:
            return told
        remote = redacted_text(repository.remote)
        tell({"git.commit": repository.commit, "git.branch": repository.branch, "git.repository": remote})
        if repository.bare:
            return told
        dirty, untracked = repository.status()
        tell({"git.dirty": "true" if dirty else "false"})
        if untracked and files:
            book.file("untracked.txt", _bytes("".join(f"{path}\n" for path in untracked)))
        if dirty and files:
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
    return told


def _bytes(text: str, end: str = "") -> bytes:
    return (redacted_text(text) + end).encode(errors="replace")


def _folders() -> tuple[str, ...]:
    """Where the repository is looked for: the script's folder, else the working directory."""
    path = facts.script_path()
    folders = [os.path.dirname(path)] if path else []
    try:
        folders.append(os.getcwd())
    except OSError:  # it is gone
        pass
    return tuple(dict.fromkeys(folders))


def _repository(folders: Iterable[str]) -> git.Repository | None:
    for folder in folders:
        try:
            return git.find(folder)
        except git.GitError as error:
            if str(error):
                raise
    return None


def _fresh_lock() -> None:
    global _asking
    _asking = threading.Lock()


os.register_at_fork(after_in_child=_fresh_lock)  # a thread that is not there any more may hold the parent's
