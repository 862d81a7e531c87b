"""The trackers that every exporter's contract is tried on: one for each variant of each adapter beside this file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracelet_collector.blobs import blob_path

from tests.contract.tracker import Tracker
from tests.support.exporting import Courier
from tests.support.uploading import digest
from tracelet.core.metrics import BlobRef

_NO_ADAPTERS = ("conftest", "tracker", "samples")


def _variants() -> dict[str, Callable[[Path], Tracker]]:
    found: dict[str, Callable[[Path], Tracker]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _NO_ADAPTERS and not path.stem.startswith("test_"):
            found |= importlib.import_module(f"tests.contract.{path.stem}").VARIANTS
    return found


VARIANTS = _variants()


@pytest.fixture(params=list(VARIANTS))
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tracker]:
    tracker = VARIANTS[request.param](tmp_path)
    yield tracker
    tracker.close()


@pytest.fixture
def courier(tracker: Tracker) -> Iterator[Courier]:
    courier = Courier(tracker.make, tracker.run)
    yield courier
    courier.exporter.close()


@pytest.fixture
def keep(tracker: Tracker) -> Callable[[bytes], BlobRef]:
    """Puts content where an exporter finds it."""

    def put(data: bytes) -> BlobRef:
        path = blob_path(Path(tracker.run.blobs), digest(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return BlobRef(digest(data), len(data), "")

    return put
