"""Fixtures of the collector's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.collector import CollectorProcess


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[..., CollectorProcess]]:
    """Starts collectors; those of the test's home unless another is named. All are ended afterwards."""
    started: list[CollectorProcess] = []

    def start(*options: str, at: Path = home, **how: object) -> CollectorProcess:
        started.append(CollectorProcess(at, *options, **how))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for collector in started:
        collector.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    """A collector that a module's tests share, each with runs of its own."""
    with CollectorProcess(tmp_path_factory.mktemp("shared") / "home") as collector:
        yield collector


@pytest.fixture
def collector(serve: Callable[..., CollectorProcess]) -> CollectorProcess:
    """A collector that serves the test's home."""
    return serve()
