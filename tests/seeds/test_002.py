"""Document 002, the PyTorch page: each of its code blocks runs as it is written, and MLflow has what it logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.seeds.blocks import FOLDER, Ran, check_blocks, check_tests, run
from tests.support.ports import free_port
from tests.support.spine import Spine

pytestmark = pytest.mark.timeout(400)

AT_A_USERS = {"TRACELET_RAISE_INTERNAL": ""}  # what fails inside of tracelet is swallowed
# Below block 6: data for eight steps of training, validated twice.
FITTING = """
import logging, warnings
warnings.simplefilter("ignore")
logging.getLogger(pl.__name__).setLevel(logging.ERROR)
from torch.utils.data import DataLoader, TensorDataset

def data():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(32, 1, 28, 28, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(10, (32,), generator=generator)), batch_size=4)

def fit(model, folder):
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer = pl.Trainer(
        max_epochs=1, log_every_n_steps=1, val_check_interval=4, num_sanity_val_steps=0, default_root_dir=folder, **quiet
    )
    trainer.fit(model, data(), data())
    return trainer
"""


def in_event_files(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values (float32 there) that TensorBoard's own files have."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return found


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """The blocks are about what arrives: a store of their own is enough."""
    return shared_spine


def same(points: list[tuple[int, float]], events: list[tuple[int, float]]) -> bool:
    """The points are those of the event file, as far as float32 goes."""
    return [step for step, _ in points] == [step for step, _ in events] and [value for _, value in points] == (
        pytest.approx([value for _, value in events], rel=1e-6)
    )


def the_run(ran: Ran) -> tuple[str, str, str]:
    """Name, MLflow experiment and status of the only run."""
    found = ran.store.run()
    return found["name"], found["experiment"], found["status"]


# -- Basic usage


def test_automatic_interception(spine: Spine) -> None:
    ran = run(1, spine)
    assert the_run(ran) == ("pytorch_auto_demo", "pytorch_examples", "FINISHED")
    assert ran.counts() == {"Loss/Train": 100, "Learning_Rate": 100}
    assert ran.points("Learning_Rate") == [(epoch, 0.01) for epoch in range(100)]
    losses = ran.points("Loss/Train")
    assert [step for step, _ in losses] == list(range(100))
    assert same(losses, in_event_files(ran.folder)["Loss/Train"])


def test_manual_initialization(spine: Spine) -> None:
    ran = run(
        2,
        spine,
        after="""
assert type(pytorch_framework) is PyTorchFramework and pytorch_framework is not framework
assert exp._frameworks["pytorch"] is framework
framework.log_metric("by hand", 0.25, 3)
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter() as writer:
    writer.add_scalar("loss", 0.5, 3)
