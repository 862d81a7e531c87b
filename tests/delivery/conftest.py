"""What tests of delivery share: a Python whose workers deliver to a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracelet_collector.exporters.table import EXPORTERS

from tests.support.ledger import ENTRY, Ledger, python_with_ledger


@pytest.fixture(scope="session")
def ledger_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python whose workers have the kind `ledger`."""
    return str(python_with_ledger(tmp_path_factory.mktemp("python") / "ledger"))


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs takes all of the time in which it could end by itself: there is next to none of it."""
    monkeypatch.setattr("tracelet_collector.delivery.berth._GRACE", 0.1)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A tracker that is a file."""
    monkeypatch.setitem(EXPORTERS, "ledger", ENTRY)  # type: ignore[arg-type]
    return Ledger(tmp_path / "ledger")
