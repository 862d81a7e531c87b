"""Document 003, advanced patterns of Lightning: its blocks run, and what arrives is what the library's own files have.

Lightning's values are float32, in its event files too: they are compared number for number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import runpy
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import nn
from torch.utils.data import DataLoader

import tracelet
from tests.seeds import digits
from tests.seeds.blocks import HERE, block, check_blocks, check_tests, execute, run_inside
from tests.seeds.histories import Points, arrived, as_float32, in_csv, in_event_files, in_mlflow, in_wandb
from tests.support import commands
from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine
from tests.support.wandb_file import history
from tracelet.core.metrics import RunStatus
from tracelet.settings import TraceletSettings
from tracelet.testing import Captured, capture

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings(
        "ignore:.*does not have many workers.*", "ignore:.*is smaller than the logging interval.*"
    ),
]

FOLDER = HERE / "003"
LOGS = "lightning_logs"
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where a Trainer without more puts its event files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # it keeps the settings that another test began it with
    return tmp_path


@pytest.fixture
def cap() -> Iterator[Captured]:
    """What arrives."""
    with capture() as captured:
        yield captured


def trainer(**more: Any) -> L.Trainer:
    """Two epochs of which every step is logged, with the logger that Lightning has by default."""
    return L.Trainer(**{**QUIET, "max_epochs": 2, "log_every_n_steps": 1, "enable_checkpointing": False, **more})


def part(number: int, of: str) -> str:
    """The paragraphs of a block's text that have this in them."""
    return "\n\n".join(each for each in block(number, FOLDER).text().split("\n\n") if of in each)


def steps(points: Points, name: str) -> list[int]:
    """A metric's steps, in order."""
    return [step for step, _ in points[name]]


# -- Lightning CLI


def lines() -> list[list[str]]:
    """The commands of the document, in words."""
    text = block(2, FOLDER).text()
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def script(folder: Path) -> Path:
    """The document's script, with the module and the data that it is about."""
    path = folder / "train.py"
    path.write_text(block(1, FOLDER).given + block(1, FOLDER).text())
    return path


