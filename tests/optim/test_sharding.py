"""One population on several processes (gloo): the same bits on all ranks, the same search as one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import optim_ranks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of two, and of three, processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [sys.executable, optim_ranks.__file__, str(folder)],
        env=environment,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=280,
    )
    assert told.returncode == 0, told.stderr
    return folder


@pytest.fixture(scope="module", params=optim_ranks.WORLDS)
def results(request: pytest.FixtureRequest, folder: Path) -> list[dict[str, Any]]:
    """What each process of a world found."""
    return [torch.load(folder / f"{rank} of {request.param}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("kind", optim_ranks.KINDS)
@pytest.mark.parametrize("name", optim_ranks.ALGORITHMS)
def test_populations_are_the_same_on_all_ranks(results: list[dict[str, Any]], kind: str, name: str) -> None:
    first, *others = (each[f"{kind} {name}"] for each in results)
    for other in others:
        assert torch.equal(first["population"], other["population"])
        assert torch.equal(first["best"], other["best"])
        assert (first["fitness"], first["evaluations"], first["calls"]) == (
            other["fitness"],
            other["evaluations"],
            other["calls"],
        )


@pytest.mark.parametrize("name", optim_ranks.ALGORITHMS)
def test_a_shared_population_takes_the_way_of_one_process(results: list[dict[str, Any]], name: str) -> None:
    alone = optim_ranks.search(0, 1, None, name)
    shared = results[0][f"population {name}"]
    assert torch.equal(shared["population"], alone["population"])
    assert shared["fitness"] == alone["fitness"]
    assert shared["evaluations"] == alone["evaluations"] == alone["calls"]
    assert shared["calls"] < alone["calls"] * (0.5 + 0.5 / len(results)) + 60


def test_shared_data_is_judged_as_a_whole(results: list[dict[str, Any]]) -> None:
    """Sums of parts round differently, so that a long search goes its own way; it ends where the other does."""
    alone = optim_ranks.search(0, 1, None, "HybridBFO")
    assert results[0]["data HybridBFO"]["fitness"] == pytest.approx(alone["fitness"], rel=0.1)


def test_a_rank_whose_closure_raises_takes_the_others_with_it(results: list[dict[str, Any]]) -> None:
    told = [each["failing"] for each in results]
    assert told[1] == "KeyError: 'mine'; True"
    assert set(told[:1] + told[2:]) == {"RuntimeError: the closure raised on rank 1; this step is not taken; True"}
