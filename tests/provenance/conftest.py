"""No tool of the machine's user has a say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.provenance.support import Repository


@pytest.fixture(autouse=True)
def _on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tracelet.provenance.beginning._AT_END", 60.0)  # on a busy machine all of it arrives too
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One with a commit of `train.py`."""
    return Repository(tmp_path / "code")
