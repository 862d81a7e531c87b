"""The norm of gradients, before they are clipped."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_ as imported_earlier

from tests.support import runs
from tests.support.optimizing import found
from tracelet.frameworks.steps import here


def weights(*gradients: Any) -> list[nn.Parameter]:
    """Parameters with these gradients."""
    each = [nn.Parameter(torch.zeros_like(torch.as_tensor(gradient))) for gradient in gradients]
    for weight, gradient in zip(each, gradients, strict=True):
        weight.grad = torch.as_tensor(gradient).clone()
    return each


def norms(home: Path, name: str = "SGD") -> list[tuple[float, dict[str, Any]]]:
    return [(point.value, dict(point.metadata)) for point in found(home).get(f"optim/{name}/grad_norm", [])]


THREE_FOUR = (torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))


def test_without_clipping(home: Path) -> None:
    with runs.running(home):
        torch.optim.SGD(weights(*THREE_FOUR)).step()
    assert norms(home) == [(5.0, {})]


CLIPS: dict[str, Any] = {
    "clip_grad_norm_": lambda each: nn.utils.clip_grad_norm_(each, 1.0),
    "its name imported earlier": lambda each: imported_earlier(each, 1.0),
    "an iterator": lambda each: nn.utils.clip_grad_norm_(iter(each), 1.0),
    "in two halves": lambda each: nn.utils.clip_grads_with_norm_(
        iter(each), 1.0, nn.utils.get_total_norm([w.grad for w in each])
    ),
    "by value": lambda each: nn.utils.clip_grad_value_(iter(each), 0.5),
    "twice": lambda each: (nn.utils.clip_grad_norm_(each, 1.0), nn.utils.clip_grad_value_(each, 0.5)),
    "each by itself": lambda each: [nn.utils.clip_grad_norm_(weight, 1.0) for weight in each],
    "one of them": lambda each: nn.utils.clip_grad_norm_(each[1], 1.0),
}


@pytest.mark.parametrize("how", CLIPS)
def test_before_clipping(how: str, home: Path) -> None:
    def clipped() -> list[list[float]]:
        each = weights(*THREE_FOUR)
        CLIPS[how](each)
        torch.optim.SGD(each).step()
        return [weight.flatten().tolist() for weight in each]

    expected = clipped()
    with runs.running(home):
        assert clipped() == expected
    assert norms(home) == [(5.0, {"clipped": True})]


def test_what_clipping_returns_is_what_is_recorded(home: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 5))
    returned = []
    with runs.running(home, optimizer_every=1):
        adam = torch.optim.Adam(model.parameters())
        for _ in range(3):
            adam.zero_grad()
            model(torch.randn(8, 20)).square().mean().backward()
            returned.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1).item())
            adam.step()
    assert norms(home, "Adam") == [(value, {"clipped": True}) for value in returned]


def test_the_kind_of_norm_is_said(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        for norm_type in (math.inf, 1.0):
            each = weights(*THREE_FOUR)
            nn.utils.clip_grad_norm_(each, 1.0, norm_type=norm_type)
            torch.optim.SGD(each).step()
    by_name = found(home)
    found_norms = [by_name[name][0] for name in by_name if name.endswith("grad_norm")]
    assert [(point.value, point.metadata["norm_type"]) for point in found_norms] == [(4.0, math.inf), (7.0, 1.0)]


def test_a_clipping_belongs_to_the_optimizer_of_its_parameters(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine, others = weights(*THREE_FOUR), weights(torch.tensor([6.0]), torch.tensor([8.0]))
        sgd, adam = torch.optim.SGD(mine), torch.optim.Adam(others)
        for _ in range(2):
            for weight, gradient in zip(
                mine + others, (*THREE_FOUR, torch.tensor([6.0]), torch.tensor([8.0])), strict=True
            ):
                weight.grad = gradient.clone()
            nn.utils.clip_grad_norm_(others, 1.0)
            sgd.step()
            adam.step()
    assert norms(home) == [(5.0, {})] * 2
    assert norms(home, "Adam") == [(10.0, {"clipped": True})] * 2


def test_a_clipping_counts_for_one_step(home: Path) -> None:
    with runs.running(home, optimizer_every=2):
        each = weights(*THREE_FOUR)
        sgd = torch.optim.SGD(each)
        for number in range(4):
            if number < 2:
                nn.utils.clip_grad_norm_(each, 1.0)
            sgd.step()
    assert [said for _, said in norms(home)] == [{"clipped": True}, {}]


def test_a_clipping_inside_the_closure(home: Path) -> None:
    """As Lightning's automatic optimization does it."""
    each = weights(*THREE_FOUR)

    def closure() -> float:
        for weight, gradient in zip(each, THREE_FOUR, strict=True):
            weight.grad = 2 * gradient
        nn.utils.clip_grad_norm_(each, 1.0)
        return 1.0

    with runs.running(home):
        torch.optim.SGD(each).step(closure)
    assert norms(home) == [(10.0, {"clipped": True})]


