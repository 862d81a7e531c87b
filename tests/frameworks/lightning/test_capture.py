"""What is listened to, and what is not: settings, tries, versions, places that are gone."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter

from tests.frameworks.lightning.training import data, fit, given, is_since, keeping, module, module_class, trainer
from tests.support import runs
from tests.support.spool_points import points
from tracelet import testing
from tracelet.frameworks.table import FRAMEWORKS


def loggers(package: ModuleType) -> list[Any]:
    return [package.loggers.TensorBoardLogger("tb", default_hp_metric=False), package.loggers.CSVLogger("csv")]


def identifier(package: ModuleType) -> str:
    return "lightning" if package.__name__ == "lightning.pytorch" else "pytorch_lightning"


def framework(package: ModuleType) -> Any:
    where, name = FRAMEWORKS[identifier(package)]
    return getattr(importlib.import_module(where), name)


def test_without_tensorboards_capture(package: ModuleType, home: Path) -> None:
    with runs.running(home, pytorch={"patch_tensorboard": False}, optimizer_every=0):
        fit(package, logger=loggers(package))
    assert [(p.name, p.value, p.step, p.log_dir) for p in points(home)] == [(*each, "") for each in given(package)]


def test_without_lightnings_capture(package: ModuleType, home: Path) -> None:
    """SummaryWriters are captured, each as it is; nothing else."""
    before = dict(vars(package.Trainer))
    with runs.running(home, lightning={"capture": False}, optimizer_every=0):
        assert dict(vars(package.Trainer)) == before
        fit(package, logger=[*loggers(package), package.loggers.TensorBoardLogger("other", default_hp_metric=False)])
    assert len(points(home)) == 2 * len(given(package))
    home_of = {point.log_dir: point.name.partition("/")[0] for point in points(home)}
    assert sorted(home_of.values()) == ["lightning_logs", "lightning_logs_2"]


def test_without_both(package: ModuleType, home: Path) -> None:
    with runs.running(home, lightning={"capture": False}, pytorch={"patch_tensorboard": False}, optimizer_every=0):
        fit(package, logger=loggers(package))
    assert not points(home)


def test_by_hand(package: ModuleType, home: Path) -> None:
    with runs.running(home, lightning={"capture": False}, optimizer_every=0) as run:
        run._frameworks[identifier(package)].log_metric("mine", 1.5, 2)
        fit(package, logger=False)
        framework(package)().initialize(run)
        fit(package, logger=False)
        run._frameworks[identifier(package)].stop_tracking()
        fit(package, logger=False)
    assert [(p.name, p.value, p.step) for p in points(home)] == [("mine", 1.5, 2), *given(package)]


def test_a_fast_development_run_is_recorded_nowhere(package: ModuleType, cap: testing.Captured) -> None:
    class Trying(module_class(package)):  # type: ignore[misc]
        def on_train_batch_end(self, *_: Any) -> None:
            with SummaryWriter("runs/own") as writer:
                writer.add_scalar("own", 1.0, 0)
            self.logger.log_metrics({"direct": 1.0}, 0)

    ran = trainer(package, logger=loggers(package), fast_dev_run=True)
    ran.fit(Trying(), data(), data(8))
    ran.test(Trying(), data(8), verbose=False)
    assert (cap.points(), cap.params, cap.tags) == ([], {}, {})
    with SummaryWriter("runs/own") as writer:
        writer.add_scalar("afterwards", 1.0, 0)
    assert cap.names == ["afterwards"]


def test_searches_for_settings_are_recorded_nowhere(package: ModuleType, cap: testing.Captured) -> None:
    class Searched(module_class(package)):  # type: ignore[misc]
        batch_size = 2

        def train_dataloader(self) -> Any:
            return data(batch=self.batch_size)

        def val_dataloader(self) -> Any:
            return data(8)

    tuner = package.tuner.Tuner(trainer(package, logger=False, max_epochs=1))
    assert tuner.lr_find(Searched(), num_training=4, update_attr=False) is not None
    tuner.scale_batch_size(Searched(), max_trials=1, steps_per_trial=1)
    assert not cap.points()
    finder = package.callbacks.LearningRateFinder(num_training_steps=4, update_attr=False)
    reference = keeping(package)
    trainer(package, logger=reference, max_epochs=1, callbacks=[finder]).fit(Searched(), data(), data(8))
    assert [(p.name, p.value, p.step) for p in cap.points()] == reference.given
    # The oldest Lightning trains no more behind this search.
    assert len(cap.points("train_loss_step")) == 4 * is_since(package, 2, 4)


def test_other_runs_have_nothing_of_it(package: ModuleType) -> None:
    with testing.capture() as outer:
        trainer(package, logger=False, max_epochs=1).fit(module(package), data())
        with testing.capture() as inner:
            trainer(package, logger=False, max_epochs=1).fit(module(package), data())
        assert len(inner.points("train_loss_step")) == len(outer.points("train_loss_step")) == 4
    trainer(package, logger=False, max_epochs=1).fit(module(package), data())  # in no run


def test_a_run_that_begins_in_the_middle(package: ModuleType, home: Path) -> None:
    class Beginning(module_class(package)):  # type: ignore[misc]
        run: Any = None

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                type(self).run = runs.start(home, optimizer_every=0)

    logger = keeping(package)
    try:
        trainer(package, logger=logger).fit(Beginning(), data())
    finally:
        runs.stop(Beginning.run)
    later = [(name, value, step) for name, value, step in logger.given if step > 3]
    assert [(p.name, p.value, p.step) for p in points(home)] == later


def test_an_old_version_is_said_once_and_left_alone(
    package: ModuleType, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    top = importlib.import_module(framework(package).package)
    monkeypatch.setattr(top, "__version__", "2.1.4")
    with runs.running(home, optimizer_every=0):
        trainer(package, logger=False, max_epochs=1).fit(module(package), data())
    with runs.running(home, optimizer_every=0):
        fit(package, logger=False)
    assert not points(home)
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracelet:")]
    assert said.startswith(f"tracelet: {framework(package).package} 2.1.4 is older than 2.2, the oldest")


def test_a_package_that_is_a_stub_costs_one_line(
    package: ModuleType, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Builds of documentation and tests put one there."""
    where = framework(package)
    for name in [name for name in sys.modules if name == where.module or name.startswith(f"{where.module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, where.module, ModuleType(where.module))
    with runs.running(home) as run:
        run.log_metric("a", 1.0)
    assert [point.tag for point in points(home)] == ["a"]
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracelet:")]
    assert said == [
        f"tracelet: the {where.package} that was imported has nothing of what is listened to: it is not recorded"
    ]


def test_a_place_that_is_gone_costs_a_line(
    package: ModuleType, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The rest is recorded; without the connector, from each logger."""
    expected = given(package)
    connector = importlib.import_module(f"{package.__name__}.trainer.connectors.logger_connector.logger_connector")
    kind = connector._LoggerConnector
    moved = type("_LoggerConnector", (kind,), {})
    stopping = importlib.import_module(f"{package.__name__}.callbacks.early_stopping").EarlyStopping
    with monkeypatch.context() as patch:
        patch.setattr(connector, "_LoggerConnector", moved)  # its method is its base's
        patch.delattr(stopping, "_run_early_stopping_check")
        patch.delattr(package.trainer.trainer, "_log_hyperparams")
        patch.delattr(package.callbacks.lr_finder, "LearningRateFinder")
        run = runs.start(home, optimizer_every=0)
    try:
        fit(package, logger=[keeping(package), package.loggers.CSVLogger("csv")])
    finally:
        runs.stop(run)
    assert [(p.name, p.value, p.step) for p in points(home)] == expected
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracelet:")]
    gone = (
        "trainer.connectors.logger_connector.logger_connector._LoggerConnector.log_metrics",
        "trainer.trainer._log_hyperparams",
        "callbacks.lr_finder.LearningRateFinder.lr_find",
        "callbacks.early_stopping.EarlyStopping._run_early_stopping_check",
    )
    where = framework(package)
    assert said == [
        f"tracelet: there is no {where.module}.{name} in this version of {where.package}: what is seen there is not recorded"
        for name in gone
    ]


def test_faults_of_ours_are_not_the_trainings(
    package: ModuleType, cap: testing.Captured, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    monkeypatch.setattr("tracelet.frameworks.lightning_metrics.record_all", None)
    monkeypatch.setattr("tracelet.frameworks.lightning_params._merged", None)
    ran = fit(package, logger=False)
    assert ran.state.finished
    assert not cap.points()
    assert capfd.readouterr().err.count("tracelet: recording what Lightning logs failed (TypeError") == 1


class Reads(TorchDispatchMode):
    """Counts what would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).partition(".")[2].partition(".")[0]
        copies = name == "_to_copy" and "device" in (kwargs or {})
        if copies or name in ("_local_scalar_dense", "nonzero"):
            self.found[name] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("logged", [False, True], ids=["no logger", "csv"])
def test_listening_reads_nothing_more(package: ModuleType, home: Path, logged: bool) -> None:
    def reads() -> Counter[str]:
        ran = trainer(package, logger=package.loggers.CSVLogger("csv") if logged else False, max_epochs=1)
        with Reads() as counted:
            ran.fit(module(package), data())
        return counted.found

    expected = reads()
    with runs.running(home, optimizer_every=0):
        assert reads() == expected
    assert len({point.name for point in points(home)}) == 5


def test_numbers_on_a_device_are_read_at_once() -> None:
    from tracelet.frameworks.lightning_metrics import numbers

    read: list[int] = []

    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> Any:
            return torch.device("cuda", 0)

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.Tensor.tolist, torch.Tensor.item):
                read.append(args[0].numel())
            return super().__torch_function__(func, types, args, kwargs or {})

    values = {str(n): torch.tensor(n / 3).as_subclass(Elsewhere) for n in range(3)}
    assert numbers({**values, "a": 1, "b": torch.tensor([0.25])}) == {
        **{str(n): float(torch.tensor(n / 3)) for n in range(3)},
        "a": 1,
        "b": 0.25,
    }
    assert read == [3]
