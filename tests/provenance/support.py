"""Runs whose provenance is gathered, git repositories to gather from, and what arrived."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import runs
from tests.support.spool_points import records, records_of
from tracelet import provenance
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import Artifact, BlobRef, Params, Tags
from tracelet.core.options import Options
from tracelet.spoolfile import SpoolDirectory


class Repository:
    """A git repository of a user's."""

    def __init__(self, folder: Path, commit: bool = True) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main", ".")
        if commit:
            self.commit({"train.py": "lr = 0.1\n"})

    def git(self, *words: str) -> str:
        """Run git here; what it says."""
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "protocol.file.allow=always"]
        done = subprocess.run(["git", *identity, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, content in files.items():
            (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: dict[str, str | bytes]) -> str:
        """Commit files; the commit's hash."""
        self.write(files)
        self.git("add", *files)
        self.git("commit", "-q", "-m", "x")
        return self.git("rev-parse", "HEAD")


@contextmanager
def gathered(home: Path, **settings: Any) -> Iterator[Experiment]:
    """A run whose provenance is gathered, or what else the settings name."""
    chosen = {"provenance": not settings.keys() & {"system_every", "console"}, "system_every": 0, **settings}
    with runs.running(home) as run:
        provenance.begin(run, Options().override(**chosen))
        yield run


def tags(home: Path) -> dict[str, str]:
    return {name: value for record in records_of(Tags, home) for name, value in record.values.items()}


def params(home: Path) -> dict[str, Any]:
    """Parameters, each of which was recorded once."""
    pairs = [pair for record in records_of(Params, home) for pair in record.values.items()]
    assert len(pairs) == len(dict(pairs)), pairs
    return dict(pairs)


def files(home: Path) -> dict[str, str]:
    """Artifacts by path, each as it was recorded last."""
    return {artifact.path: content.decode() for artifact, content in _contents(home)}


def said(home: Path) -> str:
    """All that a home has of its runs, as text: raw, and what is encoded there."""
    raw = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    decoded = [content for _, content in _contents(home)]
    words = "\n".join(map(repr, records(home)))
    return b"\n".join([*raw, *decoded]).decode(errors="replace") + words


def _contents(home: Path) -> Iterator[tuple[Artifact, bytes]]:
    blobs = [spool.blobs for spool in SpoolDirectory.under(home)]
    for artifact in records_of(Artifact, home):
        if isinstance(artifact.content, BlobRef):
            (path,) = [there for folder in blobs if (there := folder / artifact.content.sha256).exists()]
            yield artifact, path.read_bytes()
        else:
            yield artifact, artifact.content


def here(folder: Path) -> Any:
    """Work in a folder."""
    return _here(folder)


@contextmanager
def _here(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
