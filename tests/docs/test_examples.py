"""The Python examples of the documentation run as they stand, and what they log arrives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.seeds.blocks import blocks as document
from tests.support.pages import blocks
from tests.support.ports import free_port
from tests.support.spine import Spine

TRACELET = Path(sys.executable).with_name("tracelet")
# Some are those of document 002 to the letter, and have tests in tests/seeds that run them.
RUN_ELSEWHERE = {block.path.read_text() for block in document() if block.tests}
EXAMPLES = [example for example in blocks("python") if example.code not in RUN_ELSEWHERE]


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """What is told here is told of runs, wherever they are."""
    return shared_spine


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 15
    elsewhere = [example for example in blocks("python") if example.code in RUN_ELSEWHERE]
    assert elsewhere
    assert {example.page for example in elsewhere} == {"docs/reference/frameworks/pytorch.md"}
    assert len(EXAMPLES) + len(elsewhere) == len(blocks("python")), "each is run here or there"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", sorted({example.page for example in EXAMPLES}))
def test_examples_run_and_their_points_arrive(page: str, spine: Spine) -> None:
    port = free_port()  # for the ranks of a distributed example; the default may be in use
    environment = {**os.environ, **spine.environment, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}

    def passes(example: object, *command: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=spine.folder, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{example}\n{done.stderr}"
        return done

    begun: list[str] = []
    tests: list[str] = []
    for number, example in enumerate(each for each in EXAMPLES if each.page == page):
        script = spine.folder / f"example_{number}.py"
        script.write_text(example.code)
        if "def test_" in example.code:
            tests.append(script.name)  # of code that logs: nothing leaves them
            continue
        # Without tracelet in it: what `tracelet run` is for.
        runner = [sys.executable] if "tracelet" in example.code else [TRACELET, "run", "--project", "tutorial"]
        done = passes(example, *runner, script.name)
        assert done.stdout == "" or "print(" in example.code, f"{example}\n{done.stdout}"
        runs = [run.run_id for run in spine.status().runs]
        assert len(runs) > len(begun), f"{example} began no run"
        begun = runs

    if tests:
        said = passes(page, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests).stdout
        assert f"{len(tests)} passed" in said, said
    runs = spine.settle().runs if begun else []
    assert all(run.durable > 0 for run in runs), [run.name for run in runs if run.durable == 0]
    assert not begun or spine.tracked() == ["FINISHED"] * len(runs)
