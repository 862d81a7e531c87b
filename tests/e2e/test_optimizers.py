"""The metrics of a population optimizer of an untouched script, in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.commands import tracelet
from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine

SCRIPT = """
import json

import torch
from torch.utils.tensorboard import SummaryWriter
from tracelet.optim import BFO

writer = SummaryWriter("runs/bfo_experiment")


class MonitoredBFO(BFO):
    def step(self, closure):
        loss = super().step(closure)
        writer.add_scalar("BFO/best_fitness", self.best_fitness, int(self.status["steps"]) - 1)
        return loss


weights = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
optimizer = MonitoredBFO([weights], population_size=10, elimination_prob=0.5, seed=0)
losses = [optimizer.step(lambda: weights.square().sum().item()) for _ in range(4)]
writer.close()
with open("losses.json", "w") as file:
    json.dump(losses, file)
"""


def test_an_untouched_script(shared_spine: Spine) -> None:
    spine = shared_spine
    (spine.folder / "train.py").write_text(SCRIPT)
    done = tracelet("run", "--project", "foraging", "train.py", cwd=spine.folder, environment=spine.environment)
    assert done.returncode == 0, done.stderr
    spine.settle()
    store = MlflowStore(spine.database)
    losses = json.loads(Path(spine.folder / "losses.json").read_text())
    prefix = "optim/MonitoredBFO"
    assert {key for key in store.keys() if not key.startswith(f"{prefix}/population/")} == {  # noqa: SIM118
        "BFO/best_fitness",
        *(f"{prefix}/{name}" for name in ("best_fitness", "population_diversity", "loss")),
    }
    assert [(point.step, point.value) for point in store.points(f"{prefix}/loss")] == list(enumerate(losses, 1))
    assert [(point.step, point.value) for point in store.points("BFO/best_fitness")] == list(enumerate(losses))
    tags = store.tags()
    for name, kind in {"best_fitness": "fitness", "population_diversity": "diversity", "loss": "loss"}.items():
        assert tags[f"tracelet.metric.{prefix}/{name}.type"] == kind
    evaluated = [point.value for point in store.all_points() if point.key == f"{prefix}/loss.meta/evaluations"]
    assert evaluated == sorted(evaluated)
    assert len(evaluated) == 4
    params = store.params()
    assert params[f"{prefix}/class"] == "__main__.MonitoredBFO"
    assert (params[f"{prefix}/population_size"], params[f"{prefix}/elim_prob"]) == ("10", "0.5")
    assert [path for path in store.artifacts().rglob("*") if "population" in str(path) and path.is_file()]