def told(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Captured:
    """Run one of the commands in this process, with its output where it says; returns what arrived."""
    into = words[-1] if ">" in words else None
    words = words[:-2] if into else words
    assert words[:2] == ["python", "train.py"]
    monkeypatch.setattr(sys, "argv", words[1:])
    output = io.StringIO()
    with capture() as captured, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        runpy.run_path("train.py", run_name="__main__")
    if into:
        Path(into).write_text(output.getvalue())
    return captured


def in_config(logged: Path) -> dict[str, Any]:
    """What LightningCLI wrote beside the event file: values by their path, without those that nobody has set."""

    def inside(given: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(given, list):
            given = dict(enumerate(given))
        if isinstance(given, dict):
            for name, value in given.items():
                yield from inside(value, f"{path}.{name}" if path else str(name))
        elif given is not None:
            yield path, given

    return dict(inside(yaml.safe_load((logged / "config.yaml").read_text()), ""))


def of_the_command(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that are the command line's."""
    of_it = ("seed_everything", "trainer.", "model.", "data.")
    return {name: value for name, value in params.items() if name.startswith(of_it)}


def test_cli(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands in turn, in the document's order; the third reads the file that it shows below them."""
    script(folder)
    fit, printing, from_file, overriding = lines()

    first = told(fit, monkeypatch)
    assert arrived(first) == in_event_files(folder / LOGS / "version_0")
    assert of_the_command(first.params) == in_config(folder / LOGS / "version_0")
    said = ("model.lr", "data.batch_size", "trainer.max_epochs", "lr", "batch_size")
    assert [first.params[name] for name in said] == [1e-3, 64, 10, 1e-3, 64]  # hyperparameters have their own names
    assert steps(arrived(first), "val_loss") == list(range(10))

    printed = told(printing, monkeypatch)
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"] == {
        "lr": 1e-3,
        "hidden_dim": 16,
        "dropout": 0.0,
    }
    assert (printed.points(), printed.params, printed.artifacts) == ([], {}, {})

    (folder / "config.yaml").write_text(block(3, FOLDER).text())
    for number, (words, most) in enumerate([(from_file, 15), (overriding, 20)], 1):
        captured = told(words, monkeypatch)
        assert arrived(captured) == in_event_files(folder / LOGS / f"version_{number}")
        epochs = len(arrived(captured)["val_loss"])
        assert 5 < epochs < 15
        assert of_the_command(captured.params) == in_config(folder / LOGS / f"version_{number}")
        assert captured.params["trainer.max_epochs"] == most
        assert captured.params["trainer.callbacks.0.init_args.patience"] == 5
        assert captured.tags["early_stopping.monitor"] == "val_loss"
        assert captured.tags["early_stopping.epoch"] == str(epochs - 1)


def test_cli_under_the_launcher(shared_spine: Spine, folder: Path) -> None:
    script(folder)
    fit = lines()[0]
    done = commands.tracelet("run", *fit, cwd=folder, environment=shared_spine.environment, seconds=120)
    assert done.returncode == 0, done.stderr
    shared_spine.settle()
    found = {name: sorted(points) for name, points in in_mlflow(shared_spine.database).items()}
    assert found.pop("optim/Adam/lr/0") == [(1, 1e-3)]
    assert {name: points for name, points in found.items() if not name.startswith("optim/")} == {
        name: sorted(points) for name, points in in_event_files(folder).items()
    }
    params = MlflowStore(shared_spine.database).params()
    assert of_the_command(params) == {
        name: str(value) for name, value in in_config(folder / LOGS / "version_0").items()
    }


# -- Hyperparameter tuning


def of_training(points: Points) -> Points:
    """What Lightning logged of a trial, without what Optuna knows of it."""
    return {name: each for name, each in points.items() if name not in ("value", "intermediate_value")}


def test_optuna(cap: Captured, folder: Path) -> None:
    study = run_inside(block(4, FOLDER))["study"]
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 5
    assert states.count("PRUNED") > 0 < states.count("COMPLETE")
    around, *runs = cap.runs
    assert [run.name for run in runs] == [f"trial-{number}" for number in range(5)]
    assert {run.plan.parent for run in runs} == {around.id}
    for trial, run in zip(study.trials, runs, strict=True):
        found = arrived(cap, run=run)
        assert of_training(found) == in_event_files(folder / LOGS / f"version_{trial.number}")
        reported = sorted(trial.intermediate_values.items())
        assert found["intermediate_value"] == reported
        assert [value for _, value in found["val_loss"]] == [value for _, value in reported]
        assert found["value"] == [(trial.number, trial.value)]
        assert run.status is RunStatus.FINISHED
    assert [step for step, _ in arrived(cap, run=around)["best_value"]] == [
        trial.number for trial in study.trials if trial.state.name == "COMPLETE"
    ]


def test_optuna_with_a_run_for_each_trial(cap: Captured, folder: Path) -> None:
    """One that the script begins by itself: it takes the place of what was there, as everywhere."""
    source = block(4, FOLDER)
    text = source.text()
    given = """
import tracelet

def in_a_run_of_its_own(objective):
    def traced(trial):
        with tracelet.start_logging(f"trial {trial.number}", project="tuning"):
            return objective(trial)
    return traced
"""
    assert text.count("def objective") == 1
    names = run_inside(
        dataclasses.replace(source, given=source.given + given),
        text.replace("def objective", "@in_a_run_of_its_own\ndef objective"),
    )
    trials = names["study"].trials
    around, first, *runs = cap.runs
    assert arrived(cap, run=around) == arrived(cap, run=first) == {}
    assert [run.name for run in runs] == [f"trial {number}" for number in range(5)]
    for trial, run in zip(trials, runs, strict=True):
        assert arrived(cap, run=run) == in_event_files(folder / LOGS / f"version_{trial.number}")
        assert run.status is (RunStatus.FAILED if trial.state.name == "PRUNED" else RunStatus.FINISHED)
    assert {name: cap.params[name] for name in ("lr", "hidden_dim", "dropout")} == trials[-1].params
    assert cap.params["trainer/max_epochs"] == 4


def test_optuna_without_a_logger(folder: Path) -> None:
    """What there is to compare with is Optuna's own history of what the callback told it."""
    source = block(4, FOLDER)
    one = source.text().replace("n_trials=5", "n_trials=1").replace("L.Trainer(", "L.Trainer(\n        logger=False,")
    with capture() as captured:
        (trial,) = run_inside(source, one)["study"].trials
    assert not list(folder.rglob("events.out.tfevents.*"))
    found = arrived(captured)
    assert [value for _, value in found["val_loss"]] == list(trial.intermediate_values.values())
    assert found["epoch"] == [(2 * epoch + 1, epoch) for epoch in trial.intermediate_values]
    assert {name: captured.params[name] for name in ("lr", "hidden_dim", "dropout")} == trial.params


def test_ray(shared_spine: Spine) -> None:
    """The driver begins a run and knows nothing of its workers; those are told of theirs by Ray."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets lie in it: a path that is not long
    environment = {
        **shared_spine.environment,
        "HOME": str(folder),
        "PYTHONPATH": str(HERE.parents[1]),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
    }
    before = """
import json, ray, tracelet
ray.init(num_cpus=2, include_dashboard=False)
run = tracelet.start_logging("search")
"""
    after = """
said = {trial.trial_id: [trial.config, trial.relative_logdir] for trial in analysis.trials}
frames = {trial.trial_id: analysis.trial_dataframes[trial.trial_id]["loss"].tolist() for trial in analysis.trials}
with open("said.json", "w") as file:
    json.dump([run.id, said, frames], file)
ray.shutdown()
"""
    try:
        execute(block(5, FOLDER), shared_spine.folder, before=before, after=after, environment=environment)
        shared_spine.settle()
        outer, said, losses = json.loads((shared_spine.folder / "said.json").read_text())
        assert len(said) == 2
        for trial, (config, where) in said.items():
            (working,) = folder.glob(f"ray/session_2*/artifacts/*/*/working_dirs/{where}")
            written = in_event_files(working)
            assert steps(written, "train_loss")
            assert losses[trial] == [value for _, value in written["val_loss"]]
            found = in_mlflow(shared_spine.database, f"{trial}-{outer}")
            logged = {name: points for name, points in found.items() if not name.startswith("optim/")}
            assert logged == written | {"ray/tune/loss": list(enumerate(losses[trial], 1))}
            assert found.keys() > logged.keys()  # its optimizer's
            assert config.keys() == {"lr", "hidden_dim", "batch_size"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- Production patterns


def test_export(cap: Captured, folder: Path) -> None:
    import onnx.reference

    model = digits.LitModel()
    with tracelet.start_logging(settings=TraceletSettings(capture_artifacts=("checkpoints", "exports"))):
        made = trainer()
        made.fit(model, digits.MyDataModule())
        made.save_checkpoint("best.ckpt")
        names = run_inside(block(6, FOLDER))
    images = digits.digits(1)[:][0]
    expected = model.eval()(images)
    assert torch.equal(torch.jit.load("model.pt")(images), expected)
    loaded = onnx.load("model.onnx")
    (output,) = onnx.reference.ReferenceEvaluator(loaded).run(None, {loaded.graph.input[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected)
    assert names["model"].hparams == model.hparams
    assert arrived(cap) == in_event_files(folder)
    exports = {"exports/model.pt", "exports/model.onnx", "exports/model.onnx.data"}
    assert cap.artifacts.keys() == exports | {"checkpoints/best.ckpt"}
    for path, artifact in cap.artifacts.items():
        assert artifact.content == Path(Path(path).name).read_bytes()


def test_inference(cap: Captured, folder: Path) -> None:
    given = block(7, FOLDER).text().partition("# Batch inference")[0]
    names = run_inside(block(7, FOLDER), given)

    class Model(names["LitModel"], digits.LitModel):  # type: ignore[misc, name-defined]
        """The block's method, and the rest."""

    names |= {"model": Model(), "test_loader": DataLoader(digits.digits(40), batch_size=20)}
    exec(part(7, "trainer.predict"), names)
    images = digits.digits(40)[:][0]
    assert torch.equal(torch.cat(names["predictions"]), names["model"].eval()(images))
    assert arrived(cap) == in_event_files(folder) == {"hp_metric": [(0, -1.0)]}


def same_as_without(number: int, folder: Path, **more: Any) -> Points:
    """Train a block's LitModel, and the one that it changes; returns what arrived of both, which is what they wrote."""
    written = []
    for source in (block(number, FOLDER), None):
        bases = (digits.LitModel,) if source is None else (run_inside(source)["LitModel"], digits.LitModel)

        class Model(*bases):  # type: ignore[misc]
            """The block's methods, and the rest."""

            def __init__(self) -> None:
                super().__init__()
                for name, value in more.items():
                    setattr(self, name, value(self))

            if number == 8:

                def forward(self, x: torch.Tensor) -> torch.Tensor:
                    return self.model(x)

        torch.manual_seed(0)
        with capture() as captured:
            trainer(default_root_dir=folder / str(len(written))).fit(Model(), digits.MyDataModule())
        written.append(in_event_files(folder / str(len(written))))
        assert arrived(captured) == written[-1]
        assert steps(written[-1], "train_loss") == [0, 1, 2, 3]
    assert written[0] == written[1]
    return written[0]


def test_compile(folder: Path) -> None:
    same_as_without(8, folder, model=lambda module: nn.Sequential(module.encoder, module.decoder))


def test_activation_checkpointing(folder: Path) -> None:
    same_as_without(9, folder)


# -- Memory optimization


def test_gradient_checkpointing(cap: Captured) -> None:
    from transformers import BertModel

    names = run_inside(block(10, FOLDER))
    model, plain = names["model"].train(), BertModel.from_pretrained("bert-base-uncased").train()
    assert model.is_gradient_checkpointing
    assert not plain.is_gradient_checkpointing
    found = []
    for each in (model, plain):
        torch.manual_seed(1)
        each(torch.arange(8)[None]).last_hidden_state.square().sum().backward()
        found.append([parameter.grad for parameter in each.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1]) > 20
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert cap.points() == []


def test_attention(cap: Captured) -> None:
    names = run_inside(block(11, FOLDER))
    scores = names["query"] @ names["key"].transpose(-1, -2) / 16**0.5
    scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(names["attn_output"], scores.softmax(-1) @ names["value"])
    assert cap.points() == []


# -- Fault tolerance


class _FailsOnce(digits.LitModel):
    failed = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 6 and not type(self).failed:
            type(self).failed = True
            raise RuntimeError("a node is gone")
        return super().training_step(batch, batch_idx)


def test_auto_resume(shared_spine: Spine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning has counted the batch that failed when it makes it again: there is no step 6, and twelve points in the end."""
    for name, value in shared_spine.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_FailsOnce, "failed", False)
    source = block(12, FOLDER)
    crashing = source.text().partition("# Resume after crash")[0]
    names = run_inside(source, crashing) | {
        "model": _FailsOnce(),
        "batches": DataLoader(digits.digits(60), batch_size=5),
    }
    with pytest.raises(RuntimeError, match="a node is gone"), tracelet.start_logging("resumed", project="lit") as run:
        names["trainer"].fit(names["model"], names["batches"])
    shared_spine.settle()
    assert shared_spine.tracked() == ["FAILED"]
    with tracelet.start_logging("resumed", project="lit", run_id=run.id, resume="must"):
        exec(source.text(), names)
    shared_spine.settle()
    assert shared_spine.tracked() == ["FINISHED"]
    found = in_mlflow(shared_spine.database)
    before, after = (in_event_files(folder / LOGS / f"version_{number}") for number in range(2))
    assert steps(before, "train_loss") + steps(after, "train_loss") == [*range(6), *range(7, 13)]
    assert found["train_loss"] == before["train_loss"] + after["train_loss"]
    assert found["epoch"] == before["epoch"] + after["epoch"]


def test_elastic(cap: Captured, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the only worker that torchrun started."""
    of_torchrun = {
        "TORCHELASTIC_RUN_ID": "elastic", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    for name, value in of_torchrun.items():
        monkeypatch.setenv(name, value)
    made = run_inside(block(13, FOLDER))["trainer"]
    made.fit_loop.max_epochs = 2
    made.fit(digits.LitModel(), digits.MyDataModule())
    assert type(made._accelerator_connector.cluster_environment).__name__ == "TorchElasticEnvironment"
    assert arrived(cap) == in_event_files(folder)
    assert steps(arrived(cap), "val_loss") == [1, 3]


# -- Custom training loops


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
def test_gan(package: str, cap: Captured, folder: Path) -> None:
    source = block(14, FOLDER)
    given = source.given.replace("import lightning as L", f"import {package} as L")
    names = run_inside(dataclasses.replace(source, given=given))

    class Gan(names["GAN"], digits.GanLosses):  # type: ignore[misc, name-defined]
        """The block's, with its two losses."""

    quiet = {**QUIET, "enable_checkpointing": False, "max_epochs": 3, "log_every_n_steps": 1}
    with tracelet.start_logging(settings=TraceletSettings(optimizer_every=1)):
        made = names["L"].Trainer(**quiet)
        made.fit(Gan(), DataLoader(digits.digits(40), batch_size=20))
    written = in_event_files(folder)
    assert arrived(cap) == written
    # As they were made: the generator's, the discriminator's. Each has its own loss, and counts its steps from 1.
    for optimizer, loss in (("generator.Adam", "g_loss"), ("discriminator.Adam", "d_loss")):
        measured = arrived(cap, f"optim/{optimizer}/")
        assert measured[f"optim/{optimizer}/loss"] == [(step + 1, value) for step, value in written[loss]]
        assert measured[f"optim/{optimizer}/lr/0"] == [(1, 1e-4)]
    assert steps(written, "g_loss") == steps(written, "d_loss") == list(range(6))
    assert made.global_step == 12  # of both optimizers


def test_schedulers(cap: Captured, folder: Path) -> None:
    configure = run_inside(block(15, FOLDER))["configure_optimizers"]
    used: list[list[float]] = []

    class Model(digits.LitModel):
        """Steps each of both optimizers, and each scheduler when it says."""

        configure_optimizers = configure

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            used.append([optimizer.param_groups[0]["lr"] for optimizer in self.optimizers()])
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
            for config in self.trainer.lr_scheduler_configs:
                if config.interval == "step" or self.trainer.is_last_batch:
                    config.scheduler.step()

    trainer(max_epochs=21, callbacks=[LearningRateMonitor("step")]).fit(Model(), digits.MyDataModule())
    found = arrived(cap)
    assert as_float32(found) == in_event_files(folder)
    for number, (name, rates) in enumerate(zip(("lr-Adam", "lr-Adam-1"), zip(*used, strict=True), strict=True)):
        assert found[name] == list(enumerate(rates))
        assert len(set(rates)) == (3, 42)[number]  # epochs 0-9, 10-19, 20; each step another
        # What is measured is a change, at the first step that has it; steps are counted from 1.
        changes = [(step + 1, rate) for step, rate in enumerate(rates) if step == 0 or rate != rates[step - 1]]
        part = ("encoder", "decoder")[number]
        assert arrived(cap, "optim/")[f"optim/{part}.Adam/lr/0"] == changes


# -- Testing patterns


def test_unit_tests(cap: Captured) -> None:
    names = run_inside(block(16, FOLDER))
    tests = [names[name] for name in names if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()
    assert (cap.points(), cap.media(), cap.params, cap.artifacts) == ([], [], {}, {})


def test_integration_tests(folder: Path) -> None:
    names = run_inside(block(17, FOLDER))
    with capture() as captured:
        names["test_overfitting"]()
    written = in_event_files(folder)
    assert arrived(captured) == written
    assert steps(written, "train_loss") == [49]
    assert written["train_loss"][0][1] < 0.01
    with capture() as captured:
        names["test_checkpointing"](folder / "checkpointing")
    assert arrived(captured) == in_event_files(folder / "checkpointing")


# -- Profiling


@pytest.mark.parametrize("which", ['"simple"', '"advanced"', "PyTorchProfiler"])
def test_profiling(which: str, cap: Captured, folder: Path) -> None:
    names = run_inside(
        block(18, FOLDER), part(18, which) + "\ntrainer = L.Trainer(profiler=profiler)" * ("Py" in which)
    )
    made = names["trainer"]
    made.fit_loop.max_epochs = 12
    tracelet.start_logging(settings=TraceletSettings(capture_artifacts=("profiles",)))
    # Without validation: torch 2.13's own profiler may crash when a trace spans steps of both.
    made.fit(digits.LitModel(), digits.MyDataModule().train_dataloader())
    tracelet.stop_logging()
    assert arrived(cap) == in_event_files(folder / LOGS)
    if "Py" in which:
        (trace,) = (folder / "log").glob("*.pt.trace.json")
        assert cap.artifacts[f"profiles/{trace.name}"].content == trace.read_bytes()
        assert "ProfilerStep#4" in {event["name"] for event in json.loads(trace.read_bytes())["traceEvents"]}


# -- Common integrations


def test_transformers(cap: Captured, folder: Path) -> None:
    names = run_inside(block(19, FOLDER))
    tokens = torch.randint(32, (8, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "attention_mask": torch.ones(8).long(), "labels": int(row[0] > 16)} for row in tokens]
    trainer().fit(names["LitTransformer"](), DataLoader(rows, batch_size=4))
    written = in_event_files(folder)
    assert arrived(cap) == written
    assert steps(written, "train_loss") == list(range(4))
    assert {name: cap.params[name] for name in ("model_name", "num_labels", "lr")} == {
        "model_name": "bert-base-uncased",
        "num_labels": 2,
        "lr": 2e-5,
    }


def finished(names: dict[str, Any]) -> Path:
    """The file of the block's run, which is over."""
    file = Path(names["wandb_logger"].experiment.settings.sync_file)
    names["wandb"].finish()
    names["wandb"].teardown()  # its process would write a second run's files where it was started
    return file


def test_wandb(cap: Captured) -> None:
    names = run_inside(block(20, FOLDER))
    made = names["trainer"]
    made.fit_loop.max_epochs = made.log_every_n_steps = 1
    made.fit(digits.LitModel(), digits.MyDataModule())
    file = finished(names)
    written = in_wandb(file)
    assert arrived(cap) == written
    assert (steps(written, "train_loss"), steps(written, "val_loss")) == ([0, 1], [1])
    own = [row["confusion_matrix_table._type"] for row in history(file) if "confusion_matrix_table._type" in row]
    assert own == ["table-file"]  # the script's own row is there, and W&B's alone
    assert cap.media() == []


def test_wandb_beside_other_loggers(cap: Captured, folder: Path) -> None:
    """Four loggers, of which each has what arrives once."""
    source = block(20, FOLDER)
    store = MlflowStore.fresh(folder)
    loggers = f"""logger=[
    wandb_logger, TensorBoardLogger("tb"), CSVLogger("csv"), MLFlowLogger("lit", tracking_uri={store.uri!r})
]"""
    given = source.given + "from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger\n"
    text = source.text()
    assert text.count("logger=wandb_logger") == 1
    names = run_inside(dataclasses.replace(source, given=given), text.replace("logger=wandb_logger", loggers))
    made = names["trainer"]
    made.fit_loop.max_epochs = made.log_every_n_steps = 1
    made.fit(digits.LitModel(), digits.MyDataModule())
    file = finished(names)
    (rows,) = folder.rglob("metrics.csv")
    found = arrived(cap)
    assert found == in_event_files(folder)
    assert found.pop("hp_metric") == [(0, -1.0)]  # TensorBoard's alone
    assert found == in_wandb(file) == in_csv(rows) == in_mlflow(folder / "mlflow.db")


# -- The table


def test_every_block_is_there_as_the_document_has_it() -> None:
    check_blocks(FOLDER, 20)


def test_every_block_has_a_test_that_exists_or_a_reason() -> None:
    check_tests(FOLDER, globals())
