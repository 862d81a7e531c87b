"""formed's command line with a configuration that names what is tracelet's; formed is imported after the run was started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.nested.formed.training import steps

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
import tracelet
from tracelet import testing

sys.argv = ["formed", "workflow", "run", "workflow.jsonnet"]
with testing.capture() as cap:
    tracelet.start_logging("workflow")
    assert "formed" not in sys.modules
    from formed.__main__ import run

    run()
    found = [
        [run.name, run.status.value, [[point.name, point.step, point.value] for point in cap.points(run=run)]]
        for run in cap.runs
        if run.begun
    ]
print(json.dumps([found, cap.params]))
"""


def test_engine_and_callback_by_their_names(tmp_path: Path) -> None:
    """When a run listens, they are there without being among `required_modules`."""
    config: dict[str, Any] = steps()
    trainer = config["trained"]["trainer"]
    trainer["engine"] = {
        "type": "tracelet_population",
        "optimizer": {"type": "tracelet.optim:AdaptiveBFO", "population_size": 10, "seed": 1},
        "gradient_accumulation_steps": 3,
        "max_grad_norm": 1.0,
        "loss": "loss",
    }
    trainer["callbacks"] += [{"type": "tracelet_test_history", "file": "told"}, {"type": "tracelet", "name": "mine"}]
    (tmp_path / "workflow.jsonnet").write_text(json.dumps({"steps": config}))
    required = ["formed.integrations.torch", "tests.nested.formed.training"]
    (tmp_path / "formed.yml").write_text(json.dumps({"required_modules": required}))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, params = json.loads(done.stdout)
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert [(name, status) for name, status, _ in found] == [
        ("workflow", "running"),
        ("trained", "finished"),
        ("evaluated", "finished"),
    ]
    points = [point for point in found[1][2] if point[0] in ("train/loss", "val/loss")]
    assert points == [[name, int(step), float(value)] for name, step, value in told]
    assert [point[1] for point in points if point[0] == "train/loss"] == [1, 3, 6]
    assert params["optim/AdaptiveBFO/population_size"] == 10
    rounds = [step for name, step, _ in found[1][2] if name == "optim/AdaptiveBFO/best_fitness"]
    assert rounds == [1, 2]  # six batches, three for each round
