"""The script's git repository: commit, branch, remote, and what is changed since the commit.

git is asked as a program, and in a way that runs nothing else: no pager, external diff, text conversion, filter, file system
monitor or hook that a configuration names, nothing from the network, no question to the user, no lock. Each command has a
deadline and a group of its own, which ends with it.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["GitError", "Repository", "find"]

_TIMEOUT: Final = 10.0
_SET: Final = {
    "color.ui": "false",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.untrackedCache": "keep",
    "diff.mnemonicPrefix": "false",
    "diff.noprefix": "false",
    "gc.auto": "0",
    "protocol.allow": "never",
}
_QUIET: Final = ("--no-pager", *(word for name, value in _SET.items() for word in ("-c", f"{name}={value}")))
_DIFF: Final = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--ignore-submodules=none"),
    *("--submodule=short", "-O/dev/null"),
)
_DROPPED: Final = re.compile(
    r"GIT_(TRACE\w*|EXTERNAL_DIFF|PAGER|EDITOR|ASKPASS|SSH\w*|PROXY_COMMAND|REDIRECT_\w+|DIFF_OPTS|FLUSH)"
)
_EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_MOST_MESSAGE: Final = 4096
_MOST_TEXT: Final = 16 * 2**20


class GitError(Exception):
    """git could not say it: the reason in a line; empty when there is nothing to tell (no git, no repository)."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as it stands.

    Attributes:
        folder: where git is asked.
        commit: the full hash; empty when there is none yet.
        branch: empty when the head is detached.
        remote: the URL of `origin`, or of the first remote, as it is configured; empty for none.
        bare: it has no files.
    """

    folder: str
    commit: str
    branch: str
    remote: str
    bare: bool = False
    _overrides: tuple[str, ...] = field(default=(), repr=False)

    def status(self) -> tuple[bool, tuple[str, ...]]:
        """Whether a file that git knows is changed, and the paths of files that it does not know.

        Raises:
            GitError: git could not say it.
        """
        told, _ = self._ask(
            ["status", "--porcelain=v1", "-z", "--untracked-files=normal", "--ignore-submodules=none"], _MOST_TEXT
        )
        dirty, untracked, words = False, [], iter(told.split("\0"))
        for word in words:
            if word.startswith("??"):
                untracked.append(word[3:])
            elif word:
                dirty = True
                if word[0] in "RC":
                    next(words, None)  # the name that it had
        return dirty, tuple(untracked)

    def patch(self, most: int) -> tuple[str, bool]:
        """What is changed since the commit, or all that there is when there is none yet, as `git apply` takes it.

        Binary files are only named.

        Args:
            most: bytes of it.

        Returns:
            The patch, in whole lines, and whether there is more of it.

        Raises:
            GitError: git could not say it.
        """
        patch, cut = self._ask([*_DIFF, "HEAD" if self.commit else _EMPTY_TREE, "--"], most)
        return patch[: patch.rfind("\n") + 1] if cut else patch, cut

    def _ask(self, words: Sequence[str], most: int) -> tuple[str, bool]:
        return _git(self.folder, [*self._overrides, *words], most)


def find(folder: str) -> Repository:
    """The repository that a folder belongs to.

    Raises:
        GitError: there is none, or git could not say it.
    """
    told, _ = _git(folder, ["rev-parse", "--is-bare-repository", "--is-inside-work-tree"])
    bare, inside = (word == "true" for word in told.split()[:2])
    if not bare and not inside:
        raise GitError("")  # in the .git folder itself
    commit = branch = ""
    with suppress(GitError):
        commit = _git(folder, ["rev-parse", "--verify", "--quiet", "HEAD"])[0].strip()
    with suppress(GitError):
        branch = _git(folder, ["symbolic-ref", "--quiet", "--short", "HEAD"])[0].strip()
    settings = _settings(folder)
    remotes = {name: url for name, url in settings if re.fullmatch(r"remote\..+\.url", name)}
    remote = remotes.get("remote.origin.url") or next(iter(remotes.values()), "")
    overrides: list[str] = []
    for name, _ in settings:
        if re.fullmatch(r"filter\..+\.(clean|smudge|process)", name):
            overrides += ["-c", f"{name}="]
        elif re.fullmatch(r"filter\..+\.required|remote\..+\.promisor", name):
            overrides += ["-c", f"{name}=false"]
    return Repository(folder, commit, branch, remote, bare, tuple(overrides))


def _settings(folder: str) -> list[tuple[str, str]]:
    """Names and values of the settings that matter here."""
    wanted = r"^(remote\..*\.(url|promisor)|filter\..*\.(clean|smudge|process|required))$"
    try:
        told, _ = _git(folder, ["config", "--null", "--get-regexp", wanted])
    except GitError:
        return []  # none of them is set
    pairs = [entry.partition("\n") for entry in told.split("\0") if entry]
    return [(name, value) for name, _, value in pairs]


def _git(folder: str, words: Sequence[str], most: int = 2**20) -> tuple[str, bool]:
    """What git answers, and whether it was cut.

    Raises:
        GitError: it failed, it is not there, or it took too long.
    """
    try:
        with _started(folder, words) as process:
            out, complaint, cut = _read(process, most)
    except FileNotFoundError as error:
        raise GitError("") from error  # no git; or the folder is gone
    except OSError as error:
        raise GitError(f"git cannot be started: {error.strerror}") from error
    # Where the script reaps all children itself, nobody knows how it ended.
    if (process.returncode or complaint.startswith(b"fatal:")) and not cut:
        raise GitError(_reason(complaint))
    return out.decode(errors="replace"), cut


@contextmanager
def _started(folder: str, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not _DROPPED.fullmatch(name)}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    process = subprocess.Popen(
        ["git", *_QUIET, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # of its own session: nobody else is in it
        with suppress(OSError, subprocess.TimeoutExpired):
            process.wait(_TIMEOUT)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _read(process: subprocess.Popen[bytes], most: int) -> tuple[bytes, bytes, bool]:
    """Its answer, its complaint, and whether the answer is cut: then the rest is not waited for."""
    until = time.monotonic() + _TIMEOUT
    answer, complaint = bytearray(), bytearray()
    kept: dict[Any, bytearray] = {process.stdout: answer, process.stderr: complaint}
    with selectors.DefaultSelector() as pipes:
        for source in kept:
            pipes.register(source, selectors.EVENT_READ)
        while pipes.get_map():
            left = until - time.monotonic()
            ready = pipes.select(left) if left > 0 else []
            if not ready:
                raise GitError(f"git did not answer within {_TIMEOUT:.0f} s")
            for key, _ in ready:
                pipe: Any = key.fileobj
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    pipes.unregister(pipe)
                kept[pipe] += piece
            if len(answer) > most:
                return bytes(answer[:most]), bytes(complaint), True
            del complaint[_MOST_MESSAGE:]
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(until - time.monotonic(), 0.1))
    return bytes(answer), bytes(complaint), False


def _reason(complaint: bytes) -> str:
    said = complaint.decode(errors="replace")
    if not said.strip() or "not a git repository" in said:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("fatal:")), lines[0])[:300]