def test_gradients_that_are_not_there_are_of_other_kinds_or_empty(home: Path) -> None:
    with runs.running(home):
        each = weights(
            torch.tensor([3.0], dtype=torch.float64),
            torch.tensor([60000.0, 60000.0], dtype=torch.float16),
            torch.tensor([1.0], dtype=torch.bfloat16),
            torch.zeros(0),
        )
        each.append(nn.Parameter(torch.ones(2)))
        torch.optim.SGD(each).step()
        torch.optim.SGD([nn.Parameter(torch.ones(2))]).step()
    (norm, _), *others = [
        (point.value, name) for name, each in found(home).items() if name.endswith("grad_norm") for point in each
    ]
    assert norm == pytest.approx(math.sqrt(9 + 1 + 2 * float(torch.tensor(60000.0).half()) ** 2), rel=1e-6)
    assert others == []


def test_complex_gradients(home: Path) -> None:
    with runs.running(home):
        torch.optim.SGD(weights(torch.tensor([3.0 + 4.0j]), torch.tensor([12.0]))).step()
    assert norms(home) == [(13.0, {})]


def test_sparse_gradients(home: Path) -> None:
    with runs.running(home):
        table = nn.Embedding(4, 1, sparse=True)
        nn.init.zeros_(table.weight)
        (table(torch.tensor([1, 1, 3])) * torch.tensor([[1.0], [2.0], [4.0]])).sum().backward()
        torch.optim.SparseAdam(list(table.parameters())).step()
    assert norms(home, "SparseAdam") == [(5.0, {})]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_recorded(value: float, home: Path) -> None:
    with runs.running(home):
        torch.optim.SGD(weights(torch.tensor([1.0, value]), torch.tensor([2.0]))).step()
    ((norm, _),) = norms(home)
    assert str(norm) == str(value)


def test_clippings_of_what_never_steps_do_not_pile_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelet.frameworks.optimizer_patches._MOST", 6)
    with runs.running(home):
        for _ in range(10):
            nn.utils.clip_grad_norm_(weights(*THREE_FOUR), 1.0)
        assert len(here.clips) == 3


def test_what_an_iterator_of_parameters_raises_is_the_users(home: Path) -> None:
    def failing() -> Iterator[nn.Parameter]:
        yield weights([1.0])[0]
        raise RuntimeError("mine")

    with runs.running(home):
        for clip in (
            lambda: nn.utils.clip_grad_value_(failing(), 0.1),
            lambda: nn.utils.clip_grads_with_norm_(parameters=failing(), max_norm=1.0, total_norm=torch.ones(())),
        ):
            with pytest.raises(RuntimeError, match="mine"):
                clip()
        with pytest.raises(TypeError):
            nn.utils.clip_grad_value_()  # type: ignore[call-arg]


def test_meta_gradients_have_none(home: Path) -> None:
    with runs.running(home):
        weight = nn.Parameter(torch.empty(2, device="meta"))
        weight.grad = torch.empty(2, device="meta")
        torch.optim.SGD([weight]).step()
    assert norms(home) == []


def test_older_torch_without_the_places_costs_a_line(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip_grad = importlib.import_module("torch.nn.utils.clip_grad")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(clip_grad, "_clip_grads_with_norm_")
        patch.delattr(nn.utils, "get_total_norm")
        with runs.running(home):
            torch.optim.SGD(weights(*THREE_FOUR)).step()
    assert norms(home) == [(5.0, {})]
    said = capfd.readouterr().err
    assert said.count("\n") == said.count("the gradient norm before clipping is not recorded") == 1


def test_names_for_clipping_on_other_tools_patch_them_too(home: Path) -> None:
    """What another tool has put there while we were out of the way is passed on, and stays."""
    calls = []
    original = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    try:
        with runs.running(home, optimizer_every=20):
            weight = nn.Parameter(torch.ones(1))
            sgd = torch.optim.SGD([weight], lr=0.0)
            for number in range(41):
                weight.square().sum().backward()
                sgd.step()
                if number == 12:
                    assert torch.autograd._engine_run_backward is original  # type: ignore[attr-defined]
                    inner = original
                    torch.autograd._engine_run_backward = theirs  # type: ignore[attr-defined]
        assert torch.autograd._engine_run_backward is theirs  # type: ignore[attr-defined]
    finally:
        torch.autograd._engine_run_backward = original  # type: ignore[attr-defined]
    assert len(calls) == 28
    assert [point.step for point in found(home)["optim/SGD/loss"]] == [1, 21, 41]
