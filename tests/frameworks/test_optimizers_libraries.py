"""The optimizers of torchium and pytorch_optimizer, all of them: none has a line of ours, each step counts once."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import pytorch_optimizer
import torch
from torch import nn

import tracelet
from tests.seeds.histories import arrived
from tracelet.testing import Captured, capture

torchium = pytest.importorskip("torchium")

STEPS = 3
X = torch.linspace(-1, 1, 32).view(8, 4)
Y = X.sum(1, keepdim=True)

Make = Callable[[nn.Module], torch.optim.Optimizer]


class Trained(NamedTuple):
    """What a training left."""

    name: str
    weights: torch.Tensor
    losses: list[float]
    rate: Any


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cap() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def updates() -> dict[str, int]:
    run: Any = tracelet.get_active_experiment()
    counts: dict[str, int] = run._frameworks["optimizers"].updates
    return counts


def begun(make: Make) -> tuple[nn.Module, torch.optim.Optimizer, list[float], Callable[..., Any]]:
    """A model, its optimizer, and a closure that keeps what it returns."""
    torch.manual_seed(0)
    random.seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = make(model)
    losses: list[float] = []

    def closure(graph: bool = False) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), Y)
        loss.backward(create_graph=graph)
        losses.append(loss.item())
        return loss

    return model, optimizer, losses, closure


def train(make: Make, how: str = "") -> Trained:
    """Three steps of a small network."""
    model, optimizer, losses, closure = begun(make)
    for _ in range(STEPS):
        closure(how == "graph")
        optimizer.step(closure) if how == "closure" else optimizer.step()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return Trained(type(optimizer).__name__, weights, losses, optimizer.param_groups[0].get("lr"))


def of(kind: Any, **settings: Any) -> Make:
    return lambda model: kind(model.parameters(), **settings)


def with_matrices(kind: Any) -> Make:
    """Muon and its relatives are told which parameters are matrices."""

    def make(model: nn.Module) -> Any:
        parts = [[each for each in model.parameters() if (each.ndim == 2) is matrices] for matrices in (True, False)]
        return kind([{"params": part, "use_muon": part is parts[0]} for part in parts])

    return make


# By class: how it steps, where not by a plain step().
HOW = {
    "torchium": {
        **dict.fromkeys(("SAM", "GSAM", "ASAM", "WSAM"), "closure"),
        **dict.fromkeys(("DifferentialEvolution", "ParticleSwarmOptimization"), "closure"),
        **dict.fromkeys(("QuantumAnnealing", "GeneticAlgorithm"), "closure"),
        "AdaHessian": "graph",
    },
    "pytorch_optimizer": {"lbfgs": "closure", "bsam": "closure", "adahessian": "graph", "sophiah": "graph"},
}
# Those that cannot be made or stepped like the others with torch of today, and what they say.
FAIL = {
    "torchium": {
        "AdaBound": "must be Number, not Tensor",
        "AdaMod": "must be Number, not Tensor",
        "LBFGS": "a leaf Variable that requires grad",
        "LookSAM": "a leaf Variable that requires grad",
        "CMAES": "too many indices for tensor",
        "SparseAdam": "does not support dense gradients",
        "AdaLOMO": "'generator' object has no attribute 'parameters'",  # takes a model, and steps in backward()
    },
    "pytorch_optimizer": {
        "lomo": "'generator' object has no attribute 'parameters'",  # likewise
        "adalomo": "'generator' object has no attribute 'named_parameters'",
        "alig": "does not require grad",  # calls its closure without gradients
        "demo": "You need to install `einops`",
        "spectralsphere": "only supports 2D parameters",
        "distributedmuon": "",  # wants a process group
    },
}
MADE: dict[str, Make] = {
    **{name: with_matrices(pytorch_optimizer.load_optimizer(name)) for name in ("muon", "adamuon", "adago", "normuon")},
    "muonclip": with_matrices(pytorch_optimizer.load_optimizer("muonclip")),
    "adammini": pytorch_optimizer.load_optimizer("adammini"),
    "bsam": of(pytorch_optimizer.load_optimizer("bsam"), num_data=8),
    "ranger21": of(pytorch_optimizer.load_optimizer("ranger21"), num_iterations=10),
}


def all_of(library: str) -> dict[str, Make]:
    """Every optimizer that a library says it has."""
    if library == "torchium":
        names = set(torchium.optimizers.__all__) - {"Lookahead"}  # which is said, and is not there
        return {name: of(getattr(torchium.optimizers, name)) for name in sorted(names)}
    return {
        name: MADE.get(name) or of(pytorch_optimizer.load_optimizer(name))
        for name in pytorch_optimizer.get_supported_optimizers()
    }


@pytest.mark.parametrize("library", HOW)
def test_every_one_counts_once(library: str, cap: Captured) -> None:
    run: Any = tracelet.get_active_experiment()
    optimizers = run._frameworks["optimizers"]
    wrong: dict[str, Any] = {}
    expected: dict[str, int] = {}
    for name, make in all_of(library).items():
        how = "closure" if name in FAIL[library] else HOW[library].get(name, "")
        told: list[Any] = []
        for listening in (False, True):
            optimizers.start_tracking() if listening else optimizers.stop_tracking()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    told.append(train(make, how))
            except Exception as error:
                told.append(f"{type(error).__name__}: {error}")
        alone, heard = told
        if isinstance(alone, str) or isinstance(heard, str):
            if alone != heard or name not in FAIL[library] or FAIL[library][name] not in alone:
                wrong[name] = told
            continue
        expected[heard.name] = STEPS
        # Some end in numbers that are none, by themselves.
        if not torch.allclose(alone.weights, heard.weights, rtol=0, atol=0, equal_nan=True):
            wrong[name] = "other weights"
        points = arrived(cap, f"optim/{heard.name}/")
        first = heard.losses[1 if how == "closure" else 0]
        if points.get(f"optim/{heard.name}/loss") != [(1, first)]:
            wrong[name] = points
        if isinstance(heard.rate, float) and not any("/lr/" in each for each in points):
            wrong[name] = list(points)
    assert wrong == {}
    assert updates() == expected
    assert len(expected) == {"torchium": 64, "pytorch_optimizer": 122}[library]


# -- those that are made of another one

sgd = torch.optim.SGD
WRAPPERS: dict[str, Make] = {
    "GSAM": lambda model: pytorch_optimizer.GSAM(
        model.parameters(),
        base_optimizer=(base := sgd(model.parameters(), lr=0.1)),
        model=model,
        rho_scheduler=pytorch_optimizer.ProportionScheduler(
            pytorch_optimizer.CosineScheduler(base, t_max=10, max_lr=0.1), max_lr=0.1, max_value=0.1
        ),
    ),
    "WSAM": lambda model: pytorch_optimizer.WSAM(model, model.parameters(), base_optimizer=sgd, lr=0.1),
    "LookSAM": lambda model: pytorch_optimizer.LookSAM(model.parameters(), base_optimizer=sgd, lr=0.1),
    "FriendlySAM": lambda model: pytorch_optimizer.FriendlySAM(model.parameters(), base_optimizer=sgd, lr=0.1),
    "TRAC": lambda model: pytorch_optimizer.TRAC(torch.optim.Adam(model.parameters(), lr=0.1)),
    "ScheduleFreeWrapper": lambda model: pytorch_optimizer.ScheduleFreeWrapper(torch.optim.Adam(model.parameters())),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_is_made_of_another_one(name: str) -> None:
    def trained() -> list[torch.Tensor]:
        model, optimizer, _, closure = begun(WRAPPERS[name])
        if hasattr(optimizer, "train"):
            optimizer.train()
        for _ in range(STEPS):
            if name == "GSAM":  # it calls a loss function by itself
                optimizer.set_closure(nn.functional.mse_loss, X, Y)
                optimizer.step()
            else:
                closure()
                optimizer.step(closure)
        return [parameter.detach() for parameter in model.parameters()]

    alone = trained()
    with capture() as captured:
        heard = trained()
        assert updates() == {name: STEPS}
    assert all(torch.equal(one, other) for one, other in zip(alone, heard, strict=True))
    points = arrived(captured, "optim/")
    assert {each.split("/")[1] for each in points} == {name}
    assert [step for step, _ in points[f"optim/{name}/loss"]] == [1]


@pytest.mark.parametrize("name", ["SAM", "GSAM", "ASAM", "WSAM"])
def test_two_stages_of_torchiums(name: str, cap: Captured) -> None:
    """By hand, it is the optimizer inside that steps: once, for both."""
    _, optimizer, losses, closure = begun(of(getattr(torchium.optimizers, name), lr=0.1))
    for _ in range(STEPS):
        closure()
        optimizer.first_step(zero_grad=True)
        closure()
        optimizer.second_step(zero_grad=True)
    assert updates() == {"SGD": STEPS}
    assert arrived(cap, "optim/")["optim/SGD/loss"] == [(1, losses[1])]


def test_tasks_of_torchiums(cap: Captured) -> None:
    """PCGrad calls backward() for each task by itself; GradNorm is told losses and norms."""
    model, optimizer, _, _ = begun(of(torchium.optimizers.PCGrad, lr=0.1))
    for _ in range(STEPS):
        output = model(X)
        tasks = [nn.functional.mse_loss(output, Y), output.square().mean()]
        optimizer.step(task_losses=tasks)
    assert updates() == {"PCGrad": STEPS}
    ((step, loss),) = arrived(cap, "optim/")["optim/PCGrad/loss"]
    assert step == 1
    assert loss > 0
    assert [point.metadata for point in cap.points("optim/PCGrad/loss")] == [{"backward_calls": 2}]
    _, balanced, losses, closure = begun(of(torchium.optimizers.GradNorm, lr=0.1))
    closure()
    balanced.step()
    assert updates() == {"PCGrad": STEPS, "GradNorm": 1}
    assert arrived(cap, "optim/")["optim/GradNorm/loss"] == [(1, losses[0])]


def test_the_optimizer_around_is_the_one_that_counts(cap: Captured) -> None:
    """Three within one another: of two libraries, and of torch."""
    _, optimizer, losses, closure = begun(
        lambda model: pytorch_optimizer.Lookahead(
            torchium.optimizers.GradientCentralization(list(model.parameters()), base_optimizer=torch.optim.Adam)
        )
    )
    for _ in range(STEPS):
        closure()
        optimizer.step()
    assert updates() == {"Lookahead": STEPS}
    assert arrived(cap, "optim/")["optim/Lookahead/loss"] == [(1, losses[0])]
