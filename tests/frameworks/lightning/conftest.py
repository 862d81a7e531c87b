from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.frameworks.lightning.training import PACKAGES
from tracelet import testing
from tracelet.frameworks import table


@pytest.fixture(params=PACKAGES, ids=str)
def package(request: pytest.FixtureRequest) -> ModuleType:
    return PACKAGES[request.param]


def _classes(package: ModuleType) -> list[object]:
    loggers = [getattr(package.loggers, name) for name in package.loggers.__all__]
    callbacks = [package.callbacks.EarlyStopping, package.callbacks.ModelCheckpoint]
    return [package.Trainer, package.LightningModule, *loggers, *callbacks, package.trainer.trainer]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainers leave files where they run. Every class is in the end what Lightning made it.

    What the optimizers tell of themselves is not in between, but where a test asks for it.
    """
    monkeypatch.chdir(tmp_path)
    others = {name: where for name, where in table.FRAMEWORKS.items() if name != "optimizers"}
    monkeypatch.setattr(table, "FRAMEWORKS", others)
    before = [dict(vars(kind)) for package in PACKAGES.values() for kind in _classes(package)]
    yield
    assert [dict(vars(kind)) for package in PACKAGES.values() for kind in _classes(package)] == before


@pytest.fixture
def cap() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured
