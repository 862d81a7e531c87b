"""Document 001, advanced usage of Torchium: its blocks run, and each step of its optimizers counts once.

Where a class of Torchium fails by itself, a test says so, and the block runs with what takes its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import nn

import tracelet
from tests.seeds.blocks import HERE, block, check_blocks, check_tests, run_inside
from tests.seeds.histories import Points, arrived
from tests.support.ports import free_port
from tracelet.settings import TraceletSettings
from tracelet.testing import Captured, capture

torchium = pytest.importorskip("torchium")

pytestmark = pytest.mark.timeout(120)

FOLDER = HERE / "001"
EVERY_50 = [1, 51]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cap() -> Iterator[Captured]:
    """What arrives."""
    with capture() as captured:
        yield captured


def updates() -> dict[str, int]:
    """Steps of ordinary optimizers in the run, by name."""
    run: Any = tracelet.get_active_experiment()
    counts: dict[str, int] = run._frameworks["optimizers"].updates
    return counts


def told(captured: Captured) -> Points:
    """What the optimizers left."""
    return arrived(captured, "optim/")


def noting(names: dict[str, Any], criterion: str = "criterion") -> list[float]:
    """Have the values of a block's criterion kept from here on."""
    losses: list[float] = []
    names[criterion].register_forward_hook(lambda module, inputs, output: losses.append(output.item()))
    return losses


def run_noting(number: int, criterion: str = "criterion") -> tuple[dict[str, Any], list[float]]:
    """Run a block whose given part makes a criterion; returns its names, and the criterion's values."""
    source = block(number, FOLDER)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source.given, "given", "exec"), names)
    losses = noting(names, criterion)
    exec(compile(source.text(), str(source.path), "exec"), names)
    return names, losses


def closure_of(names: dict[str, Any]) -> Callable[[], torch.Tensor]:
    """The usual closure, over what a block is given."""

    def closure() -> torch.Tensor:
        names["optimizer"].zero_grad()
        loss: torch.Tensor = names["criterion"](names["model"](names["x"]), names["y"])
        loss.backward()
        return loss

    return closure


def metadata(captured: Captured, name: str) -> list[Any]:
    return [dict(point.metadata) for point in captured.points(name)]


# -- Meta-optimizers


def test_sam(cap: Captured) -> None:
    """The document calls the two stages by itself: what steps is the SGD inside, once for both."""
    names, losses = run_noting(1)
    assert updates() == {"SGD": 100}
    assert len(losses) == 200
    assert losses[-1] < losses[0]
    found = told(cap)
    assert found["optim/SGD/loss"] == [(1, losses[1]), (51, losses[101])]
    assert metadata(cap, "optim/SGD/loss") == [{"backward_calls": 2}] * 2
    assert found["optim/SGD/lr/0"] == [(1, 1e-3)]
    assert {name.split("/")[1] for name in found} == {"SGD"}
    assert type(names["optimizer"]).__name__ == "SAM"


def test_asam(cap: Captured) -> None:
    names = run_inside(block(2, FOLDER))
    losses = noting(names)
    closure = closure_of(names)
    for _ in range(3):
        closure()
        names["optimizer"].step(closure)
    assert updates() == {"ASAM": 3}
    assert told(cap)["optim/ASAM/loss"] == [(1, losses[1])]  # the closure's, of the second stage
    assert told(cap)["optim/ASAM/lr/0"] == [(1, 1e-3)]
    assert (cap.params["optim/ASAM/rho"], cap.params["optim/ASAM/eta"]) == (0.5, 0.01)


def test_pcgrad(cap: Captured) -> None:
    tasks = run_inside(block(3, FOLDER))["tasks"]
    assert len(tasks) == 100
    assert sum(tasks[-1]) < sum(tasks[0])
    assert updates() == {"PCGrad": 100}
    found = told(cap)
    assert {name.split("/")[1] for name in found} == {"PCGrad"}
    losses = found["optim/PCGrad/loss"]  # of the task that came last: it takes them in an order of its own
    assert [step for step, _ in losses] == EVERY_50
    assert all(loss in tasks[step - 1] for step, loss in losses)
    assert metadata(cap, "optim/PCGrad/loss") == [{"backward_calls": 2}] * 2


def test_pcgrad_of_torchium_fails() -> None:
    text = block(3, FOLDER).path.read_text()
    with pytest.raises(TypeError, match="'list' object is not callable"):
        run_inside(block(3, FOLDER), text)
    with pytest.raises(RuntimeError, match=r"shape .* is invalid for input"):
        run_inside(block(3, FOLDER), text.replace("step([", "step(task_losses=["))


def test_gradnorm(cap: Captured) -> None:
    names = run_inside(block(4, FOLDER))
    losses = noting(names)
    for _ in range(51):
        closure_of(names)()
        names["optimizer"].step()
    assert updates() == {"GradNorm": 51}
    assert told(cap)["optim/GradNorm/loss"] == [(1, losses[0]), (51, losses[50])]
    assert cap.params["optim/GradNorm/alpha"] == 1.5


# -- Second order


def test_lbfgs(cap: Captured) -> None:
    _, losses = run_noting(5)
    assert losses[-1] < 1e-6
    assert len(losses) > 100  # it evaluates as often as it likes
    assert updates() == {"LBFGS": 100}
    found = told(cap)["optim/LBFGS/loss"]
    assert [step for step, _ in found] == EVERY_50
    assert found[0] == (1, losses[0])


def test_lbfgs_of_torchium_fails() -> None:
    with pytest.raises((RuntimeError, TypeError)):
        run_inside(block(5, FOLDER), block(5, FOLDER).path.read_text())


def test_shampoo(cap: Captured) -> None:
    names = run_inside(block(6, FOLDER))
    losses = noting(names)
    for _ in range(51):
        closure_of(names)()
        names["optimizer"].step()
    assert losses[-1] < losses[0]
    assert updates() == {"Shampoo": 51}
    assert told(cap)["optim/Shampoo/loss"] == [(1, losses[0]), (51, losses[50])]
    assert told(cap)["optim/Shampoo/weight_decay/0"] == [(1, 1e-4)]
    with pytest.raises(TypeError, match="momentum"):
        run_inside(block(6, FOLDER), block(6, FOLDER).path.read_text())


def test_shampoo_of_pytorch_optimizer(cap: Captured) -> None:
    """It takes the momentum, and calls the rest otherwise."""
    names = run_inside(block(6, FOLDER), "")
    names["optimizer"] = pytorch_optimizer.Shampoo(
        names["model"].parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, preconditioning_compute_steps=1
    )
    for _ in range(3):
        closure_of(names)()
        names["optimizer"].step()
    assert updates() == {"Shampoo": 3}
    assert len(told(cap)["optim/Shampoo/loss"]) == 1


# -- Experimental: searches


def searched(captured: Captured, name: str, steps: int) -> list[float]:
    """The best fitness of each step of a search, which has told of each."""
    found = told(captured)
    for metric in ("best_fitness", "population_diversity", "loss"):
        assert [step for step, _ in found[f"optim/{name}/{metric}"]] == list(range(1, steps + 1))
    return [value for _, value in found[f"optim/{name}/best_fitness"]]


def test_cmaes(cap: Captured) -> None:
    names = run_inside(block(7, FOLDER))
    best = searched(cap, "CMAES", 60)
    assert best[-1] < 0.1 * best[0]
    assert names["optimizer"].best_fitness == best[-1] == pytest.approx(names["closure"]().item())
    assert not names["optimizer"].should_stop()
    assert cap.params["optim/CMAES/init_std"] == 0.1


def of_torchium(number: int, **settings: Any) -> Any:
    """Torchium's own class in the place of a block's, by the names that its arguments have."""
    (line,) = [line for line in block(number, FOLDER).path.read_text().splitlines() if "torchium" in line]
    names = run_inside(block(number, FOLDER), "")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        exec(block(number, FOLDER).path.read_text(), {**names, "torchium": torchium})
    kind = getattr(torchium.optimizers, line.partition("optimizers.")[2].partition("(")[0])
    return names, kind(list(names["model"].parameters()), **settings)


def test_cmaes_of_torchium_fails() -> None:
    names, optimizer = of_torchium(7, sigma=0.1, popsize=6, seed=0)
    assert not hasattr(optimizer, "should_stop")
    with pytest.raises(RuntimeError, match="bool tensor is not supported"):
        optimizer.step(names["closure"])


def searches(number: int, name: str, captured: Captured) -> None:
    """Run the block's optimizer, which the block only makes."""
    names = run_inside(block(number, FOLDER))

    def closure() -> Any:
        with torch.no_grad():
            return names["criterion"](names["model"](names["x"]), names["y"])

    for _ in range(20):
        names["optimizer"].step(closure)
    best = searched(captured, name, 20)
    assert best[-1] < 0.5 * best[0]
    assert names["optimizer"].best_fitness == best[-1]


def test_differential_evolution(cap: Captured) -> None:
    searches(8, "DifferentialEvolution", cap)
    assert cap.params["optim/DifferentialEvolution/mutation_factor"] == 0.8


def test_particle_swarm(cap: Captured) -> None:
    searches(9, "ParticleSwarm", cap)
    assert cap.params["optim/ParticleSwarm/population_size"] == 20


def steps_of_torchium(captured: Captured, names: dict[str, Any], optimizer: Any) -> None:
    """A search of Torchium's is an ordinary optimizer with a closure: its first evaluation is the loss."""
    losses = noting(names)
    for _ in range(3):
        optimizer.step(lambda: names["criterion"](names["model"](names["x"]), names["y"]).item())
    kind = type(optimizer).__name__
    assert updates() == {kind: 3}
    assert told(captured)[f"optim/{kind}/loss"] == [(1, losses[0])]
    assert len(losses) >= 3 * 6


def test_differential_evolution_of_torchium(cap: Captured) -> None:
    steps_of_torchium(cap, *of_torchium(8, popsize=6, mutation=0.8, recombination=0.9, seed=0))


def test_particle_swarm_of_torchium(cap: Captured) -> None:
    steps_of_torchium(cap, *of_torchium(9, popsize=6, inertia=0.9, cognitive=2.0, social=2.0, seed=0))


# -- Losses


def watched(captured: Captured, criterion: nn.Module, arguments: Any, trained: list[torch.Tensor]) -> Points:
    """Three steps with a criterion that is watched; returns what arrived, and sees that the total is what was minimised."""
    tracelet.watch_losses(criterion)
    optimizer = torch.optim.SGD([*trained, *criterion.parameters()], lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = criterion(*arguments())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert told(captured)["optim/SGD/loss"] == [(1, losses[0])]
    assert updates() == {"SGD": 3}
    found = arrived(captured)
    assert [value for _, value in found["loss/total"]] == losses
    assert {len(points) for points in found.values()} == {3}
    return found


def test_uncertainty_weighting(cap: Captured) -> None:
    names = run_inside(block(10, FOLDER))
    first = torch.randn(8, 1, requires_grad=True)
    second = torch.randn(8, 3, requires_grad=True)
    third = torch.randn(2, 1, 8, 8, requires_grad=True)
    targets = [torch.zeros(8, 1), torch.arange(8) % 3, torch.ones(2, 1, 8, 8)]
    found = watched(cap, names["criterion"], lambda: ([first, second, third], targets), [first, second, third])
    # Its children: the weighting, and a list of the tasks' own, which nobody calls as a whole, and which is no module.
    assert set(found) == {"loss/uncertainty_loss", "loss/total"}
    assert found["loss/uncertainty_loss"] == found["loss/total"]


def test_segmentation(cap: Captured) -> None:
    names = run_inside(block(11, FOLDER))
    prediction = torch.randn(2, 1, 8, 8, requires_grad=True)
    target = (torch.arange(128) % 3 == 0).float().view(2, 1, 8, 8)
    found = watched(cap, names["criterion"], lambda: (prediction, target), [prediction])
    weights = {"loss/dice": 0.4, "loss/focal": 0.3, "loss/tversky": 0.2, "loss/lovasz": 0.1}
    assert set(found) == {*weights, "loss/total"}
    for place, (_, total) in enumerate(found["loss/total"]):
        assert total == pytest.approx(sum(found[name][place][1] * weight for name, weight in weights.items()), rel=1e-5)


def test_generative(cap: Captured) -> None:
    names = run_inside(block(12, FOLDER))
    fake, real = torch.randn(4, 1, requires_grad=True), torch.randn(4, 1)
    features, others = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    combined = names["GANLossCombination"]()
    found = watched(cap, combined, lambda: (fake, real, features, others), [fake, features])
    assert set(found) == {"loss/gan_loss", "loss/perceptual_loss", "loss/feature_matching_loss", "loss/total"}
    assert not hasattr(torchium.losses, "FeatureMatchingLoss")


# -- Groups, schedules, clipping


def test_groups(cap: Captured) -> None:
    """Both optimizers: the first is no more when the block has made the second."""
    source = block(13, FOLDER)
    first, factory, second = source.text().partition("# Or use factory")
    names = run_inside(source, first)
    one = names["optimizer"]
    exec(factory + second, names)
    for optimizer in (one, names["optimizer"]):
        names["model"](torch.randn(8, 10)).square().sum().backward()
        optimizer.step()
    assert updates() == {"AdamW.0": 1, "AdamW.1": 1}
    found = told(cap)
    rates = {name: points for name, points in found.items() if "/lr/" in name}
    assert rates == {
        "optim/AdamW.0/lr/0": [(1, 1e-4)],
        "optim/AdamW.0/lr/1": [(1, 1e-3)],
        "optim/AdamW.0/lr/2": [(1, 1e-3)],
        "optim/AdamW.1/lr/0": [(1, 1e-3)],
        "optim/AdamW.1/lr/1": [(1, 1e-3)],
    }
    decays = [found[f"optim/AdamW.0/weight_decay/{group}"][0][1] for group in range(3)]
    assert decays == [1e-4, 1e-5, 0]
    assert [found[f"optim/AdamW.1/weight_decay/{group}"] for group in range(2)] == [[(1, 1e-4)], [(1, 0.0)]]


def test_scheduling(cap: Captured) -> None:
    rates = run_inside(block(14, FOLDER))["rates"]
    assert len(rates) == 100
    changes = [(step, rate) for step, rate in enumerate(rates, 1) if step == 1 or rate != rates[step - 2]]
    assert told(cap)["optim/SGD/lr/0"] == changes
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] == 0


def test_clipping(cap: Captured) -> None:
    source = block(15, FOLDER)
    names = run_inside(source)
    sgd = torch.optim.SGD(names["model"].parameters(), lr=1e-3)
    names["train_with_clipping"](names["model"], sgd, names["criterion"], names["dataloader"])
    ((step, norm),) = told(cap)["optim/SGD/grad_norm"]
    assert (step, metadata(cap, "optim/SGD/grad_norm")) == (1, [{"clipped": True}])
    assert norm > 1000

    def stepped(**more: Any) -> torch.Tensor:
        again = run_inside(source, "")
        optimizer = torchium.optimizers.AdamW(again["model"].parameters(), lr=1e-3, **more)
        (1000 * again["criterion"](again["model"](again["x"]), again["y"])).backward()
        optimizer.step()
        return torch.cat([each.detach().flatten() for each in again["model"].parameters()])

    # It takes the argument, and does nothing with it.
    assert torch.equal(stepped(max_grad_norm=1.0), stepped())
    assert [said for name in cap.names if "AdamW" in name and "norm" in name for said in metadata(cap, name)] == [
        {},
        {},
    ]


# -- Mixed precision, several processes, memory, profiling


def test_mixed_precision(cap: Captured) -> None:
    names, losses = run_noting(16)
    assert updates() == {"AdamW": 52}
    found = told(cap)
    due = EVERY_50
    assert found["optim/AdamW/loss"] == [(step, losses[step - 1]) for step in due]
    assert found["optim/AdamW/amp_scale"] == [(step, 65536.0) for step in due]
    assert [step for step, _ in found["optim/AdamW/grad_norm"]] == due
    assert losses[-1] < losses[0]
    assert names["scaler"].get_scale() == 65536.0


def test_distributed(folder: Path) -> None:
    """Two ranks; each counts what it steps, and both have the same weights."""
    source = block(17, FOLDER)
    script = f"""{source.given}
import json, os
import tracelet, tracelet.testing
with tracelet.testing.capture() as captured:
    {source.text().replace(chr(10), chr(10) + "    ")}
    x = torch.arange(40.0).view(4, 10).sin() + dist.get_rank()
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    updates = tracelet.get_active_experiment()._frameworks["optimizers"].updates
points = [(point.name, point.step, point.value) for point in captured.points()]
with open(f"rank_{{dist.get_rank()}}.json", "w") as file:
    json.dump([updates, model.module.weight.tolist(), points], file)
dist.barrier()
dist.destroy_process_group()
"""
    (folder / "train.py").write_text(script)
    port = free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    root = str(HERE.parents[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            env={**os.environ, **shared, "RANK": str(rank), "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=100) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    first, second = (json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2))
    assert first[1] == second[1]
    for updates, _, points in (first, second):
        assert updates == {"LARS": 3}
        assert ["optim/LARS/lr/0", 1, 1e-3] in points


def test_memory(cap: Captured) -> None:
    names = run_inside(block(18, FOLDER))

    class Model(names["CheckpointedModel"]):  # type: ignore[misc, name-defined]
        """The document's, with layers, and with what its checkpoint asks for today."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 1))

    def train(forward: str) -> tuple[list[float], torch.Tensor]:
        """Three steps, with or without the checkpoint."""
        torch.manual_seed(0)
        model = Model()
        optimizer = torchium.optimizers.Lion(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=1e-2)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = names["criterion"](getattr(model, forward)(names["x"].requires_grad_()), names["y"])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, torch.cat([each.detach().flatten() for each in model.parameters()])

    with pytest.warns(UserWarning, match="use_reentrant"):
        losses, weights = train("forward")
    assert updates() == {"Lion.1": 3}  # the block's own is the first, and has not stepped
    assert told(cap)["optim/Lion.1/loss"] == [(1, losses[0])]
    assert torch.equal(train("_forward")[1], weights)


def test_profiling(cap: Captured, folder: Path) -> None:
    with tracelet.start_logging(settings=TraceletSettings(capture_artifacts=("profiles",))):
        _, losses = run_noting(19)
        assert updates() == {"Lion": 8}
    assert told(cap)["optim/Lion/loss"] == [(1, losses[0])]
    traces = sorted(path.name for path in (folder / "log/profiler").iterdir())
    assert len(traces) == 2
    assert sorted(cap.artifacts) == [f"profiles/{name}" for name in traces]


# -- The document


def test_every_block_is_here_as_the_document_has_it() -> None:
    check_blocks(FOLDER, 19)


def test_every_block_has_a_test_or_a_reason() -> None:
    check_tests(FOLDER, globals())
