"""What the tests of Ray Tune run, in one session of Ray: experiments of several kinds. Then it writes down what Ray has.

Begun as `ray_script.py <the documentation's example>` in a folder of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from tracelet import get_active_experiment
from tracelet.nested import ray_carried

RESULTS = str(Path("results").absolute())


class Impatient(FIFOScheduler):  # type: ignore[misc]
    """Stops a trial after its second result, if it was to be."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stops = trial.config["fate"] == "stopped" and result["training_iteration"] == 2
        return str(FIFOScheduler.STOP if stops else FIFOScheduler.CONTINUE)


def fated(config: dict[str, Any]) -> None:
    """Logs to a SummaryWriter and reports, until its fate is there."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter("board")
    for epoch in range(4):
        writer.add_scalar("inner", epoch / 3, epoch)
        if epoch == 3 and config["fate"] == "fails":
            raise ValueError("no such luck")
        if epoch == 3 and config["fate"] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        tune.report({"loss": 1 / (epoch + 3), "deep": {"epoch": epoch}, "word": "no number"})


class Unlucky(tune.Callback):  # type: ignore[misc]
    """A script's callback that raises."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Raise, and leave the trials for who wants to see them."""
        self.trials = list(trials)
        raise RuntimeError("no such callback")


class Climbing(tune.Trainable):  # type: ignore[misc]
    """A trainable of a class, whose worker takes one trial after the other."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin, unless that is to fail."""
        if config.get("fate") == "never begins":
            raise RuntimeError("no such thing at https://me:hunter2@there")
        self.x = config["x"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin again."""
        self.x = new_config["x"]
        return True

    def step(self) -> dict[str, Any]:
        """One iteration, of three."""
        from tensorboardX import SummaryWriter

        SummaryWriter("board").add_scalar("inner", self.x, self.iteration)
        return {"y": self.x * self.iteration, "done": self.iteration == 2}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """There is nothing to keep."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Likewise."""


@ray.remote
def without_tracelet(pickled: bytes) -> tuple[list[float], str]:
    """The results of a trainable in a worker that has no tracelet, and what is said there: Ray may not forward it in time."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tracelet"]:
        del sys.modules[name]
    sys.modules["tracelet"] = None  # type: ignore[assignment]
    trainable = ray.cloudpickle.loads(pickled)(config={"x": 2.0})
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return [trainable.train()["y"] for _ in range(2)], said.getvalue()


def has(folder: str) -> dict[str, list[dict[str, Any]]]:
    """What Ray has of an experiment: the results of each trial, by its id."""
    found = {}
    for file in Path(folder).glob("*/result.json"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[lines[0]["trial_id"]] = lines
    return found


def main() -> None:
    """Run all of it."""
    ray.init(num_cpus=2, include_dashboard=False)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), names)
    said = {"example": has(names["results"].experiment_path)}

    run_config = tune.RunConfig(name="fated", storage_path=RESULTS, verbose=0)
    space = {"fate": tune.grid_search(["well", "stopped", "fails", "dies"]), "deep": {"rate": 0.1}}
    results = tune.Tuner(
        fated, param_space=space, run_config=run_config, tune_config=tune.TuneConfig(scheduler=Impatient())
    ).fit()
    said["fated"] = has(results.experiment_path)

    analysis = tune.run(
        Climbing,
        name="climbing",
        config={"x": tune.uniform(0, 1)},
        num_samples=3,
        search_alg=OptunaSearch(metric="y", mode="max"),
        storage_path=RESULTS,
        reuse_actors=True,
        verbose=0,
    )
    said["climbing"] = has(analysis.experiment_path)

    unlucky = Unlucky()
    try:
        tune.run(
            Climbing,
            name="broken",
            config={"fate": tune.grid_search(["never begins", "unlucky"]), "x": 1.0},
            storage_path=RESULTS,
            max_concurrent_trials=1,
            callbacks=[unlucky],
            verbose=0,
        )
    except ray.tune.TuneError:
        said["broken"] = {trial.trial_id: [] for trial in unlucky.trials}

    outer = get_active_experiment()
    assert outer is not None
    pickled = ray.cloudpickle.dumps(ray_carried.of(Impatient(), Climbing, outer))
    results, said["without"] = ray.get(without_tracelet.remote(pickled))
    assert results == [0.0, 2.0]
    Path("said.json").write_text(json.dumps(said))
    ray.shutdown()


if __name__ == "__main__":
    main()
