"""Document 000, integrations of bacterial foraging: its blocks run, repaired as the table says, and do what they are for.

What arrives of them is what the libraries' own histories have. The examples of the page that says how it is done best run too;
where imports take seconds, in the process of a block.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.seeds.blocks import HERE, block, check_blocks, check_tests, execute, run_inside
from tests.seeds.histories import Points, arrived, as_float32, in_mlflow
from tests.support.commands import TRACELET
from tests.support.pages import ROOT, examples
from tests.support.ports import free_port
from tests.support.spine import Spine
from tests.support.wandb_file import history, records
from tracelet.testing import Captured, capture

pytestmark = pytest.mark.timeout(240)

FOLDER = HERE / "000"
PAGE = "docs/optim/integrations.md"
EXAMPLES = examples(PAGE)
ALONE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
# Those are run beside a block, Lightning's in tests/optim/test_lightning.py.
ELSEWHERE = {"PyTorch Lightning", "Hugging Face Transformers", "fastai", "Distributed", "Weights & Biases"}

# Around what a process does: all that arrives is in its arrived.json. What it spawns runs the script too, but not this.
LISTENING = """
if __name__ == "__main__":
    import tracelet.testing
    captured = tracelet.testing.capture()
    captured.__enter__()
"""
HEARD = """
if __name__ == "__main__":
    import json
    with open("arrived.json", "w") as file:
        json.dump([(point.name, point.step, point.value) for point in captured.points()], file)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events(folder: Path) -> EventAccumulator:
    """What the only event file below a folder has."""
    (file,) = folder.rglob("events.out.tfevents.*")
    return EventAccumulator(str(file), size_guidance={"scalars": 0, "histograms": 0}).Reload()


def run_alone(number: int, folder: Path, *, before: str = "", after: str = "", **environment: str) -> Any:
    """Run a block in a process of its own; returns what `after` calls `told`."""
    tells = "told =" in after
    told = "\nimport json\nwith open('told.json', 'w') as file:\n    json.dump(told, file)\n" if tells else ""
    execute(block(number, FOLDER), folder, before=before, after=after + told, environment={**ALONE, **environment})
    return json.loads((folder / "told.json").read_text()) if tells else None


def heard(folder: Path) -> Points:
    """What arrived of a process that ran `HEARD`."""
    found: Points = {}
    for name, step, value in json.loads((folder / "arrived.json").read_text()):
        found.setdefault(name, []).append((step, value))
    return found


@pytest.fixture
def cap() -> Iterator[Captured]:
    """What arrives of this process."""
    with capture() as captured:
        yield captured


def then(heading: str) -> str:
    """Code that runs the page's example below a block; the example's names are in `best` then."""
    return f"best = {{'__name__': '__main__'}}\nexec(compile({EXAMPLES[heading]!r}, {heading!r}, 'exec'), best)\n"


# -- Framework integration


def test_lightning(folder: Path) -> None:
    told = run_alone(
        1,
        folder,
        before=LISTENING,
        after=HEARD
        + "told = [trainer.global_step, trainer.optimizers[0].best_fitness, trainer.optimizers[0].evaluations]",
    )
    written = events(folder)
    steps = list(range(1, 51))
    found = {name: written.Scalars(name) for name in ("best_fitness", "population_diversity", "train_loss")}
    assert [event.step for event in found["best_fitness"]] == steps
    assert [event.step for event in found["population_diversity"]] == steps
    assert [event.step for event in found["train_loss"]] == [49]  # log_every_n_steps is 50 where it is not set
    fitness = [event.value for event in found["best_fitness"]]
    assert sum(fitness[-5:]) < 0.5 * sum(fitness[:5])
    assert found["train_loss"][0].value == fitness[-1] == pytest.approx(told[1])
    assert told[0] == 50
    assert told[2] == 50 * (20 + 20 + 1)
    arrives = heard(folder)
    for name in written.Tags()["scalars"]:  # what Lightning and the callback log: double there, float32 in the file
        assert as_float32(arrives)[name] == [(event.step, event.value) for event in written.Scalars(name)]
    assert arrives["optim/HybridBFO/best_fitness"] == arrives["best_fitness"]  # the search itself tells the same
    assert arrives["optim/HybridBFO/population_diversity"] == arrives["population_diversity"]
    assert as_float32(arrives)["optim/HybridBFO/loss"][-1] == (50, found["train_loss"][0].value)  # it counts from 1


