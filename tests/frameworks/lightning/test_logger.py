"""`TraceletLogger`, in a script and in a configuration."""

from __future__ import annotations

import importlib
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch

import tracelet
from tests.frameworks.lightning.training import (
    QUIET,
    data,
    events,
    fit,
    given,
    is_since,
    keeping,
    module,
    module_class,
    trainer,
)
from tests.support.pages import blocks
from tracelet import lifetime, testing
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.frameworks.lightning import LightningFramework
from tracelet.frameworks.pytorch_lightning import PyTorchLightningFramework

FRAMEWORKS = {"lightning.pytorch": LightningFramework, "pytorch_lightning": PyTorchLightningFramework}


def of(package: ModuleType) -> Any:
    name = "lightning" if package.__name__ == "lightning.pytorch" else "pytorch_lightning"
    return importlib.import_module(f"tracelet.loggers.{name}").TraceletLogger


@pytest.fixture(autouse=True)
def _nobody_has_asked_for_a_logger() -> Iterator[None]:
    yield
    for framework in FRAMEWORKS.values():
        framework.explicit = False
        framework.uninstall()


def arrived(cap: testing.Captured, run: Any = None) -> list[tuple[str, float, int]]:
    return [(point.name, point.value, point.step) for point in cap.points(run=run)]


@pytest.fixture
def alone() -> Iterator[testing.Captured]:
    """A capture that has no run of its own."""
    with testing.capture() as cap:
        assert cap._captor is not None
        assert cap._captor.stand_in is not None
        lifetime.deactivate(cap._captor.stand_in)
        yield cap


def test_it_starts_a_run_and_ends_it(package: ModuleType, alone: testing.Captured) -> None:
    logger = of(package)(project="digits", name="first", tags={"a": "b"}, group="g", notes="n", run_id="an-id")
    assert isinstance(logger, package.loggers.logger.Logger)
    assert (logger.name, logger.version) == ("first", "an-id")
    assert not alone.runs
    made = module(package)
    ran = trainer(package, logger=logger)
    ran.fit(made, data(), data(8))
    (run,) = alone.runs
    assert (run.name, run.project, run.id, run.status) == ("first", "digits", "an-id", RunStatus.FINISHED)
    assert active.here() is None
    ran.test(made, data(8), verbose=False)
    assert [each.id for each in alone.runs] == ["an-id"] * 2  # it went on
    assert alone.status is RunStatus.FINISHED
    assert arrived(alone) == given(package)
    assert alone.tags["a"] == "b"
    assert alone.params["trainer/max_epochs"] == 2


def test_it_uses_the_run_that_there_is(package: ModuleType, cap: testing.Captured) -> None:
    with tracelet.start_logging(exp_name="mine") as run:
        logger = of(package)(project="other")
        fit(package, logger=logger)
        assert logger.experiment is run
        assert run.active
        assert (logger.name, logger.version) == ("mine", run.id)
    assert cap.runs == [run]
    assert arrived(cap) == given(package)


@pytest.mark.parametrize("capture", [True, False], ids=["captured", "not captured"])
@pytest.mark.parametrize("order", ["first", "last"])
def test_beside_other_loggers(package: ModuleType, cap: testing.Captured, capture: bool, order: str) -> None:
    class Direct(module_class(package)):  # type: ignore[misc]
        def on_train_end(self) -> None:
            for logger in self.loggers:
                logger.log_metrics({"direct": 0.5}, step=50)

    settings = tracelet_settings(lightning={"capture": capture})
    with tracelet.start_logging(settings=settings):
        loggers = [package.loggers.TensorBoardLogger("tb", default_hp_metric=False), keeping(package)]
        loggers.insert(0 if order == "first" else 2, of(package)())
        trainer(package, logger=loggers).fit(Direct(), data(), data(8))
    reference = next(logger for logger in loggers if hasattr(logger, "given")).given
    found = arrived(cap)
    if (
        not capture
    ):  # its own experiment's point is TensorBoard's too: nobody knows of one another outside of Lightning's call
        found = [each for each in found if not each[0].startswith("direct")]
        reference = [each for each in reference if each[0] != "direct"]
    assert found == reference
    assert len(events("tb")) == len(reference) + (not capture)


def test_beside_a_logger_that_takes_out_what_it_does_not_want(package: ModuleType, cap: testing.Captured) -> None:
    class Emptying(type(keeping(package))):  # type: ignore[misc]
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            super().log_metrics(metrics, step)
            metrics.clear()

    emptying = Emptying()
    with tracelet.start_logging():
        fit(package, logger=[of(package)(), emptying])
    assert arrived(cap) == emptying.given == given(package)


def tracelet_settings(**given: Any) -> Any:
    from tracelet.settings import TraceletSettings

    return TraceletSettings(**given)


def test_without_capture_other_trainers_are_not_listened_to(package: ModuleType, cap: testing.Captured) -> None:
    with tracelet.start_logging(settings=tracelet_settings(lightning={"capture": False}, optimizer_every=0)):
        fit(package, logger=of(package)())
        assert arrived(cap) == given(package)
        fit(package, logger=False)
        fit(package, logger=package.loggers.CSVLogger("csv"))
    assert arrived(cap) == given(package)


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("boom"), RunStatus.FAILED), (KeyboardInterrupt(), RunStatus.KILLED)], ids=repr
)
def test_a_training_that_fails(
    package: ModuleType, alone: testing.Captured, error: BaseException, status: RunStatus
) -> None:
    class Failing(module_class(package)):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            raise error

    handler = signal.getsignal(signal.SIGINT)
    leaves = status is RunStatus.FAILED or is_since(package, 2, 4)  # an older fit returns when it is interrupted
    try:
        with pytest.raises((RuntimeError, SystemExit)) if leaves else nullcontext():
            trainer(package, logger=of(package)()).fit(Failing(), data())
    finally:
        signal.signal(signal.SIGINT, handler)
    assert alone.status is status


