"""`@tracelet.run`: each call is a run, and the function is what it was."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import enum
import functools
import inspect
import pickle
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tracelet
from tracelet import arguments
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import Metric, Params
from tracelet.testing import Captured, capture


@pytest.fixture
def cap() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def params(cap: Captured, run: Experiment | None = None) -> dict[str, Any]:
    return {name: value for record in cap._all(Params, run) for name, value in record.values.items()}


def table(cap: Captured) -> list[tuple[str, str, list[float]]]:
    """Name and status of each run, and its values of `x`."""
    found: dict[str, list[float]] = {}
    for run_id, record in cap._records():  # read once, for all runs
        if isinstance(record, Metric) and record.name == "x":
            found.setdefault(run_id, []).append(record.value)
    return [(run.name, str(run.status), found.get(run.id, [])) for run in cap.runs]


@tracelet.run
def train(lr: float, epochs: int = 3, *rest: int, device: str = "cpu", **more: Any) -> float:
    """Train."""
    tracelet.log({"x": lr}, 0)
    return lr * epochs


def test_a_call_is_a_run(cap: Captured) -> None:
    assert [train(0.5), train(0.1, 2, 7, 8, device="gpu", extra=True)] == [1.5, 0.2]
    assert table(cap) == [("train", "finished", [0.5]), ("train", "finished", [0.1])]
    assert [params(cap, run) for run in cap.runs] == [
        {"lr": 0.5, "epochs": 3, "device": "cpu"},
        {"lr": 0.1, "epochs": 2, "rest": "(7, 8)", "device": "gpu", "extra": True},
    ]
    assert [run.plan.parent for run in cap.runs] == ["", ""]
    assert tracelet.get_active_experiment() is None


def test_the_function_is_what_it_was() -> None:
    assert (train.__name__, train.__doc__) == ("train", "Train.")
    assert list(inspect.signature(train).parameters) == ["lr", "epochs", "rest", "device", "more"]
    assert pickle.loads(pickle.dumps(train)) is train

    async def coroutine() -> None: ...
    def generator() -> Iterator[int]:
        yield 1

    assert inspect.iscoroutinefunction(tracelet.run(coroutine))
    assert inspect.isgeneratorfunction(tracelet.run(generator))


def test_what_it_is_called_with(cap: Captured) -> None:
    def named(x: int) -> None: ...

    tracelet.run("a name")(named)(1)
    tracelet.run(exp_name="another", project="p", tags=["t"], params=False)(named)(2)
    tracelet.run()(named)(3)
    assert [(run.name, run.project, dict(run.plan.tags)) for run in cap.runs] == [
        ("a name", "default", {}),
        ("another", "p", {"t": "true"}),
        ("named", "default", {}),
    ]
    assert [params(cap, run) for run in cap.runs] == [{"x": 1}, {}, {"x": 3}]


def test_what_it_is_not_called_with() -> None:
    with pytest.raises(TypeError, match="unexpected argument 'projct'"):
        tracelet.run(projct="p")
    with pytest.raises(TypeError, match="decorates functions, not 3"):
        tracelet.run(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="decorates functions, not <class"):
        tracelet.run(dict)

    async def values() -> Any:
        yield 1

    with pytest.raises(TypeError, match="no asynchronous generators"):
        tracelet.run(values)


def test_exceptions_pass(cap: Captured) -> None:
    class Broken(Exception):
        pass

    @tracelet.run
    def fail(error: BaseException) -> None:
        raise error

    errors = [Broken("why"), KeyboardInterrupt(), SystemExit(3), SystemExit(0)]
    for error in errors:
        with pytest.raises(type(error)) as caught:
            fail(error)
        assert caught.value is error
        assert error.__cause__ is error.__context__ is None
    with pytest.raises(TypeError, match=r"fail\(\) missing 1 required positional argument"):
        fail()  # type: ignore[call-arg]
    assert [str(run.status) for run in cap.runs] == ["failed", "killed", "failed", "finished", "failed"]


def test_methods(cap: Captured) -> None:
    class Trainer:
        @tracelet.run
        def fit(self, lr: float) -> Any:
            return self, lr

        @tracelet.run
        @classmethod
        def of(cls, lr: float) -> Any:
            return cls, lr

        @staticmethod
        @tracelet.run
        def alone(lr: float) -> float:
            return lr

    trainer = Trainer()
    assert trainer.fit(0.1) == (trainer, 0.1)
    assert Trainer.of(0.2) == (Trainer, 0.2)
    assert Trainer.alone(0.3) == 0.3
    assert tracelet.run(functools.partial(max, 1))(2) == 2
    assert [(run.name, params(cap, run)) for run in cap.runs][:3] == [
        ("fit", {"lr": 0.1}),
        ("of", {"lr": 0.2}),
        ("alone", {"lr": 0.3}),
    ]


def test_recursion(cap: Captured) -> None:
    @tracelet.run
    def down(n: int) -> int:
        tracelet.log({"x": n})
        found = n + (down(n - 1) if n else 0)
        tracelet.log({"x": -n})
        return found

    assert down(2) == 3
    first, second, third = cap.runs
    assert table(cap) == [("down", "finished", [2, -2]), ("down", "finished", [1, -1]), ("down", "finished", [0, 0])]
    assert [run.plan.parent for run in cap.runs] == ["", first.id, second.id]
    assert third.id


def test_threads_each_have_their_own(cap: Captured) -> None:
    together = threading.Barrier(4)

    @tracelet.run
    def fold(k: int) -> int:
        together.wait(20)
        for step in range(3):
            tracelet.log({"x": k + step}, step)
        together.wait(20)
        return k

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fold, range(4))) == [0, 1, 2, 3]
    assert sorted(values for _, _, values in table(cap)) == [[k, k + 1, k + 2] for k in range(4)]
    assert {run.plan.parent for run in cap.runs} == {""}


def test_threads_within_a_run(cap: Captured) -> None:
    together = threading.Barrier(3)

    @tracelet.run
    def fold(k: int) -> None:
        together.wait(20)
        tracelet.log({"x": k})
        together.wait(20)

    @tracelet.run
    def main() -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(fold, range(3)))
            list(pool.map(fold, range(3, 6)))
        tracelet.log({"x": 100})

    main()
    outer, *folds = cap.runs
    assert {run.plan.parent for run in folds} == {outer.id}
    assert sorted(table(cap)[1:]) == [("fold", "finished", [k]) for k in range(6)]
    assert table(cap)[0] == ("main", "finished", [100])


def test_coroutines(cap: Captured) -> None:
    @tracelet.run
    async def fold(k: int) -> int:
        tracelet.log({"x": k})
        await asyncio.sleep(0)
        tracelet.log({"x": k + 10})
        if k == 3:
            await asyncio.sleep(60)
        return k

    @tracelet.run(params=False)
    async def main() -> list[int]:
        found = list(await asyncio.gather(fold(0), fold(1)))
        tracelet.log({"x": 100})
        found.append(await fold(2))
        tracelet.log({"x": 101})
        late = asyncio.create_task(fold(3))
        await asyncio.sleep(0.01)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        return found

    assert asyncio.run(main()) == [0, 1, 2]
    outer, *folds = cap.runs
    assert table(cap) == [
        ("main", "finished", [100, 101]),
        ("fold", "finished", [0, 10]),
        ("fold", "finished", [1, 11]),
        ("fold", "finished", [2, 12]),
        ("fold", "killed", [3, 13]),
    ]
    assert {run.plan.parent for run in folds} == {outer.id}
    assert outer.plan.parent == ""


def test_generators(cap: Captured) -> None:
    @tracelet.run
    def steps(n: int) -> Generator[int, str, str]:
        heard = []
        try:
            for k in range(n):
                tracelet.log({"x": k})
                try:
                    heard.append((yield k))
                except KeyError:
                    heard.append("error")
        finally:
            tracelet.log({"x": -1})
        return " ".join(heard)

    with tracelet.start_logging("outer"):
        generator = steps(3)
        assert next(generator) == 0
        tracelet.log({"x": 100})
        assert generator.send("a") == 1
        assert generator.throw(KeyError()) == 2
        with pytest.raises(StopIteration) as end:
            generator.send("b")
        assert end.value.value == "a error b"
        left = steps(2)
        next(left)
        left.close()
        broken = steps(2)
        next(broken)
        with pytest.raises(ZeroDivisionError):
            broken.throw(ZeroDivisionError())
        tracelet.log({"x": 101})
    assert table(cap) == [
        ("outer", "finished", [100, 101]),
        ("steps", "finished", [0, 1, 2, -1]),
        ("steps", "finished", [0, -1]),
        ("steps", "failed", [0, -1]),
    ]
    assert {run.plan.parent for run in cap.runs[1:]} == {cap.runs[0].id}


def test_a_generator_is_around_nothing_of_its_consumer(cap: Captured) -> None:
    @tracelet.run
    def values() -> Iterator[int]:
        yield from range(2)

    for k in values():
        train(k)
    assert [(run.name, run.plan.parent) for run in cap.runs] == [("values", ""), ("train", ""), ("train", "")]


def test_what_is_disabled(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    @tracelet.run(mode="disabled")
    def down(n: int) -> int:
        found = n + (down(n - 1) if n else 0)
        tracelet.log({"x": n})
        return found

    assert down(2) == 3
    assert tracelet.get_active_experiment() is None
    monkeypatch.setenv("TRACELET_DISABLED", "1")
    assert train(0.5) == 1.5
    assert capfd.readouterr().err == ""
    assert not list(home.rglob("*"))


@dataclasses.dataclass
class Config:
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    api_key: str = "abc"


class Kind(enum.Enum):
    GOOD = 1


class Hostile:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no")


def parameters(**given: Any) -> dict[str, Any]:
    def function(**kwargs: Any) -> None: ...

    return arguments.parameters(inspect.signature(function), (), given, "function")


def test_arguments_are_short_and_flat() -> None:
    class Data(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            raise AssertionError("nobody asks")

    itself: dict[str, Any] = {}
    itself["me"] = itself
    found = parameters(
        none=None,
        text="x" * 1000,
        path=Path("a/b"),
        kind=Kind.GOOD,
        config=Config(0.1),
        nested=OrderedDict(a={"b": 1}, c={}),
        namespace=argparse.Namespace(n=1),
        numbers=[1, 2.5, "a", None],
        pairs=[(1, 2), [3]],
        words={"b", "a"},
        long=list(range(1000)),
        objects=[object()],
        raw=b"123",
        model=torch.nn.Linear(2, 2),
        data=Data(),
        tensor=torch.zeros(2, 3),
        scalar=torch.tensor(1.0),
        array=np.zeros((4,), dtype=np.int8),
        number=np.float32(0.5),
        device=torch.device("cpu"),
        dtype=torch.float16,
        optimizer=torch.optim.SGD,
        function=parameters,
        builtin=len,
        hostile=Hostile(),
    )
    assert found == {
        "none": "None",
        "text": "x" * 499 + "…",
        "path": "a/b",
        "kind": "GOOD",
        "config/lr": 0.1,
        "config/betas": "(0.9, 0.999)",
        "config/api_key": "REDACTED",
        "nested/a/b": 1,
        "nested/c": "dict of 0",
        "namespace/n": 1,
        "numbers": "[1, 2.5, 'a', None]",
        "pairs": "[(1, 2), [3]]",
        "words": "['a', 'b']",
        "long": "list of 1000",
        "objects": "list of 1",
        "raw": "bytes of 3",
        "model": "Linear",
        "data": "Data",
        "tensor": "Tensor (2, 3) float32",
        "scalar": "Tensor () float32",
        "array": "ndarray (4,) int8",
        "number": 0.5,
        "device": "cpu",
        "dtype": "torch.float16",
        "optimizer": "torch.optim.sgd.SGD",
        "function": f"{__name__}.parameters",
        "builtin": "builtins.len",
        "hostile": "Hostile",
    }
    assert parameters(itself=itself) == {"itself" + "/me" * 6: "dict of 1"}


def test_too_many_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(parameters(config=dict.fromkeys(map(str, range(300)), 0))) == 200
    assert "function has more arguments than 200" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["password", "api_key", "db/passwd", "hf_token", "client_secret"])
def test_secrets_are_not_sent(name: str) -> None:
    assert parameters(**{name: "hidden"}) == {name: "REDACTED"}
