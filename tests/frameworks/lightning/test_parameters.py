"""Hyperparameters, the Trainer's arguments, and what the command line said, as parameters of the run."""

from __future__ import annotations

import dataclasses
import enum
import importlib
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.frameworks.lightning.training import QUIET, data, is_since, keeping, module, module_class, trainer
from tracelet import testing
from tracelet.core import active


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Sizes:
    width: int
    depth: int


def told(cap: testing.Captured) -> dict[str, Any]:
    """Parameters but the Trainer's and those of optimizers."""
    return {name: value for name, value in cap.params.items() if not name.startswith(("trainer/", "optim/"))}


def test_hyperparameters_of_module_and_datamodule(package: ModuleType, cap: testing.Captured) -> None:
    class Model(module_class(package)):  # type: ignore[misc]
        def __init__(self, lr: float = 0.1, sizes: Any = None, nested: Any = None, **others: Any) -> None:
            super().__init__(lr=lr)
            self.save_hyperparameters()

    class Data(package.LightningDataModule):  # type: ignore[name-defined, misc]
        def __init__(self, batch_size: int = 4, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return data(batch=self.hparams.batch_size)

    made = Model(
        sizes=Sizes(8, 2),
        nested={"a": {"b": 1}, "list": [1, 2], "space": Namespace(x=True)},
        path=Path("a/b"),
        kind=torch.nn.ReLU,
        layer=torch.nn.Linear(1, 1),
        colour=Colour.RED,
        nothing=None,
        one=torch.tensor([2.5]),
        parts=[{"n": 1}, {"n": 2}],
    )
    expected = {
        "lr": 0.1,
        "batch_size": 4,
        "sizes/width": 8,
        "sizes/depth": 2,
        "nested/a/b": 1,
        "nested/list": "1, 2",
        "nested/space/x": True,
        "path": "a/b",
        "kind": "torch.nn.modules.activation.ReLU",
        "layer": "torch.nn.modules.linear.Linear",
        "colour": "red",
        "nothing": "None",
        "one": 2.5,
        "parts/0/n": 1,
        "parts/1/n": 2,
    }
    trainer(package, logger=False, max_epochs=1).fit(made, datamodule=Data())
    assert told(cap) == expected
    for loggers in ([keeping(package)], [package.loggers.TensorBoardLogger("tb"), package.loggers.CSVLogger("csv")]):
        with testing.capture() as within:
            trainer(package, logger=loggers, max_epochs=1).fit(made, datamodule=Data())
        assert told(within) == expected


class Wordless:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")

    __hash__ = None  # type: ignore[assignment]


def test_odd_hyperparameters(package: ModuleType, cap: testing.Captured) -> None:
    class Model(module_class(package)):  # type: ignore[misc]
        def __init__(self, **odd: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    odd = {"wordless": Wordless(), "long": list(range(10_000)), "many": torch.zeros(3), "by": {1: 2, (3, 4): 5}}
    trainer(package, logger=False, max_epochs=1).fit(Model(**odd), data())
    said = told(cap)
    assert said["wordless"].endswith(".Wordless")
    assert (said["many"], said["by/1"], said["by/(3, 4)"]) == ("tensor([0., 0., 0.])", 2, 5)
    assert len(said["long"]) == 500


def test_each_is_told_once(package: ModuleType, cap: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []
    (run,) = active.running()
    monkeypatch.setattr(run, "log_params", said.append)

    class Model(module_class(package)):  # type: ignore[misc]
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr=lr)
            self.save_hyperparameters()

        def on_train_start(self) -> None:
            for logger in self.loggers:
                logger.log_hyperparams({"by_hand": {"x": 1}, "lr": self.lr})

    loggers = [package.loggers.CSVLogger("csv"), keeping(package)]
    ran = trainer(package, logger=loggers, max_epochs=1)
    ran.fit(Model(), data())
    ran.test(Model(), data(), verbose=False)
    trainer(package, logger=loggers, max_epochs=1).fit(Model(lr=0.2), data())
    assert [values for values in said if not any(name.startswith(("trainer/", "optim/")) for name in values)] == [
        {"lr": 0.1},
        {"by_hand/x": 1},
        {"lr": 0.2},
    ]
    assert len([values for values in said if any(name.startswith("trainer/") for name in values)]) == 1


def test_arguments_of_the_trainer(package: ModuleType, cap: testing.Captured) -> None:
    def argument(name: str) -> Any:
        return cap.params.get(f"trainer/{name}")

    callbacks = [package.callbacks.Timer(), package.callbacks.ModelSummary()]
    trainer(
        package,
        logger=False,
        max_epochs=1,
        callbacks=callbacks,
        gradient_clip_val=0.5,
        default_root_dir=Path("root"),
        devices=1,
        max_time=None,
        plugins=[],
    ).fit(module(package), data())
    assert {name.removeprefix("trainer/") for name in cap.params if name.startswith("trainer/")} == {
        *QUIET, "logger", "max_epochs", "callbacks", "gradient_clip_val", "default_root_dir", "devices", "plugins",
    }  # fmt: skip
    assert (argument("max_epochs"), argument("gradient_clip_val"), argument("devices")) == (1, 0.5, 1)
    assert argument("logger") is False
    assert argument("default_root_dir") == "root"
    assert [word.rpartition(".")[2] for word in argument("callbacks").split(", ")] == ["Timer", "ModelSummary"]


def test_without_a_wish_for_hyperparameters(package: ModuleType, cap: testing.Captured) -> None:
    class Model(module_class(package)):  # type: ignore[misc]
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr=lr)
            self.save_hyperparameters(logger=False)

    trainer(package, logger=False, max_epochs=1).fit(Model(), data())
    assert told(cap) == {}
    if not is_since(package, 2, 6):
        return
    with testing.capture() as within:
        trainer(package, logger=False, max_epochs=1, enable_autolog_hparams=False).fit(Model(), data())
    assert not [name for name in within.params if name.startswith("trainer/")]


@pytest.mark.parametrize("subcommand", [True, False], ids=["fit", "no subcommand"])
def test_the_command_lines_configuration(package: ModuleType, cap: testing.Captured, subcommand: bool) -> None:
    cli = importlib.import_module(f"{package.__name__}.cli").LightningCLI

    class Model(module_class(package)):  # type: ignore[misc]
        def __init__(self, lr: float = 0.1, hidden: int | None = None) -> None:
            super().__init__(lr=lr)
            self.save_hyperparameters()

    class Data(package.LightningDataModule):  # type: ignore[name-defined, misc]
        def __init__(self, batch_size: int = 4) -> None:
            super().__init__()
            self.batch_size = batch_size

        def train_dataloader(self) -> Any:
            return data(batch=self.batch_size)

    Path("config.yaml").write_text(
        "seed_everything: 7\nmodel:\n  lr: 0.05\ntrainer:\n  max_epochs: 1\n  logger:\n"
        f"    class_path: {package.__name__}.loggers.CSVLogger\n    init_args:\n      save_dir: csv\n"
    )
    words = ["--config=config.yaml", "--data.batch_size=8"]
    words += [f"--trainer.{name}={str(value).lower()}" for name, value in QUIET.items()]
    command = cli(Model, Data, args=["fit", *words] if subcommand else words, run=subcommand)
    if not subcommand:
        command.trainer.fit(command.model, command.datamodule)
    said = cap.params
    assert {name: said[name] for name in ("seed_everything", "model.lr", "data.batch_size", "trainer.max_epochs")} == {
        "seed_everything": 7,
        "model.lr": 0.05,
        "data.batch_size": 8,
        "trainer.max_epochs": 1,
    }
    assert said["trainer.logger.class_path"] == f"{package.__name__}.loggers.CSVLogger"
    assert said["trainer.logger.init_args.save_dir"] == "csv"
    assert said["trainer.accelerator"] == "cpu"
    assert (said["lr"], said["hidden"]) == (0.05, "None")  # the module's own
    assert not [name for name in said if name.startswith(("trainer/", "config", "_"))]
    assert not [name for name in said if "." in name and said[name] == "None"]
