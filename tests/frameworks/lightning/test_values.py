"""What modules log arrives once, with the step that the loggers were given, whatever loggers there are."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import tracelet
from tests.frameworks.lightning.training import (
    Given,
    csv_rows,
    data,
    events,
    fit,
    given,
    keeping,
    module,
    module_class,
    trainer,
)
from tracelet import testing
from tracelet.frameworks import table
from tracelet.optim import BFO
from tracelet.settings import TraceletSettings

FRAMEWORKS = table.FRAMEWORKS  # all of them


def arrived(cap: testing.Captured) -> Given:
    return [(point.name, point.value, point.step) for point in cap.points()]


def tensorboard(package: ModuleType, **arguments: Any) -> Any:
    return package.loggers.TensorBoardLogger("tb", default_hp_metric=False, **arguments)


def csv(package: ModuleType, **arguments: Any) -> Any:
    return package.loggers.CSVLogger("csv", **arguments)


LOGGERS: Mapping[str, Callable[[ModuleType], Any]] = {
    "none": lambda _: False,
    "csv": csv,
    "tensorboard": tensorboard,
    "third party": keeping,
    "csv, tensorboard": lambda package: [csv(package), tensorboard(package)],
    "tensorboard, third party, csv": lambda package: [tensorboard(package), keeping(package), csv(package)],
    "two of a kind": lambda package: [csv(package), csv(package, name="second"), keeping(package)],
}


@pytest.mark.parametrize("loggers", LOGGERS)
def test_each_value_once(package: ModuleType, cap: testing.Captured, loggers: str) -> None:
    ran = fit(package, logger=LOGGERS[loggers](package))
    assert arrived(cap) == given(package)
    folder = str(Path("tb/lightning_logs/version_0").resolve()) if "tensorboard" in loggers else ""
    assert {point.log_dir for point in cap.points()} == {folder}
    last = {point.name: point.value for point in cap.points()}
    assert {name: last[name] for name in ran.logged_metrics} == {n: float(v) for n, v in ran.logged_metrics.items()}


def test_what_the_optimizer_tells_is_beside_it(
    package: ModuleType, cap: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning steps by a closure, within which it computes the loss and its gradients."""
    monkeypatch.setattr(table, "FRAMEWORKS", FRAMEWORKS)
    with tracelet.start_logging(settings=TraceletSettings(optimizer_every=1)):
        fit(package, logger=csv(package))
    assert [point for point in arrived(cap) if not point[0].startswith("optim/")] == given(package)
    losses = [value for name, value, _ in given(package) if name == "train_loss_step"]
    assert [point.value for point in cap.points("optim/SGD/loss")] == losses
    assert [point.step for point in cap.points("optim/SGD/loss")] == list(range(1, 9))
    assert [point.step for point in cap.points("optim/SGD/grad_norm")] == list(range(1, 9))
    assert [(point.value, point.step) for point in cap.points("optim/SGD/lr/0")] == [(0.1, 1)]


def test_loggers_have_what_they_have_without_us(package: ModuleType, cap: testing.Captured) -> None:
    fit(package, logger=[csv(package), tensorboard(package)])
    assert Counter(csv_rows(Path("csv/lightning_logs/version_0/metrics.csv"))) == Counter(given(package))
    single = [(name, float(torch.tensor(value)), step) for name, value, step in given(package)]
    assert Counter(events("tb")) == Counter(single) == Counter(arrived(cap))
    assert len(cap.points()) == len(given(package))


def _twice(package: ModuleType, logger: Any) -> None:
    made, ran = module(package), trainer(package, logger=logger)
    ran.fit(made, data())
    ran.fit_loop.max_epochs = 3
    ran.fit(made, data())
    trainer(package, logger=logger).fit(made, data())


