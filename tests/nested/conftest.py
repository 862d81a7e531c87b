from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tracelet import testing


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cap() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured
