"""Checkpoints that name their run, and trainings that go on with it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.frameworks.lightning.test_logger import FRAMEWORKS
from tests.frameworks.lightning.training import PACKAGES, data, module, trainer
from tests.support.clients import Client, client
from tests.support.commands import tracelet as command
from tracelet import lifetime, testing
from tracelet.core.metrics import RunEnd, RunStatus
from tracelet.core.resuming import KEY
from tracelet.frameworks.checkpoint_files import peek


@pytest.fixture(autouse=True)
def _nobody_has_asked_for_a_logger() -> Iterator[None]:
    yield
    for framework in FRAMEWORKS.values():
        framework.explicit = False
        framework.uninstall()


@pytest.fixture
def alone() -> Iterator[testing.Captured]:
    """A capture that has no run of its own."""
    with testing.capture() as cap:
        assert cap._captor is not None
        assert cap._captor.stand_in is not None
        lifetime.deactivate(cap._captor.stand_in)
        yield cap


def logger(package: ModuleType, **arguments: Any) -> Any:
    name = "lightning" if package.__name__ == "lightning.pytorch" else "pytorch_lightning"
    return importlib.import_module(f"tracelet.loggers.{name}").TraceletLogger(**arguments)


def epochs(package: ModuleType, ckpt_path: str | None = None, **arguments: Any) -> Any:
    ran = trainer(package, max_epochs=1 if ckpt_path is None else 2, **arguments)
    ran.fit(module(package), data(), ckpt_path=ckpt_path)
    return ran


def test_a_training_goes_on_with_its_run(
    package: ModuleType, alone: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = {"enable_checkpointing": True}
    epochs(package, logger=logger(package, resume="checkpoint", name="first"), **saving)
    (run,) = alone.runs
    (run,) = alone.runs
    (path,) = Path.cwd().rglob("*.ckpt")
    assert (peek(path), torch.load(path, weights_only=False)[KEY]) == (run.id, run.id)

    # A module of such a checkpoint, a test of it, and a try-out are no training that goes on.
    type(module(package)).load_from_checkpoint(path)
    other = logger(package, resume="checkpoint", name="tests")
    trainer(package, logger=other).test(module(package), data(8), ckpt_path=str(path), verbose=False)
    assert [each.name for each in alone.runs] == ["first", "tests"]

    monkeypatch.setenv("TRACELET_RESUME", "checkpoint")
    epochs(package, str(path), logger=logger(package, name="second"))
    again = alone.runs[-1]
    assert (again.id, again.name, again.attempt) == (run.id, "first", 2)
    steps = [point.step for point in alone.points("train_loss_step")]
    assert steps == list(range(8))
    trainer(package, logger=False).fit(module(package), data(), ckpt_path=str(path))
    assert len(alone.runs) == 3, "a Trainer without a run"


def test_by_default_it_is_another_run(package: ModuleType, alone: testing.Captured) -> None:
    epochs(package, logger=logger(package), enable_checkpointing=True)
    (path,) = Path.cwd().rglob("*.ckpt")
    assert KEY not in torch.load(path, weights_only=False)
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, KEY: alone.runs[0].id}, "named.ckpt")
    epochs(package, "named.ckpt", logger=logger(package))
    assert len({run.id for run in alone.runs}) == 2


def test_a_run_that_has_begun_stays(capfd: pytest.CaptureFixture[str]) -> None:
    package = PACKAGES["lightning"]
    with testing.capture() as cap:
        import tracelet

        epochs(package, enable_checkpointing=True)
        (path,) = Path.cwd().rglob("*.ckpt")
        torch.save({**torch.load(path, weights_only=False), KEY: "another"}, "named.ckpt")
        with tracelet.start_logging(resume="checkpoint") as run:
            epochs(package, "named.ckpt")
        assert [each.id for each in cap.runs][-1] == run.id != "another"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracelet: ")]
    assert "start_logging(run_id='another', resume='auto')" in line


class Harmful:
    """What it says, unpickled, makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("harm",))


def test_nothing_of_a_checkpoint_is_run_to_read_its_id(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "set": {1},
        "path": Path("a"),
        "whole": model,
    }
    torch.save({**content, "harmful": Harmful(), KEY: "the run"}, "file.ckpt")
    assert peek("file.ckpt") == "the run"
    torch.save({**content, KEY: "../bad"}, "bad.ckpt")
    Path("text.ckpt").write_text("no checkpoint")
    Path("folder").mkdir()
    torch.save({KEY: "in parts"}, "folder/meta.pt")
    assert [peek(name) for name in ("bad.ckpt", "text.ckpt", "folder", "s3://bucket/a.ckpt")] == [
        "",
        "",
        "in parts",
        "",
    ]
    assert not Path("harm").exists()


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


TRAIN = """
import warnings
warnings.filterwarnings("ignore")
import logging
logging.disable()
import torch
import lightning.pytorch as pl
class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, _):
        loss = self.layer(batch).pow(2).mean()
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
quiet = dict(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, logger=False)
def train(epochs, path=None):
    trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, **quiet)
    trainer.fit(Small(), torch.utils.data.DataLoader(torch.ones(16, 4), batch_size=4), ckpt_path=path)
    return trainer
"""


def test_an_untouched_script(shared: Client, tmp_path: Path) -> None:
    """Under `tracelet run`, whose run has recorded nothing yet, it is the run of the checkpoint from the first record on."""
    begun = shared.run("tracelet.start_logging(exp_name='begun', run_id='begun').log_metric('train_loss', 1, 3)")
    assert (begun.code, begun.err) == (0, "")
    names: dict[str, Any] = {}
    exec(TRAIN, names)
    names["train"](1).save_checkpoint(tmp_path / "a.ckpt")
    torch.save({**torch.load(tmp_path / "a.ckpt", weights_only=False), KEY: "begun"}, tmp_path / "a.ckpt")
    (tmp_path / "train.py").write_text(f"{TRAIN}\ntrain(2, 'a.ckpt').save_checkpoint('b.ckpt')\n")
    environment = {
        "TRACELET_HOME": str(shared.home),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "TRACELET_OPTIMIZER_EVERY": "0",
    }
    done = command("run", "--resume", "checkpoint", "train.py", cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert shared.status("begun") == "finished"
    assert [step for step, _ in shared.points("begun", "train_loss")] == [3, 4, 5, 6, 7]
    assert peek(tmp_path / "b.ckpt") == "begun"
    ends = [end.status for end in shared.records("begun", RunEnd)]
    assert ends == [RunStatus.FINISHED, RunStatus.RUNNING, RunStatus.FINISHED]
    assert os.listdir(shared.home / "runs") == ["begun"]
