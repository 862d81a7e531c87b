"""The Python examples of the documentation run as they stand, and what they log arrives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.seeds.blocks import FOLDER
from tests.support.pages import blocks
from tests.support.spine import Spine

TRACELET = Path(sys.executable).with_name("tracelet")
# Some are those of document 002 to the letter: tests/seeds runs them.
RUN_ELSEWHERE = {path.read_text() for path in FOLDER.glob("*.py")}
EXAMPLES = [example for example in blocks("python") if example.code not in RUN_ELSEWHERE]


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """What is told here is told of runs, wherever they are."""
    return shared_spine


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 15
    assert len(blocks("python")) > len(EXAMPLES)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", sorted({example.page for example in EXAMPLES}))
def test_examples_run_and_their_points_arrive(page: str, spine: Spine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # for the ranks of a distributed example; the default may be in use
    environment = {**os.environ, **spine.environment, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    begun: list[str] = []
    for number, example in enumerate(each for each in EXAMPLES if each.page == page):
        script = spine.folder / f"example_{number}.py"
        script.write_text(example.code)
        tests = "def test_" in example.code
        if tests:
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        elif "tracelet" in example.code:
            command = [sys.executable]
        else:  # what `tracelet run` is for
            command = [TRACELET, "run", "--project", "tutorial"]
        done = subprocess.run(
            [*command, script.name],
            cwd=spine.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{example}\n{done.stderr}"
        if tests:
            continue  # of code that logs: nothing leaves them
        assert done.stdout == "" or "print(" in example.code, f"{example}\n{done.stdout}"
        runs = [run.run_id for run in spine.status().runs]
        assert len(runs) > len(begun), f"{example} began no run"
        begun = runs

    runs = spine.settle().runs if begun else []
    assert all(run.durable > 0 for run in runs), [run.name for run in runs if run.durable == 0]
    assert not begun or spine.tracked() == ["FINISHED"] * len(runs)
