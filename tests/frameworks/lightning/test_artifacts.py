"""Checkpoints, exports and profiles as artifacts, where a setting asks for them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.frameworks.lightning.training import data, is_since, module, module_class, trainer
from tests.support import runs
from tests.support.spool_points import points, records_of
from tracelet.core.metrics import Artifact
from tracelet.frameworks.files import FilesFramework

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = ("checkpoints", "exports", "profiles")


def kept(home: Path) -> dict[str, Artifact]:
    return {artifact.path: artifact for artifact in records_of(Artifact, home)}


def content(home: Path, artifact: Artifact) -> bytes:
    if isinstance(artifact.content, bytes):
        return artifact.content
    (blob,) = home.rglob(artifact.content.sha256)
    return blob.read_bytes()


def test_checkpoints(package: ModuleType, home: Path) -> None:
    class Failing(module_class(package)):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("out of luck")

    checkpoint = package.callbacks.ModelCheckpoint("ckpt", filename="{epoch}", save_top_k=-1, save_last="link")
    with runs.running(home, capture_artifacts=ALL):
        ran = trainer(package, logger=False, callbacks=[checkpoint], enable_checkpointing=True)
        ran.fit(module(package), data())
        ran.save_checkpoint("by_hand.ckpt")
        exception = package.callbacks.OnExceptionCheckpoint(".")
        with pytest.raises(RuntimeError, match="out of luck"):
            trainer(package, logger=False, callbacks=[exception], enable_checkpointing=True).fit(Failing(), data())
        ran.strategy.checkpoint_io = package.plugins.io.AsyncCheckpointIO(ran.strategy.checkpoint_io)
        ran.save_checkpoint("later.ckpt")
        ran.strategy.checkpoint_io.teardown()
    found = kept(home)
    assert sorted(found) == [
        "checkpoints/by_hand.ckpt",
        "checkpoints/epoch=0.ckpt",
        "checkpoints/epoch=1.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/later.ckpt",
        "checkpoints/on_exception.ckpt",
    ]
    assert {artifact.metadata["type"] for artifact in found.values()} == {"checkpoint"}
    for name, path in (("epoch=0", "ckpt/epoch=0.ckpt"), ("last", "ckpt/epoch=1.ckpt"), ("later", "later.ckpt")):
        assert content(home, found[f"checkpoints/{name}.ckpt"]) == Path(path).read_bytes()


def test_exports(package: ModuleType, home: Path) -> None:
    made = module(package)
    with runs.running(home, capture_artifacts=("exports",)):
        made.to_torchscript("script.pt")
        made.to_torchscript(file_path="trace.pt", method="trace", example_inputs=torch.zeros(1, 4))
        assert made.to_torchscript() is not None
        made.to_onnx("model.onnx", torch.zeros(1, 4), dynamo=False)
        torch.jit.save(torch.jit.script(made.layer), "layer.pt")
        torch.jit.trace(made.layer, torch.zeros(1, 4)).save("traced.pt")
        torch.onnx.export(made.layer, (torch.zeros(1, 4),), f="layer.onnx", dynamo=False)
        torch.export.save(torch.export.export(made.layer, (torch.zeros(1, 4),)), "layer.pt2")
        with Path("open.pt").open("wb") as file:
            torch.jit.save(torch.jit.script(made.layer), file)
        with pytest.raises(RuntimeError):
            torch.jit.save(torch.jit.script(made.layer), "nowhere/layer.pt")
        trainer(package, logger=False, max_epochs=1).fit(made, data())
    found = kept(home)
    names = ["layer.onnx", "layer.pt", "layer.pt2", "model.onnx", "script.pt", "trace.pt", "traced.pt"]
    assert sorted(found) == [f"exports/{name}" for name in names]
    assert len(records_of(Artifact, home)) == len(names)
    for name in names:
        assert content(home, found[f"exports/{name}"]) == Path(name).read_bytes()
    assert {artifact.metadata["type"] for artifact in found.values()} == {"export"}


def test_profiles(package: ModuleType, home: Path) -> None:
    profilers = package.profilers
    dumps = {"dump_stats": True} if is_since(package, 2, 4) else {}
    with runs.running(home, capture_artifacts=ALL):
        for profiler in (
            profilers.SimpleProfiler(dirpath="p", filename="simple"),
            profilers.AdvancedProfiler(dirpath="p", filename="advanced", **dumps),
            profilers.PyTorchProfiler(dirpath="p", filename="torch"),
            profilers.SimpleProfiler(),
        ):
            ran = trainer(package, logger=False, max_epochs=1, limit_train_batches=2, profiler=profiler)
            ran.fit(module(package), data())
        with torch.profiler.profile(on_trace_ready=torch.profiler.tensorboard_trace_handler("p/own", "worker")):
            torch.zeros(2).sum()
    found = kept(home)
    names = {path.name for path in Path("p").rglob("*") if path.is_file()}
    assert set(found) == {f"profiles/{name}" for name in names}
    assert {"profiles/fit-simple.txt", "profiles/fit-advanced.txt", "profiles/fit-torch.txt"} <= set(found)
    assert [name for name in found if name.startswith("profiles/worker.") and name.endswith(".pt.trace.json")]
    assert [name for name in found if name.startswith("profiles/fit-torch") and name.endswith(".pt.trace.json")]
    assert bool(dumps) == any(name.startswith("profiles/fit-advanced") and name.endswith(".prof") for name in found)
    assert content(home, found["profiles/fit-simple.txt"]) == Path("p/fit-simple.txt").read_bytes()
    assert {artifact.metadata["type"] for artifact in found.values()} == {"profile"}


def _writers(package: ModuleType) -> list[Any]:
    return [
        vars(package.LightningModule)["to_torchscript"],
        vars(package.Trainer)["save_checkpoint"],
        vars(torch.onnx)["export"],
        vars(torch.jit.ScriptModule)["save"],
        vars(torch.profiler.profiler._KinetoProfile)["export_chrome_trace"],
    ]


def test_nothing_is_patched_for_what_nobody_asked_for(package: ModuleType, home: Path) -> None:
    before = _writers(package)
    with runs.running(home):
        assert _writers(package) == before
        trainer(package, logger=False, enable_checkpointing=True, max_epochs=1).fit(module(package), data())
    with runs.running(home, capture_artifacts=("exports",)):
        assert [new is old for new, old in zip(_writers(package), before, strict=True)] == [False] * 4 + [True]
        trainer(package, logger=False, enable_checkpointing=True, max_epochs=1).fit(module(package), data())
    assert _writers(package) == before
    assert not kept(home)


def test_files_without_what_modules_log(package: ModuleType, home: Path) -> None:
    with runs.running(home, capture_artifacts=("checkpoints",), lightning={"capture": False}, optimizer_every=0):
        ran = trainer(package, logger=False, max_epochs=1)
        ran.fit(module(package), data())
        ran.save_checkpoint("by_hand.ckpt")
    assert list(kept(home)) == ["checkpoints/by_hand.ckpt"]
    assert not points(home)


def test_a_place_that_torch_does_not_have_costs_a_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(torch.onnx, "ONNXProgram")
    with runs.running(home, capture_artifacts=ALL):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), "a.pt")
    assert list(kept(home)) == ["exports/a.pt"]
    said = "tracelet: there is no torch.onnx.ONNXProgram.save in this version of torch: its files are not kept\n"
    assert capfd.readouterr().err.count(said) == 1
    assert not FilesFramework._kinds


def test_a_fault_of_ours_is_not_the_trainings(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    monkeypatch.setattr("tracelet.frameworks.kept.FOLDERS", {})
    with runs.running(home, capture_artifacts=ALL):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), "a.pt")
    assert Path("a.pt").exists()
    assert "tracelet: keeping exports failed (KeyError: 'exports')" in capfd.readouterr().err
