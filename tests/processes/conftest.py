"""One home and one collector for the scripts of a module; and no rank but what a test makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import Client, client
from tracelet.core import ranks
from tracelet.core.jobs import ELASTIC


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


@pytest.fixture(autouse=True)
def _no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = {name for names in ranks._ALL for name in names}
    for name in launchers | {
        "NODE_RANK",
        "TORCHELASTIC_RUN_ID",
        "PMIX_NAMESPACE",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        *ELASTIC,
    }:
        monkeypatch.delenv(name, raising=False)
