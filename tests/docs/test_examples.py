"""The Python examples of the documentation run as they stand, and what they log arrives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import blocks
from tests.support.spine import Spine

TRACELET = Path(sys.executable).with_name("tracelet")


@pytest.mark.timeout(240)
def test_examples_run_and_their_points_arrive(spine: Spine) -> None:
    examples = blocks("python")
    assert len(examples) >= 6
    environment = {**os.environ, **spine.environment}
    for number, example in enumerate(examples):
        script = spine.folder / f"example_{number}.py"
        script.write_text(example.code)
        # One that does not know tracelet is what `tracelet run` is for.
        command = [sys.executable] if "tracelet" in example.code else [TRACELET, "run", "--project", "tutorial"]
        done = subprocess.run(
            [*command, script.name],
            cwd=spine.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{example}\n{done.stderr}"
        assert done.stdout == "", str(example)
        assert "Traceback" not in done.stderr, f"{example}\n{done.stderr}"

    runs = spine.settle().runs
    assert len(runs) == len(examples)
    assert all(run.durable > 0 and run.project == "tutorial" for run in runs)
    assert spine.tracked() == ["FINISHED"] * len(examples)
