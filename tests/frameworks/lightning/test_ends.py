"""What happens to a training and its run: early stopping, exceptions, interrupts, and a run that goes on after them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import tracelet
from tests.frameworks.lightning.training import data, is_since, keeping, module, module_class, trainer
from tests.support.clients import Client, client
from tracelet import testing
from tracelet.core.metrics import RunStatus


@pytest.fixture(autouse=True)
def _interrupts_are_handled_as_before() -> Iterator[None]:
    """Lightning ignores them once it was interrupted."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def failing(package: ModuleType, error: BaseException, at: int = 2) -> Any:
    class Failing(module_class(package)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.current_epoch == 0 and batch_idx == at:
                raise error
            return super().training_step(batch, batch_idx)

    return Failing()


def test_early_stopping(package: ModuleType, cap: testing.Captured) -> None:
    callback = package.callbacks.EarlyStopping("val_loss", min_delta=10.0, patience=2)
    ran = trainer(package, logger=False, max_epochs=9, callbacks=[callback])
    ran.fit(module(package), data(), data(8))
    assert ran.current_epoch == 3
    best = float(callback.best_score)
    assert cap.tags == {
        "early_stopping.monitor": "val_loss",
        **({"early_stopping.reason": "patience_exhausted"} if is_since(package, 2, 6) else {}),
        "early_stopping.epoch": "2",
        "early_stopping.best": str(best),
    }
    (event,) = cap.media("early_stopping")
    assert (event.step, event.kind) == (12, "text")
    said = f"val_loss has not improved in the last 2 checks. Best: {best}"
    assert event.content.decode() == getattr(callback, "stopping_reason_message", said)
    assert cap.points("val_loss")[0].value == best


def test_no_early_stopping(package: ModuleType, cap: testing.Captured) -> None:
    callback = package.callbacks.EarlyStopping("val_loss", patience=5)
    trainer(package, logger=False, callbacks=[callback]).fit(module(package), data(), data(8))
    trainer(package, logger=False, max_epochs=9, max_steps=6).fit(module(package), data())
    assert (cap.tags, cap.media("early_stopping")) == ({}, [])


def test_a_loss_that_is_not_finite_stops_it(package: ModuleType, cap: testing.Captured) -> None:
    class Exploding(module_class(package)):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", float("nan"))

    callback = package.callbacks.EarlyStopping("val_loss")
    trainer(package, logger=False, max_epochs=9, callbacks=[callback]).fit(Exploding(), data(), data(8))
    assert cap.tags.get("early_stopping.reason") == ("non_finite_metric" if is_since(package, 2, 6) else None)
    assert cap.tags["early_stopping.best"] == "inf"


ENDS = {
    "exception": (RuntimeError("boom"), RuntimeError, RunStatus.FAILED),
    "interrupt": (KeyboardInterrupt(), SystemExit, RunStatus.KILLED),
    "sys.exit": (SystemExit(3), SystemExit, RunStatus.FAILED),
}


@pytest.mark.parametrize("end", ENDS)
def test_how_a_training_ends_is_how_its_run_ends(package: ModuleType, cap: testing.Captured, end: str) -> None:
    error, leaves, status = ENDS[end]
    ran = trainer(package, logger=False)
    if end == "interrupt" and not is_since(package, 2, 4):
        pytest.skip("this Lightning's fit returns when it is interrupted: the script goes on")
    with pytest.raises(leaves) as left, tracelet.start_logging():
        ran.fit(failing(package, error), data())
    if end == "interrupt":
        assert left.value.code == 1
    assert ran.interrupted
    assert cap.status is status
    assert [point.step for point in cap.points("train_loss_step")] == [0, 1]


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


TOLD = {
    "in with": ("with tracelet.start_logging(exp_name=name): fit()", "killed"),
    "at exit": ("tracelet.start_logging(exp_name=name); fit()", "killed"),
    "caught": ("tracelet.start_logging(exp_name=name)\ntry: fit()\nexcept SystemExit: pass", "finished"),
}


@pytest.mark.parametrize("how", TOLD)
def test_a_training_that_is_told_to_end(package: ModuleType, shared: Client, how: str) -> None:
    """By SIGTERM: it leaves with code 0, and its run is not finished, if the script does not go on."""
    code, word = TOLD[how]
    name = f"{package.__name__} {how}"
    done = shared.run(
        f"""
import os, signal, {package.__name__} as package
from tests.frameworks.lightning.training import data, module_class, trainer

class Told(module_class(package)):
    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)

def fit(): trainer(package, logger=False, max_epochs=1).fit(Told(), data())

name = {name!r}
{code}
""",
        PYTHONPATH=str(Path(__file__).parents[3]),
    )
    assert done.code == 0, done.err
    assert shared.status(name) == word
    assert [step for step, _ in shared.points(name, "train_loss_step")] == [0, 1, 2]


@pytest.mark.parametrize("end", ENDS)
def test_a_script_that_goes_on_makes_of_its_run_what_it_makes(
    package: ModuleType, cap: testing.Captured, end: str
) -> None:
    error, leaves, _ = ENDS[end]
    returns = end == "interrupt" and not is_since(package, 2, 4)
    with tracelet.start_logging():
        with nullcontext() if returns else pytest.raises(leaves):
            trainer(package, logger=False).fit(failing(package, error), data())
        trainer(package, logger=False, max_epochs=1).fit(module(package), data())
    assert cap.status is RunStatus.FINISHED
    assert [point.step for point in cap.points("train_loss_step")] == [0, 1, 0, 1, 2, 3]


@pytest.mark.parametrize("logged", [False, True], ids=["no logger", "tensorboard"])
def test_a_run_that_goes_on_from_an_exceptions_checkpoint(
    package: ModuleType, cap: testing.Captured, logged: bool
) -> None:
    """One run, no point twice, and the step that Lightning does not do again is missing."""

    mine = keeping(package)

    def logger() -> Any:
        return [package.loggers.TensorBoardLogger("tb", version=0, default_hp_metric=False), mine] if logged else mine

    def run(made: Any, ckpt_path: str | None = None) -> Any:
        callback = package.callbacks.OnExceptionCheckpoint(".")
        tracelet.start_logging(run_id="the-run", resume="auto")
        ran = trainer(package, logger=logger(), callbacks=[callback], max_epochs=3, enable_checkpointing=True)
        ran.fit(
            made,
            data(),
            ckpt_path=ckpt_path,
            **({"weights_only": False} if ckpt_path and is_since(package, 2, 6) else {}),
        )
        return ran

    class Failing(module_class(package)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.current_epoch == 1 and batch_idx == 2:
                raise RuntimeError("preempted")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="preempted"):
        run(Failing())
    tracelet.stop_logging()
    run(module(package), ckpt_path=str(Path("on_exception.ckpt")))
    tracelet.stop_logging()
    assert {run.id for run in cap.runs} == {"the-run"}
    steps = [point.step for point in cap.points("train_loss_step")]
    missing = is_since(package, 2, 6)  # the oldest does it again
    assert steps == [*range(6), *range(7 if missing else 6, 13 if missing else 12)]
    assert [(point.name, point.value, point.step) for point in cap.points()] == mine.given
    assert not [name for name in cap.names if "/" in name and not name.startswith("optim/")]