def _backwards(package: ModuleType) -> Any:
    class Backwards(module_class(package)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            self.log("step", float(10 - batch_idx))
            return loss

    return Backwards()


def _not_finite(package: ModuleType) -> Any:
    class NotFinite(module_class(package)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.log_dict({"nan": math.nan, "inf": math.inf, "low": -math.inf, "large": 1e300, "whole": batch_idx})
            return self.loss(batch)

    return NotFinite()


def _adversaries(package: ModuleType) -> Any:
    class Adversaries(module_class(package)):  # type: ignore[misc]
        """Manual optimization of two parts, one every second batch."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.other = torch.nn.Linear(4, 1, bias=False)
            torch.nn.init.constant_(self.other.weight, 0.25)

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.layer, self.other)]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for place, (name, part, optimizer) in enumerate(
                zip(("d_loss", "g_loss"), (self.layer, self.other), self.optimizers(), strict=True)
            ):
                if batch_idx % (place + 1) == 0:
                    loss = part(batch[0]).pow(2).mean()
                    optimizer.zero_grad()
                    self.manual_backward(loss)
                    optimizer.step()
                    self.log(name, loss, on_step=True, on_epoch=True)

    return Adversaries()


# What Trainers do, with what makes a difference to steps and values.
DEEDS: Mapping[str, Callable[[ModuleType, Any], None]] = {
    "a logger every third step": lambda p, logger: trainer(p, logger=logger, log_every_n_steps=3).fit(
        module(p), data()
    ),
    "two dataloaders": lambda p, logger: trainer(p, logger=logger).fit(module(p), data(), [data(8), data(12)]),
    "validation in the middle": lambda p, logger: trainer(p, logger=logger, val_check_interval=0.5).fit(
        module(p), data(), data(8)
    ),
    "a sanity check": lambda p, logger: trainer(p, logger=logger, num_sanity_val_steps=2).fit(
        module(p), data(), data(8)
    ),
    "accumulated gradients": lambda p, logger: trainer(p, logger=logger, accumulate_grad_batches=3).fit(
        module(p), data()
    ),
    "overfitting": lambda p, logger: trainer(p, logger=logger, overfit_batches=1).fit(module(p), data()),
    "validation alone": lambda p, logger: trainer(p, logger=logger).validate(module(p), data(), verbose=False),
    "a prediction": lambda p, logger: trainer(p, logger=logger).predict(module(p), data()),
    "two fits": _twice,
    "steps of its own": lambda p, logger: trainer(p, logger=logger).fit(_backwards(p), data()),
    "not finite": lambda p, logger: trainer(p, logger=logger).fit(_not_finite(p), data()),
    "two optimizers": lambda p, logger: trainer(p, logger=logger).fit(_adversaries(p), data()),
}


def same(some: Given, others: Given) -> bool:
    """Whether they are equal, NaN to NaN."""
    return repr(some) == repr(others)


@pytest.mark.parametrize("deed", DEEDS)
def test_the_step_is_the_loggers(package: ModuleType, deed: str) -> None:
    logger = keeping(package)
    DEEDS[deed](package, logger)
    with testing.capture() as cap:
        DEEDS[deed](package, False)
    names = {name for name, _, _ in logger.given}
    mine = [each for each in arrived(cap) if each[0] in names]
    assert same(mine, [(name, float(value), step) for name, value, step in logger.given])
    assert {name for name in cap.names if not name.startswith("optim/")} == names
    assert bool(names) == (deed != "a prediction")


def test_what_lightnings_own_callbacks_log(package: ModuleType, cap: testing.Captured) -> None:
    """They go to the loggers by themselves."""
    loggers = [csv(package), tensorboard(package), keeping(package)]
    fit(package, logger=loggers, callbacks=[package.callbacks.LearningRateMonitor(logging_interval="step")])
    assert arrived(cap) == loggers[2].given
    assert [point.value for point in cap.points("lr-SGD")] == [0.1] * 8


ORDERS: Mapping[str, Callable[[ModuleType], list[Any]]] = {
    "tensorboard first": lambda package: [tensorboard(package), csv(package), keeping(package)],
    "tensorboard last": lambda package: [csv(package), keeping(package), tensorboard(package)],
    "no tensorboard": lambda package: [keeping(package), csv(package)],
}


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_module_gives_its_loggers_by_itself(package: ModuleType, cap: testing.Captured, order: str) -> None:
    class Direct(module_class(package)):  # type: ignore[misc]
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            for _ in range(2):  # twice the same is two points
                for logger in self.loggers:
                    logger.log_metrics({"direct": float(batch_idx), "nan": math.nan}, step=7 - batch_idx)
            for logger in self.loggers:
                logger.log_metrics({"direct": torch.tensor(0.1, dtype=torch.float64), "train_loss": 3}, step=100)

    trainer(package, logger=ORDERS[order](package), max_epochs=1).fit(Direct(), data())
    expected = [(float(batch), 7 - batch) for batch in range(4) for _ in range(2)]
    assert [(p.value, p.step) for p in cap.points("direct") if p.step != 100] == expected
    assert [(p.value, p.step) for p in cap.points("direct") if p.step == 100] == [(0.1, 100)] * 4
    assert [p.step for p in cap.points("nan")] == [step for _, step in expected]
    assert [(p.value, p.step) for p in cap.points("train_loss")] == [(3.0, 100)] * 4
    assert len({point.log_dir for point in cap.points()}) == 1
    assert not [name for name in cap.names if "~" in name]


def test_the_experiment_of_a_logger_is_a_writer_as_any(package: ModuleType, cap: testing.Captured) -> None:
    class Writing(module_class(package)):  # type: ignore[misc]
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.loggers[1].experiment.add_scalar("mine", 0.1, 5)
            self.loggers[1].experiment.add_image("picture", torch.zeros(3, 2, 2), batch_idx)

    trainer(package, logger=[csv(package), tensorboard(package)], max_epochs=1).fit(Writing(), data())
    assert [(p.value, p.step) for p in cap.points("mine")] == [(0.1, 5)] * 4
    assert [media.step for media in cap.media("picture")] == [0, 1, 2, 3]
    assert len({point.log_dir for point in cap.points()}) == 1
    assert cap.names.count("train_loss_step") == 1


def test_a_users_own_writer_is_another(package: ModuleType, cap: testing.Captured) -> None:
    class Writing(module_class(package)):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            with SummaryWriter("runs/own") as writer:
                writer.add_scalar("train_loss_step", 1.5, 0)

    trainer(package, logger=csv(package), max_epochs=1).fit(Writing(), data())
    assert len(cap.points("train_loss_step")) == 4
    (other,) = [point for point in cap.points() if point.name.startswith("train_loss_step~")]
    assert (other.value, other.step, other.log_dir) == (1.5, 0, str(Path("runs/own").resolve()))


def test_dicts(package: ModuleType) -> None:
    class Terms(module_class(package)):  # type: ignore[misc]
        def on_train_end(self) -> None:
            for logger in self.loggers:
                logger.log_metrics({"terms": {"a": 1.5, "b": torch.tensor(2)}}, step=3)

    for loggers in (
        [tensorboard(package), keeping(package)],
        [keeping(package), tensorboard(package)],
        keeping(package),
    ):
        with testing.capture() as within:
            trainer(package, logger=loggers, max_epochs=1).fit(Terms(), data())
        terms = [each for each in arrived(within) if each[0].startswith("terms")]
        assert terms == [("terms/a", 1.5, 3), ("terms/b", 2.0, 3)]


def test_a_prefix_is_in_the_name_and_makes_no_second_value(package: ModuleType) -> None:
    def names(*loggers: Any) -> set[str]:
        with testing.capture() as cap:
            trainer(package, logger=list(loggers), max_epochs=1).fit(module(package), data())
        assert len(cap.points("train_loss_step")) + len(cap.points("p-train_loss_step")) == 4
        return {name for name in cap.names if "train_loss_step" in name}

    assert names(csv(package, prefix="p")) == {"p-train_loss_step"}
    assert names(keeping(package), csv(package, prefix="p")) == {"train_loss_step"}
    assert names(csv(package), tensorboard(package, prefix="p")) == {"p-train_loss_step"}


def test_of_two_tensorboards_the_first_counts(package: ModuleType, cap: testing.Captured) -> None:
    loggers = [tensorboard(package, name="first", prefix="p"), tensorboard(package, name="second"), csv(package)]
    trainer(package, logger=loggers, max_epochs=1).fit(module(package), data())
    assert {point.log_dir for point in cap.points()} == {str(Path("tb/first/version_0").resolve())}
    reference = keeping(package)
    with testing.capture():
        trainer(package, logger=reference, max_epochs=1).fit(module(package), data())
    assert arrived(cap) == [(f"first/p-{name}", value, step) for name, value, step in reference.given]
    assert len(events("tb/first")) == len(events("tb/second")) == len(reference.given)


def test_loggers_that_change_what_they_are_given(package: ModuleType, cap: testing.Captured) -> None:
    class Renaming(package.loggers.TensorBoardLogger):  # type: ignore[name-defined, misc]
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            super().log_metrics({f"x/{name}": value for name, value in metrics.items() if name != "epoch"}, step)

    renaming = Renaming("tb", default_hp_metric=False)
    trainer(package, logger=[keeping(package), renaming], max_epochs=1).fit(module(package), data())
    assert sorted(cap.names) == ["x/batch", "x/train_loss_epoch", "x/train_loss_step", "x/weight"]
    assert Counter(events("tb")) == Counter((n, float(torch.tensor(v)), s) for n, v, s in arrived(cap))


def test_loggers_that_take_out_what_they_do_not_want(package: ModuleType, cap: testing.Captured) -> None:
    class Emptying(type(keeping(package))):  # type: ignore[misc]
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            super().log_metrics(metrics, step)
            metrics.clear()

    emptying = Emptying()
    trainer(package, logger=emptying, max_epochs=1).fit(module(package), data())
    emptying.log_metrics({"by_hand": 1.0}, 7)
    assert emptying.given
    assert arrived(cap) == emptying.given


def test_a_logger_that_is_called_as_lightnings_dummy(package: ModuleType, cap: testing.Captured) -> None:
    logger = type("DummyLogger", (type(keeping(package)),), {})()
    trainer(package, logger=logger, max_epochs=1).fit(module(package), data())
    assert logger.given
    assert arrived(cap) == logger.given


def test_what_a_logger_says_of_itself_may_raise(
    package: ModuleType, cap: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> str:
        raise RuntimeError("not yet")

    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    logger = type("Odd", (type(keeping(package)),), {"_prefix": property(refuse)})()
    trainer(package, logger=logger, max_epochs=1).fit(module(package), data())
    assert arrived(cap) == logger.given


def test_a_loggers_class_is_not_kept_alive(package: ModuleType) -> None:
    kind = type("Mine", (type(keeping(package)),), {"log_metrics": lambda self, metrics, step=None: None})
    with testing.capture():
        trainer(package, logger=kind(), max_epochs=1).fit(module(package), data())
    gone = weakref.ref(kind)
    del kind
    gc.collect()
    assert gone() is None


def test_a_logger_that_fails_fails_the_training_as_it_would(package: ModuleType, cap: testing.Captured) -> None:
    class Failing(type(keeping(package))):  # type: ignore[misc]
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            raise OSError("its server is gone")

    with pytest.raises(OSError, match="its server is gone"):
        fit(package, logger=Failing())
    assert not cap.points()
    fit(package, logger=keeping(package))
    assert arrived(cap) == given(package)


def test_loggers_that_come_later_or_are_odd(package: ModuleType, cap: testing.Captured) -> None:
    """A logger set on the Trainer; one whose `log_metrics` is its own, not its class's; what is no number."""
    ran, later = trainer(package, logger=False, max_epochs=1), keeping(package)
    ran.logger = later
    ran.fit(module(package), data())
    assert arrived(cap) == later.given
    odd = keeping(package)
    odd.log_metrics = lambda metrics, step=None: None
    with testing.capture() as within:
        trainer(package, logger=odd, max_epochs=1).fit(module(package), data())
        later.log_metrics({"text": "x", "list": [1], "flag": True, "numpy": torch.tensor([2.5]).numpy()[0]}, 1)
    assert arrived(within) == [*later.given[:-4], ("flag", 1.0, 1), ("numpy", 2.5, 1)]


def test_population_optimizers_beside(
    package: ModuleType, cap: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tracelet measures of an optimizer, and what the module logs, once each."""
    monkeypatch.setattr(table, "FRAMEWORKS", FRAMEWORKS)
    tracelet.start_logging()

    class Searching(module_class(package)):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return BFO(self.parameters(), population_size=3, seed=0)

    logger = keeping(package)
    trainer(package, logger=[logger, csv(package)], max_epochs=1).fit(Searching(), data())
    mine = [each for each in arrived(cap) if not each[0].startswith("optim/")]
    assert mine == logger.given
    assert [point.step for point in cap.points("optim/BFO/best_fitness")] == [1, 2, 3, 4]


def test_a_logger_that_is_a_mock(package: ModuleType, cap: testing.Captured) -> None:
    """As people's tests have it."""
    mock = MagicMock(spec=package.loggers.logger.Logger, save_dir=None)
    trainer(package, logger=mock, max_epochs=1).fit(module(package), data())
    calls = [call.kwargs for call in mock.log_metrics.call_args_list]
    assert arrived(cap) == [(name, value, call["step"]) for call in calls for name, value in call["metrics"].items()]