def test_what_a_module_calls(package: ModuleType, cap: testing.Captured) -> None:
    class Calling(module_class(package)):  # type: ignore[misc]
        def on_train_end(self) -> None:
            logger = self.logger
            logger.log_image("image", numpy.zeros((3, 2, 2)), 1)
            logger.log_image("images", [torch.zeros(2, 2, 3)] * 2, step=2, dataformats="HWC")
            logger.log_histogram("histogram", [1.0, 2.0], 3)
            logger.log_text("text", "words", 4)
            logger.log_table("table", {"a": [1]}, 4)
            logger.log_audio("audio", numpy.zeros(9), 5, sample_rate=8000)
            logger.log_video("video", numpy.zeros((1, 2, 3, 4, 4)), 6)
            logger.experiment.log_metric("metric", 1.5, 7)
            logger.log_hyperparams({"a": {"b": 1}})

    trainer(package, logger=of(package)(), max_epochs=1).fit(Calling(), data())
    assert [(each.name, each.step) for each in cap.media() if not each.name.startswith("optim/")] == [
        ("image", 1), ("images/0", 2), ("images/1", 2), ("histogram", 3), ("text", 4), ("table", 4),
        ("audio", 5), ("video", 6),
    ]  # fmt: skip
    assert [(point.value, point.step) for point in cap.points("metric")] == [(1.5, 7)]
    assert cap.params["a/b"] == 1


def test_checkpoints(package: ModuleType, cap: testing.Captured) -> None:
    with tracelet.start_logging(run_id="an-id", exp_name="name"):
        logger = of(package)(save_dir="saved", log_model=True)
        trainer(package, logger=logger, enable_checkpointing=True).fit(module(package), data())
    assert list(cap.artifacts) == ["checkpoints/epoch=0-step=4.ckpt", "checkpoints/epoch=1-step=8.ckpt"]
    assert [path.name for path in Path("saved/name/an-id/checkpoints").iterdir()] == ["epoch=1-step=8.ckpt"]


def test_a_fast_development_run_starts_no_run(package: ModuleType, alone: testing.Captured) -> None:
    trainer(package, logger=of(package)(), fast_dev_run=True).fit(module(package), data(), data(8))
    assert (alone.runs, alone.points()) == ([], [])


def test_a_run_that_is_stopped_is_followed_by_the_next(package: ModuleType, cap: testing.Captured) -> None:
    logger = of(package)()
    for name in ("first", "second"):
        with tracelet.start_logging(exp_name=name):
            trainer(package, logger=logger, max_epochs=1).fit(module(package), data())
        assert logger.name == name
    assert [len(cap.points("train_loss_step", run)) for run in cap.runs] == [4, 4]


def test_disabled(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_DISABLED", "1")
    started: list[Any] = []
    logger = of(package)()
    begin = tracelet.start_logging
    monkeypatch.setattr(
        "tracelet.loggers.lightning_logger.start_logging", lambda **given: started.append(given) or begin(**given)
    )
    fit(package, logger=logger)
    assert len(started) == 1
    assert not logger.experiment.active
    tracelet.stop_logging()


def test_ranks_above_zero(package: ModuleType, alone: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = of(package)()
    monkeypatch.setattr("lightning_utilities.core.rank_zero.rank_zero_only.rank", 1)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_hyperparams({"a": 1})
    logger.log_text("a", "b")
    logger.experiment.log_metric("a", 1.0)
    logger.finalize("success")
    assert not alone.runs


def test_it_is_pickled(package: ModuleType, cap: testing.Captured) -> None:
    logger = of(package)(name="n")
    with tracelet.start_logging():
        assert pickle.loads(pickle.dumps(logger)).name == "n"
        run = logger.experiment
        assert pickle.loads(pickle.dumps(logger)).experiment is run


def test_in_a_configuration(package: ModuleType, alone: testing.Captured) -> None:
    cli = importlib.import_module(f"{package.__name__}.cli").LightningCLI
    where = of(package).__module__
    (block,) = [each for each in blocks("yaml") if each.page == "docs/reference/frameworks/lightning.md"]
    said = block.code.replace("tracelet.loggers.lightning", where)
    Path("config.yaml").write_text(said + "      run_id: an-id\n      resume: auto\n  max_epochs: 1\n")

    class Model(module_class(package)):  # type: ignore[misc]
        def train_dataloader(self) -> Any:
            return data()

    words = [f"--trainer.{name}={str(value).lower()}" for name, value in QUIET.items()]
    command = cli(Model, args=["fit", "--config=config.yaml", *words])
    (run,) = alone.runs
    assert (run.name, run.project, run.id, run.status) == ("boring", "tutorial", "an-id", RunStatus.FINISHED)
    assert command.trainer.logger.version == "an-id"
    assert Path("tracelet_logs/an-id/config.yaml").exists()
    assert alone.tags == {"stage": "demo"}
    assert alone.params["trainer.logger.init_args.backend"] == "mlflow, wandb"
    assert alone.params["trainer.logger.class_path"] == f"{where}.TraceletLogger"
    assert [point.step for point in alone.points("train_loss_step")] == [0, 1, 2, 3]


def test_lightning_is_imported_when_the_logger_is_asked_for() -> None:
    code = """
import sys
import tracelet.loggers.lightning as mine, tracelet.loggers.pytorch_lightning
assert not {"lightning", "pytorch_lightning", "torch"} & set(sys.modules)
sys.modules["lightning"] = None
try:
    mine.TraceletLogger
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lightning" in done.stdout
