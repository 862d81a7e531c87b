"""What a Trainer logs arrives once, whatever it reports to, number for number as in its `log_history`."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import tracelet
from tests.frameworks.lightning.training import events
from tests.frameworks.transformers.training import arguments, arrived, history, model, rows, trainer
from tracelet import testing
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.frameworks import table
from tracelet.provenance.arguments import listen
from tracelet.settings import TraceletSettings


@pytest.mark.parametrize(
    "report_to",
    [["none"], ["tensorboard"], ["tracelet"], ["tensorboard", "tracelet"], ["tracelet", "tensorboard"]],
    ids="+".join,
)
def test_each_value_once(cap: testing.Captured, report_to: list[str]) -> None:
    with tracelet.start_logging():
        ran = trainer(report_to=report_to, eval_strategy="steps", eval_steps=2)
        ran.train()
        ran.evaluate()
        predicted = ran.predict(rows(8))
    expected = history(ran, predicted.metrics)
    assert arrived(cap) == expected
    assert {"train/loss", "train/grad_norm", "train/train_runtime", "eval/loss", "test/loss"} <= set(cap.names)
    assert [point.step for point in cap.points("eval/loss")] == [2, 4, 4]
    if "tensorboard" in report_to:  # which has nothing of predictions
        logged = [(name, pytest.approx(value, rel=1e-6), step) for name, value, step in history(ran)]
        assert sorted((name, step) for name, _, step in events("out")) == sorted(
            (name, step) for name, _, step in logged
        )
    assert (cap.runs[0].status, len(cap.runs)) == (RunStatus.FINISHED, 1)


def test_only_evaluated(cap: testing.Captured) -> None:
    with tracelet.start_logging():
        ran = trainer(eval_dataset={"one": rows(8), "two": rows(4)})
        ran.evaluate()
        ran.evaluate(rows(4), metric_key_prefix="test")
    assert arrived(cap) == history(ran)
    assert {"eval/one_loss", "eval/two_loss", "test/loss"} <= set(cap.names)
    assert {point.step for point in cap.points()} == {0}
    assert cap.params["model/n_layers"] == 1


def test_a_subclass_and_its_own_logs(cap: testing.Captured) -> None:
    class Own(Seq2SeqTrainer):
        def compute_loss(self, model: Any, inputs: Any, **given: Any) -> Any:
            loss = super().compute_loss(model, inputs, **given)
            if model.training and self.state.global_step == 1:
                self.log({"margin": torch.tensor(0.25), "note": "halfway", "table": [1, 2]})
            return loss

    with tracelet.start_logging():
        ran = Own(
            model=model(),
            args=Seq2SeqTrainingArguments(**{**_said(arguments()), "max_steps": 2}),
            train_dataset=rows(),
            eval_dataset=rows(8),
        )
        ran.train()
        ran.evaluate()
    found = arrived(cap)
    assert ("train/margin", 0.25, 1) in found
    assert {name for name, _, _ in found} >= {"train/loss", "eval/loss"}
    assert not any(name.startswith("train/table") for name, _, _ in found)
    (note,) = cap.media("train/note")
    assert (note.content, note.step) == (b"halfway", 1)


def _said(args: Any) -> dict[str, Any]:
    names = ("output_dir", "report_to", "logging_steps", "per_device_train_batch_size", "save_strategy", "use_cpu")
    return {"disable_tqdm": True, **{name: getattr(args, name) for name in names}}


def test_a_loss_that_is_no_number(cap: testing.Captured) -> None:
    def nothing(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return outputs["logits"].sum() * float("nan")

    with tracelet.start_logging():
        trainer(compute_loss_func=nothing, logging_nan_inf_filter=False, report_to=["tensorboard"]).train()
    assert [math.isnan(point.value) for point in cap.points("train/loss")] == [True] * 4


class Counting(TrainerCallback):
    """Does something when the Trainer has made some steps."""

    def __init__(self, steps: int, error: BaseException) -> None:
        self.steps = steps
        self.error = error

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.steps:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("enough"), RunStatus.FAILED), (KeyboardInterrupt(), RunStatus.KILLED)],
    ids=["error", "interrupt"],
)
def test_a_training_that_breaks_off(cap: testing.Captured, error: BaseException, status: RunStatus) -> None:
    ran = trainer(callbacks=[Counting(2, error)])
    with pytest.raises(type(error)), tracelet.start_logging():
        ran.train()
    assert arrived(cap) == history(ran)
    assert [point.step for point in cap.points("train/loss")] == [1, 2]
    assert cap.status is status


def test_a_callback_that_fails(cap: testing.Captured) -> None:
    class Failing(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            raise ValueError("the disk is full")

    with tracelet.start_logging():
        ran = trainer(callbacks=[Failing()])
        with pytest.raises(ValueError, match="the disk is full"):
            ran.train()
    assert arrived(cap) == history(ran)
    assert cap.names[0] == "train/loss"


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_a_callback_that_writes_and_takes_away(cap: testing.Captured, report_to: str) -> None:
    """Another value or another step under the same name, in a SummaryWriter of the script's own, is another point."""

    class Own(TrainerCallback):
        def __init__(self) -> None:
            self.writer = SummaryWriter("own")

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                self.writer.add_scalar("train/loss", logs["loss"] / 2, state.global_step)
                self.writer.add_scalar("train/learning_rate", logs["learning_rate"], state.global_step)
                self.writer.add_scalar("train/grad_norm", logs["grad_norm"], 10 * state.global_step)
                self.writer.add_scalar("more", 1.0, state.global_step)
            logs.clear()

    with tracelet.start_logging():
        ran = trainer(report_to=report_to, callbacks=[Own()])
        ran.train()
    logged = [logs for logs in ran.state.log_history if "loss" in logs]
    own = [("train/loss", logs["loss"] / 2, logs["step"]) for logs in logged]
    own += [("train/grad_norm", logs["grad_norm"], 10 * logs["step"]) for logs in logged]
    own += [("more", 1.0, logs["step"]) for logs in logged]
    bare = re.compile(r"^(own|runs)/|~\w+$")  # without the labels of SummaryWriters, and what keeps names apart
    found = [(bare.sub("", name), value, step) for name, value, step in arrived(cap)]
    assert sorted(found) == sorted([*history(ran), *own])
    if report_to == "none":
        assert set(history(ran)) <= set(arrived(cap))  # its names are Transformers' own