""",
    )
    assert the_run(ran) == ("manual_pytorch", "framework_demo", "FINISHED")
    assert ran.counts() == {"by hand": 1, "loss": 1}  # two frameworks, and each point once
    assert (ran.points("by hand"), ran.points("loss")) == ([(3, 0.25)], [(3, 0.5)])


# -- Advanced features


def test_enhanced_metrics(spine: Spine) -> None:
    ran = run(3, spine)
    assert the_run(ran) == ("enhanced_metrics", "advanced_pytorch", "FINISHED")
    assert ran.counts() == {"validation_accuracy": 1, "training_loss": 1}
    assert ran.points("validation_accuracy") == [(100, 0.95)]
    assert ran.points("training_loss") == [(100, 0.1)]
    tags = ran.store.tags()
    assert tags["tracelet.metric.validation_accuracy.type"] == "accuracy"
    assert tags["tracelet.metric.training_loss.type"] == "loss"
    assert json.loads(tags["tracelet.metric.validation_accuracy.metadata"]) == {
        "dataset": "validation",
        "model_checkpoint": "epoch_100",
        "data_split": "val",
    }
    assert json.loads(tags["tracelet.metric.training_loss.metadata"])["optimizer"] == "adam"
    numbers = {point.key: (point.step, point.value) for point in ran.store.all_points() if ".meta/" in point.key}
    assert numbers == {
        "training_loss.meta/learning_rate": (100, 0.001),
        "training_loss.meta/batch_size": (100, 32.0),
    }


def test_multi_writer(spine: Spine) -> None:
    ran = run(4, spine)
    assert the_run(ran) == ("multi_writer", "tensorboard_demo", "FINISHED")
    some = range(0, 50, 5)
    assert {key: ran.points(key) for key in ran.counts()} == {
        "train/Loss": [(epoch, 1.0 / (epoch + 1)) for epoch in range(50)],
        "train/Accuracy": [(epoch, min(0.9, epoch * 0.02)) for epoch in range(50)],
        "validation/Loss": [(epoch, 1.0 / (epoch + 1) * 1.1) for epoch in some],
        "validation/Accuracy": [(epoch, min(0.85, epoch * 0.018)) for epoch in some],
    }


def test_custom_processing(spine: Spine) -> None:
    ran = run(5, spine)
    assert the_run(ran) == ("custom_processing", "advanced_features", "FINISHED")
    assert ran.counts() == {"train_loss": 100, "train_loss_smoothed": 96}
    losses = ran.points("train_loss")
    assert [step for step, _ in losses] == list(range(100))
    assert same(losses, in_event_files(ran.folder)["train_loss"])
    values = [value for _, value in losses]
    assert ran.points("train_loss_smoothed") == [(at, sum(values[at - 4 : at + 1]) / 5) for at in range(4, 100)]


# -- Integration patterns


def test_lightning(spine: Spine) -> None:
    """Each point once, in the right run: also of the module's copies, and of one that is built again."""
    ran = run(
        6,
        spine,
        after=FITTING
        + """
import copy, json, pickle

plain = LightningModelWithTracelet()
fit(plain, "plain")
assert tracelet.get_active_experiment() is None

model = LightningModelWithTracelet()
copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
torch.save(model, "model.pt")
saved = torch.load("model.pt", weights_only=False)
assert model.experiment is copied.experiment is pickled.experiment is saved.experiment
fit(copied, "copied").save_checkpoint("model.ckpt")

loaded = LightningModelWithTracelet.load_from_checkpoint("model.ckpt")
fit(loaded, "loaded")

built, again = LightningModelWithTracelet(), LightningModelWithTracelet()
assert tracelet.get_active_experiment() is again.experiment
fit(built, "again")  # its own run was ended by the other's beginning
modules = {"plain": plain, "copied": model, "loaded": loaded, "built": built, "again": again}
with open("runs.json", "w") as file:
    json.dump({folder: module.experiment.id for folder, module in modules.items()}, file)
""",
    )
    runs = json.loads((ran.folder / "runs.json").read_text())
    found = [(each["name"], each["experiment"], each["status"]) for each in ran.store.runs()]
    assert found == [("lightning_integration", "pytorch_lightning", "FINISHED")] * 5
    assert len(set(runs.values())) == 5
    for folder, run_id in runs.items():
        written = in_event_files(ran.folder / folder)
        steps = {"train_loss": 8, "val_loss": 2, "epoch": 10} if folder != "built" else {}
        assert {tag: len(points) for tag, points in written.items() if tag in ran.counts()} == steps
        for tag in ran.counts():
            assert same(ran.points_of(run_id, tag), sorted(written.get(tag, []))), (folder, tag)
    assert ran.counts() == {"train_loss": 32, "val_loss": 8, "epoch": 40}