def test_transformers(folder: Path) -> None:
    told = run_alone(
        2,
        folder,
        before=LISTENING
        + """
with torch.no_grad():
    start = model(input_ids=tokens, labels=torch.tensor([each["labels"] for each in train_dataset])).loss.item()
""",
        after=HEARD
        + """
inner = trainer.optimizer.optimizer
told = {
    "log": list(trainer.state.log_history),
    "start": start,
    "eval_loss": trainer.evaluate()["eval_loss"],
    "best_fitness": inner.best_fitness,
    "here": torch.equal(inner.best_params, torch.cat([each.detach().flatten() for each in model.parameters()])),
}
torch.save(trainer.optimizer.state_dict(), "optimizer.pt")
"""
        + then("Hugging Face Transformers")
        + 'told["example"] = best["trainer"].state.log_history',
    )
    at_10, at_the_end = told["log"]
    assert (at_10["step"], at_the_end["step"]) == (10, 12)
    assert told["eval_loss"] < told["start"]
    assert told["best_fitness"] < told["start"]
    assert at_10["loss"] > 0 < at_the_end["train_loss"]  # each of a batch that the model has not been searched on yet
    assert told["here"]
    search = torch.load(folder / "optimizer.pt")["state"]["population"]["state"]
    assert search["best_fitness"].item() == told["best_fitness"]
    assert [row["step"] for row in told["example"] if "loss" in row] == [1, 2, 3]
    arrives = heard(folder)
    fitness = arrives["optim/AdaptiveBFO/best_fitness"]
    assert fitness[-1] == (12, told["best_fitness"])
    assert [step for step, _ in fitness] == list(range(1, 13))
    assert arrives["train/loss"] == [(10, at_10["loss"])]  # the Trainer was told to report to nobody
    assert arrives["train/train_loss"] == [(12, at_the_end["train_loss"])]


def test_fastai(folder: Path) -> None:
    if find_spec("fastai") is None:
        pytest.skip("fastai is not there: the Makefile installs it, without what it depends on")
    losses = run_alone(3, folder, before=LISTENING, after=HEARD + "told = learn.recorder.losses\n" + then("fastai"))
    assert len(losses) == 10 * 4
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert heard(folder)["optim/HybridBFO/loss"] == list(enumerate(losses, 1))


# -- Distributed training


def test_data_parallel(cap: Captured) -> None:
    names = run_inside(block(4, FOLDER))
    losses = [names["optimizer"].step(names["closure"]) for _ in range(4)]
    loss = losses[-1]
    assert loss < 0.8 * names["start"]
    assert names["closure"]() == loss == names["optimizer"].best_fitness
    assert names["optimizer"].population.shape == (50, 5)
    assert arrived(cap, "optim/")["optim/BFO/loss"][1:] == list(enumerate(losses, 2))  # the block makes the first step


def test_distributed(folder: Path, shared_spine: Spine) -> None:
    """Each rank searches, with the same numbers: those of the second carry its rank."""
    port = free_port()
    execute(
        block(5, FOLDER),
        folder,
        environment={**ALONE, **shared_spine.environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        command=(TRACELET, "run"),
    )
    (first, losses), (second, others) = (torch.load(folder / f"rank_{rank}.pt") for rank in range(2))
    assert torch.equal(first["weight"], second["weight"])
    assert torch.equal(first["bias"], second["bias"])
    assert len(losses) == len(others) > 5 * 51
    assert losses[-1] + others[-1] < 0.5 * (losses[0] + others[0])
    shared_spine.settle()
    arrives = in_mlflow(shared_spine.database)
    for name in ("best_fitness", "population_diversity", "loss"):
        points = sorted(arrives[f"optim/BFO/{name}"])
        assert [step for step, _ in points] == [1, 2, 3, 4, 5]
        assert sorted(arrives[f"rank1/optim/BFO/{name}"]) == points
    assert arrives["optim/BFO/loss"][-1][1] == pytest.approx((losses[-1] + others[-1]) / 2)


def test_the_page_shares_a_population(folder: Path) -> None:
    port = free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    (folder / "train.py").write_text("import torch._dynamo  # see tests/seeds/gloo.py\n" + EXAMPLES["Distributed"])
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=100) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], told
    (first, second) = (said.partition(": ") for said, _ in told)
    assert (first[0], second[0]) == ("rank 0", "rank 1")
    assert first[2] == second[2]
    assert float(first[2].partition(",")[0]) < 1.5


