"""Several runs in one script under `tracelet run`, and what `--wait` waits for."""

from __future__ import annotations

import os

from tests.support.commands import tracelet
from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine

TRIALS = """
import os, tracelet
for trial in range(3):
    run = tracelet.start_logging(exp_name=f"trial{trial}", backend_url=os.environ["STORE"])
    for step in range(5):
        run.log_metric("loss", trial + step / 10, step)
tracelet.stop_logging()
"""


def test_each_start_is_a_run_and_wait_waits_for_all(spine: Spine) -> None:
    """The first start takes the launcher's run, the others begin their own; all are over before the script is."""
    (spine.folder / "trials.py").write_text(TRIALS)
    store = MlflowStore(spine.database)
    # The command line names the backend, and leaves its address open.
    environment = {"TRACELET_HOME": str(spine.home), "STORE": store.uri, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    done = tracelet(
        "run", "--wait", "--backend", "mlflow", "trials.py", cwd=spine.folder, environment=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    assert sorted((run["name"], run["status"]) for run in store.runs()) == [
        ("trial0", "FINISHED"),
        ("trial1", "FINISHED"),
        ("trial2", "FINISHED"),
    ]
    assert sorted((point.value, point.step) for point in store.points("loss")) == [
        (trial + step / 10, step) for trial in range(3) for step in range(5)
    ]