def test_distributed(spine: Spine) -> None:
    port = free_port()
    ran = run(7, spine, environment={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
    assert the_run(ran) == ("distributed_training", "multi_gpu", "FINISHED")
    assert ran.counts() == {"train_loss": 100}
    points = ran.points("train_loss")
    assert [step for step, _ in points] == list(range(100))
    assert same(points, in_event_files(ran.folder)["train_loss"])


# -- Configuration options


def test_settings(spine: Spine) -> None:
    ran = run(8, spine, after='assert "pytorch" in tracelet.get_active_experiment()._frameworks')
    assert the_run(ran) == ("configured_pytorch", "pytorch_config", "FINISHED")


def test_patch_control(spine: Spine) -> None:
    ran = run(
        9,
        spine,
        after="""
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter() as writer:
    writer.add_scalar("not captured", 1.0, 1)
""",
    )
    assert the_run(ran) == ("manual_only", "no_tensorboard", "FINISHED")
    assert ran.counts() == {"manual_metric": 1}
    assert ran.points("manual_metric") == [(1, 0.5)]
    assert in_event_files(ran.folder) == {"not captured": [(1, 1.0)]}


# -- Error handling


def test_import_issues(spine: Spine) -> None:
    """The writer is imported after the run began, and captured all the same."""
    ran = run(10, spine, after='writer.add_scalar("loss", 0.5, 0)\nwriter.close()')
    assert the_run(ran) == ("safe_tensorboard", "error_handling", "FINISHED")
    assert (ran.stdout, ran.counts(), ran.points("loss")) == ("", {"loss": 1}, [(0, 0.5)])


def test_import_issues_without_torch(spine: Spine) -> None:
    ran = run(10, spine, before='import sys\nsys.modules["torch"] = None')
    assert the_run(ran) == ("safe_tensorboard", "error_handling", "FINISHED")
    assert ran.stdout.startswith("TensorBoard not available: ")
    assert (ran.counts(), ran.points("fallback_metric")) == ({"fallback_metric": 1}, [(0, 1.0)])


def test_initialization_errors(spine: Spine) -> None:
    ran = run(11, spine)
    assert the_run(ran) == ("framework_error_test", "error_handling", "FINISHED")
    assert (ran.stdout, ran.counts()) == ("", {})


def test_initialization_errors_when_it_fails(spine: Spine) -> None:
    """A SummaryWriter that cannot be intercepted costs one line; the run goes on, and has its framework."""
    ran = run(
        11,
        spine,
        before="import sys, types\nsys.modules['torch.utils.tensorboard.writer'] = types.ModuleType('without a SummaryWriter')",
        after='exp._frameworks["pytorch"].log_metric("basic_metric", 1.0, 0)',
        environment=AT_A_USERS,
    )
    assert the_run(ran) == ("framework_error_test", "error_handling", "FINISHED")
    assert ran.stdout == ""
    assert ran.stderr.count("intercepting pytorch") == 1
    assert ran.points("basic_metric") == [(0, 1.0)]


# -- Best practices


def test_naming(spine: Spine) -> None:
    ran = run(12, spine)
    assert {key: ran.points(key) for key in ran.counts()} == {
        "train/loss": [(7, 0.3)],
        "train/accuracy": [(7, 0.9)],
        "val/loss": [(7, 0.4)],
        "val/accuracy": [(7, 0.8)],
        "lr/learning_rate": [(7, 1e-3)],
        "gpu/memory_usage": [(7, 512.0)],
    }


def test_resource_management(spine: Spine) -> None:
    ran = run(13, spine)
    assert the_run(ran) == ("resource_managed", "best_practices", "FINISHED")
    assert ran.counts() == {}


def test_log_interval(spine: Spine) -> None:
    ran = run(14, spine)
    assert the_run(ran) == ("optimized_logging", "performance", "FINISHED")
    expected = [(epoch, 1.0 / (epoch + 1)) for epoch in range(0, 1000, 10)]
    assert {key: ran.points(key) for key in ran.counts()} == {
        "train_loss": expected,
        "avg_loss_10_epochs": expected,
    }


# -- The table


def test_every_block_is_there_as_the_document_has_it() -> None:
    check_blocks(FOLDER, 14)


def test_every_block_has_a_test_that_exists_or_a_reason() -> None:
    check_tests(FOLDER, globals())