def test_early_stopping_and_the_best_model(cap: testing.Captured) -> None:
    with tracelet.start_logging():
        ran = trainer(
            callbacks=[EarlyStoppingCallback(1, early_stopping_threshold=10.0)],
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            disable_tqdm=False,
        )
        ran.train()
    assert ran.state.global_step == 2
    assert arrived(cap) == history(ran)


def test_two_trainers(cap: testing.Captured) -> None:
    with tracelet.start_logging() as first:
        one = trainer(report_to=["tensorboard"])
        one.train()
    with tracelet.start_logging() as second:
        two = trainer(max_steps=2)
        two.train()
    one.evaluate()  # after the end
    assert arrived(cap, first) == history(one)[: len(arrived(cap, first))]
    assert arrived(cap, second) == history(two)
    assert len(cap.points()) == len(arrived(cap, first)) + len(arrived(cap, second))
    assert ("eval/loss") not in cap.names


def test_two_runs_by_hand(cap: testing.Captured) -> None:
    """Started and stopped twice, beside a Trainer that goes on."""
    ran = trainer()
    with active.muted():
        ran.train()
    assert not cap.points()
    for steps in (1, 2):
        run = tracelet.start_logging()
        ran.args.max_steps = steps
        ran.train()
        tracelet.stop_logging()
        tracelet.stop_logging()
        assert arrived(cap, run) == history(ran)


def test_other_processes_record_nothing(cap: testing.Captured) -> None:
    class Second(Trainer):
        def is_world_process_zero(self) -> bool:
            return False

    with tracelet.start_logging():
        trainer(Second, report_to=["tensorboard", "tracelet"]).train()
    assert not cap.points()
    assert not cap.params


@pytest.mark.parametrize("report_to", [["none"], ["tracelet"]], ids="+".join)
def test_without_capture(cap: testing.Captured, report_to: list[str]) -> None:
    settings = TraceletSettings(transformers={"capture": False})  # type: ignore[arg-type]
    with tracelet.start_logging(settings=settings):
        ran = trainer(report_to=report_to)
        ran.train()
    assert arrived(cap) == (history(ran) if report_to == ["tracelet"] else [])


def test_disabled(alone: testing.Captured) -> None:
    run = tracelet.start_logging(mode="disabled")
    ran = trainer(report_to=["tracelet"])
    ran.train()
    tracelet.stop_logging()
    assert not run.active
    assert not alone.runs
    assert not alone.points()


def test_parameters(cap: testing.Captured) -> None:
    class More(type(arguments())):  # type: ignore[misc]
        """Arguments of the script's own."""

    with tracelet.start_logging():
        ran = trainer(learning_rate=0.01, hub_token="hf_averysecretword", lr_scheduler_type="cosine", max_steps=1)
        ran.train()
        ran.train()
        ran.args.learning_rate = 0.02
        ran.train()
    assert cap.params["learning_rate"] == 0.02
    assert cap.params["lr_scheduler_type"] == "cosine"
    assert cap.params["seed"] == 42
    assert "averysecretword" not in str(cap.params)
    assert "hub_token" in cap.params
    assert "adam_beta1" not in cap.params  # as it is by default
    assert "accelerator_config/even_batches" not in cap.params
    size = sum(each.numel() for each in ran.model.parameters())
    assert cap.params["model/num_parameters"] == cap.params["model/num_trainable_parameters"] == size
    of_model = {name: value for name, value in cap.params.items() if name.startswith("model/")}
    assert of_model.items() >= {"model/dim": 8, "model/vocab_size": 32, "model/model_type": "distilbert"}.items()
    assert of_model["model/class"] == "DistilBertForSequenceClassification"
    assert len(cap.params) < 50
    assert "report_to" not in cap.params
    assert "model/output_attentions" not in of_model  # any model's configuration has it
    assert not any("id2label" in name or "version" in name for name in of_model)