# -- Custom training loops


def test_mixed_precision(cap: Captured) -> None:
    names = run_inside(block(6, FOLDER))
    types = set()
    names["model"].register_forward_hook(lambda model, inputs, output: types.add(output.dtype))
    losses = [names["loss"]] + [names["optimizer"].step(names["amp_closure"]) for _ in range(10)]
    assert losses[-1] < losses[0] < names["start"]
    assert types == {torch.bfloat16}
    assert arrived(cap, "optim/")["optim/HybridBFO/loss"] == list(enumerate(losses, 1))


def test_unscaling_in_a_closure_fails() -> None:
    source = block(6, FOLDER)
    kept = [repair for repair in source.repairs if "unscale_" not in repair.old]
    assert len(kept) == len(source.repairs) - 1
    with pytest.raises(RuntimeError, match=r"unscale_\(\) has already been called"):
        run_inside(dataclasses.replace(source, repairs=tuple(kept)))


def test_gradient_accumulation(cap: Captured) -> None:
    names = run_inside(block(7, FOLDER))
    assert names["loss"] < names["start"]
    assert arrived(cap, "optim/")["optim/BFO/loss"] == [(1, names["loss"])]
    assert names["loss"] == pytest.approx(names["criterion"](names["model"](names["x"]), names["y"]).item(), rel=1e-5)


def test_accumulation_over_an_iterator_that_ends() -> None:
    source = block(7, FOLDER)
    names = run_inside(source, "")
    names["data_iter"] = iter(names["batches"])
    before = names["model"].weight.clone()
    with pytest.raises(StopIteration):
        exec(source.text(), names)
    assert torch.equal(names["model"].weight, before)


def test_scheduling(cap: Captured) -> None:
    names = run_inside(block(8, FOLDER))
    assert names["lengths"] == pytest.approx([0.1 * 0.95 ** max(0, epoch - 1) for epoch in range(5)], rel=1e-4)
    with_all = arrived(cap, "optim/")
    assert [step for step, _ in with_all["optim/BFO/loss"]] == list(range(1, 11))
    assert names["dispersals"] == pytest.approx([0.25 * 1.05 ** max(0, epoch - 1) for epoch in range(5)])


# -- Monitoring and logging


def test_tensorboard(folder: Path, cap: Captured) -> None:
    names = run_inside(block(9, FOLDER))
    returned = [names["optimizer"].step(names["closure"]) for _ in range(101)]
    names["writer"].close()
    written = events(folder / "runs/bfo_experiment")
    for tag in ("Loss/train", "BFO/best_fitness", "BFO/population_diversity"):
        assert [event.step for event in written.Scalars(tag)] == list(range(101))
    assert [event.value for event in written.Scalars("Loss/train")] == pytest.approx(returned, rel=1e-6)
    assert [event.value for event in written.Scalars("BFO/best_fitness")] == pytest.approx(returned, rel=1e-6)
    assert [event.step for event in written.Histograms("BFO/population")] == [0, 100]
    assert written.Histograms("BFO/population")[0].histogram_value.num == 50 * 5
    arrives = arrived(cap)
    assert as_float32(arrives) == {
        tag: [(event.step, event.value) for event in written.Scalars(tag)] for tag in written.Tags()["scalars"]
    }
    assert arrives["Loss/train"] == arrives["BFO/best_fitness"] == list(enumerate(returned))
    assert arrived(cap, "optim/")["optim/MonitoredBFO/loss"] == list(enumerate(returned, 1))
    assert [media.step for media in cap.media("BFO/population")] == [0, 100]