def test_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the many arguments that Transformers' parser knows, those that were said, and the script's own."""

    @dataclass
    class Data:
        rows: int = 8
        seed_of_rows: int = 0

    line = ["--output_dir", "out", "--learning_rate", "0.01", "--rows", "16", "--use_cpu"]
    monkeypatch.setattr(sys, "argv", ["train.py", *line])
    found: dict[str, Any] = {}
    end = listen(found.update)
    try:
        args, data = HfArgumentParser((TrainingArguments, Data)).parse_args_into_dataclasses()
    finally:
        end()
    assert (args.learning_rate, data.rows) == (0.01, 16)
    said = {"output_dir": "out", "learning_rate": 0.01, "rows": 16, "seed_of_rows": 0, "use_cpu": True}
    assert found.items() >= said.items()
    assert len(found) < 8  # its own defaults are not always what its parser makes of them


def test_checkpoints(cap: testing.Captured) -> None:
    settings = TraceletSettings(capture_artifacts={"checkpoints"}, transformers={"capture": False})  # type: ignore[arg-type]
    with tracelet.start_logging(settings=settings):
        trainer(save_strategy="steps", save_steps=2, save_total_limit=1).train()
    kept = {Path(path).parts[1] for path in cap.artifacts}
    assert kept == {"checkpoint-2", "checkpoint-4"}
    assert "checkpoints/checkpoint-2/trainer_state.json" in cap.artifacts
    assert not cap.points()


def test_optimizers_are_counted_once(
    cap: testing.Captured, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    where = ("tracelet.frameworks.optimizers", "OptimizersFramework")
    monkeypatch.setattr(table, "FRAMEWORKS", {**table.FRAMEWORKS, "optimizers": where})
    with tracelet.start_logging(settings=TraceletSettings(optimizer_every=1)):
        ran = trainer(gradient_accumulation_steps=2, per_device_train_batch_size=4)
        ran.train()
    assert arrived(cap) == history(ran)
    assert [point.step for point in cap.points("optim/AdamW/loss")] == [1, 2, 3, 4]
    norms = [logs["grad_norm"] for logs in ran.state.log_history if "grad_norm" in logs]
    assert [point.value for point in cap.points("optim/AdamW/grad_norm")] == norms


def test_a_search_for_hyperparameters(cap: testing.Captured) -> None:
    """Each trial has a run within the one that searches, and what it trains with is there."""
    with tracelet.start_logging() as run:
        _searching(["tracelet"])
    around, *trials = cap.runs
    assert around is run
    assert [trial.name for trial in trials] == ["trial-0", "trial-1"]
    assert {each.status for each in cap.runs} == {RunStatus.FINISHED}
    assert [len(cap.points("eval/loss", run=trial)) for trial in trials] == [2, 2]
    assert cap.points("eval/loss", run=run) == []


def test_a_search_in_which_each_trial_begins_a_run(alone: testing.Captured) -> None:
    """Also one that is pruned: an exception leaves its training, and is no failure."""
    _searching(["tracelet"], prune=1)
    assert len({run.id for run in alone.runs}) == 2
    assert [run.status for run in alone.runs] == [RunStatus.FINISHED] * 2
    assert [len(alone.points("eval/loss", run)) for run in alone.runs] == [2, 1]


def _searching(report_to: list[str], prune: int | None = None) -> Trainer:
    """Two trials; the one of that number is pruned by its first evaluation."""
    import optuna

    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number == prune)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ran = trainer(
        model=None, model_init=lambda _: model(), report_to=report_to, eval_strategy="steps", eval_steps=1, max_steps=2
    )
    ran.hyperparameter_search(
        backend="optuna",
        n_trials=2,
        pruner=Pruner(),
        direction="minimize",
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
    )
    return ran


LATER = """
import os, sys
import tracelet
from tracelet import testing

with testing.capture() as cap:
    tracelet.start_logging()
    assert "transformers" not in sys.modules
    os.environ["HF_HUB_OFFLINE"] = "1"
    from tests.frameworks.transformers.training import arrived, history, trainer

    ran = trainer(report_to="tracelet")
    ran.train()
    assert arrived(cap) == history(ran), arrived(cap)
    tracelet.stop_logging()
    again = trainer(report_to="tracelet", max_steps=1)
    again.train()
    assert len(cap.runs) == 2
    assert arrived(cap, cap.runs[1]) == history(again)
print("as it should be")
"""


def test_it_is_imported_later(tmp_path: Path) -> None:
    """Nothing of tracelet's is imported for the name that the script uses."""
    script = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\n{LATER}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "as it should be"