def test_wandb(folder: Path) -> None:
    told = run_alone(
        10,
        folder,
        before=LISTENING,
        after="told = [optimizer.step(closure) for _ in range(7)]\nwandb.finish()\n" + HEARD + then("Weights & Biases"),
        WANDB_DIR=str(folder),
    )
    runs = {}
    for file in folder.rglob("*.wandb"):
        (begun,) = (each.run for each in records(file) if each.WhichOneof("record_type") == "run")
        config = {each.key: json.loads(each.value_json) for each in begun.config.update}
        runs[begun.project] = config, history(file)
    assert runs.keys() == {"bfo-optimization", "foraging"}
    config, rows = runs["bfo-optimization"]
    assert (config["population_size"], config["architecture"]) == (50, "resnet18")
    assert [row["_step"] for row in rows] == list(range(7))
    assert [row["loss"] for row in rows] == [row["best_fitness"] for row in rows] == told
    assert all(row["population_diversity"] > 0 for row in rows)
    assert {(row["step_size_max"], row["elimination_prob"]) for row in rows} == {(1.0, 0.05)}
    # The script's calls are W&B's alone, and have what they have without us; the search tells the same by itself.
    arrives = heard(folder)
    assert not [name for name in arrives if not name.startswith("optim/WandBBFO/")]
    for name in ("loss", "best_fitness", "population_diversity"):
        assert arrives[f"optim/WandBBFO/{name}"] == list(enumerate((row[name] for row in rows), 1))
    told_by_watch = {name for row in rows for name in row if not name.startswith(("_", "gradients"))}
    assert told_by_watch == {"loss", "best_fitness", "population_diversity", "step_size_max", "elimination_prob"}
    _, rows = runs["foraging"]  # the page's
    assert [row["steps"] for row in rows] == list(range(1, 11))


def test_metrics_tracking(cap: Captured) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = run_inside(block(11, FOLDER))
    metrics = names["tracker"].metrics
    lengths = {name: len(values) for name, values in metrics.items()}
    assert lengths == {"losses": 1000, "diversities": 1000, "step_sizes": 1000, "convergence_rate": 990}
    plotted = {axes.get_title(): axes.lines[0].get_ydata().tolist() for axes in pyplot.gcf().axes}
    pyplot.close("all")
    assert plotted == {
        "Loss": metrics["losses"],
        "Population Diversity": metrics["diversities"],
        "Step Size": metrics["step_sizes"],
        "Convergence Rate": metrics["convergence_rate"],
    }
    assert metrics["losses"][-1] < 1e-6 * metrics["losses"][0]
    arrives = arrived(cap, "optim/")
    assert arrives["optim/AdaptiveBFO/loss"] == list(enumerate(metrics["losses"], 1))
    assert arrives["optim/AdaptiveBFO/population_diversity"] == list(enumerate(metrics["diversities"], 1))


# -- Production deployment


def test_serving() -> None:
    names = run_inside(block(12, FOLDER))
    x, trained = names["x"], names["trained"]
    answer = names["app"].test_client().post("/predict", json={"data": x.tolist()})
    assert answer.status_code == 200
    assert answer.json["model_fitness"] == names["optimizer"].best_fitness
    assert torch.equal(torch.tensor(answer.json["prediction"]), trained(x))
    loss = nn.functional.mse_loss(torch.tensor(answer.json["prediction"]), names["y"]).item()
    assert loss == pytest.approx(answer.json["model_fitness"])
    assert names["config"]["population_size"] == 8
    assert torch.equal(names["config"]["best_params"], names["optimizer"].best_params)


def test_the_manifest_is_whole() -> None:
    deployment, service = yaml.safe_load_all(block(14, FOLDER).path.read_text())
    assert [deployment["kind"], service["kind"]] == ["Deployment", "Service"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]


def test_production(folder: Path) -> None:
    names = run_inside(block(15, FOLDER))
    model = names["MyModel"]()
    torch.save({"model_state_dict": model.state_dict()}, "model.pth")
    served = names["ProductionBFOModel"]("model.pth", device="cpu")
    batch = torch.rand(300, 784)
    assert torch.equal(served.predict(batch[:1]), model(batch[:1]))
    torch.testing.assert_close(served.batch_predict(batch), model(batch))


# -- The page


@pytest.mark.parametrize("heading", sorted(EXAMPLES.keys() - ELSEWHERE))
def test_the_pages_examples_run(heading: str, folder: Path) -> None:
    exec(compile(EXAMPLES[heading], heading, "exec"), {"__name__": "__main__"})
    if heading == "TensorBoard":
        written = events(folder / "runs")
        assert {tag: len(written.Scalars(tag)) for tag in written.Tags()["scalars"]} == {
            "BFO/best_fitness": 10,
            "BFO/population_diversity": 10,
            "BFO/step_size": 10,
        }


def test_every_example_of_the_page_is_known() -> None:
    assert EXAMPLES.keys() > ELSEWHERE
    assert len(EXAMPLES) == (ROOT / PAGE).read_text().count("```py\n") == 12


# -- The table


def test_every_block_is_there_as_the_document_has_it() -> None:
    check_blocks(FOLDER, 15)


def test_every_block_has_a_test_that_exists_or_a_reason() -> None:
    check_tests(FOLDER, globals())
