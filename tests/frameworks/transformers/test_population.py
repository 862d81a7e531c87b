"""`PopulationTrainer`: population optimizers in Transformers' loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import Trainer, TrainerCallback

import tracelet
from tests.frameworks.transformers.training import arrived, history, model, rows, trainer
from tracelet import testing
from tracelet.frameworks import table
from tracelet.frameworks.transformers import PopulationTrainer
from tracelet.optim import AdaptiveBFO, HybridBFO, PopulationOptimizer
from tracelet.settings import TraceletSettings

ROUNDED = 1e-6 if transformers.__version__ >= "5" else 1e-4  # before, Trainer logged four digits


def search(kind: type[PopulationOptimizer]) -> dict[str, Any]:
    """Its settings: as few bacteria as there may be."""
    return {"population_size": 8 if kind is AdaptiveBFO else 2, "seed": 0}


def loss_of(ran: Trainer, batch: list[dict[str, Any]]) -> float:
    inputs = {"input_ids": torch.stack([each["input_ids"] for each in batch])}
    with torch.no_grad():
        said = ran.model(**inputs, labels=torch.tensor([each["labels"] for each in batch]))
    return float(said.loss)


def searching(ran: Trainer) -> PopulationOptimizer:
    found = ran.optimizer.optimizer  # accelerate's wrapper has it
    assert isinstance(found, PopulationOptimizer)
    return found


@pytest.mark.parametrize(("kind", "given"), [(AdaptiveBFO, "class"), (HybridBFO, "class"), (HybridBFO, "object")])
def test_it_searches(cap: testing.Captured, kind: type[PopulationOptimizer], given: str) -> None:
    made = model()
    how: dict[str, Any] = (
        {"optimizer_cls_and_kwargs": (kind, search(kind))}
        if given == "class"
        else {"optimizers": (kind(made.parameters(), **search(kind)), None)}
    )
    whole = {"per_device_train_batch_size": 32, "max_steps": 3, "lr_scheduler_type": "constant"}
    with tracelet.start_logging():
        ran = trainer(PopulationTrainer, model=made, **whole, **how)
        before = loss_of(ran, rows())
        ran.train()
    losses = [logs["loss"] for logs in ran.state.log_history if "loss" in logs]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(before, abs=ROUNDED)  # that of the model before the step
    after = loss_of(ran, rows())
    assert searching(ran).best_fitness == pytest.approx(after, rel=1e-5)
    assert after < before
    assert losses[-1] < losses[0]
    assert not any("grad_norm" in logs for logs in ran.state.log_history)
    assert arrived(cap) == history(ran)
    assert searching(ran).evaluations > 3 * 2


def counted(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """A loss that is a sum over the rows, divided by how many the whole batch has."""
    total = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


@pytest.mark.parametrize(("kind", "loss"), [(AdaptiveBFO, counted), (HybridBFO, counted), (HybridBFO, None)])
def test_it_judges_all_micro_batches(kind: type[PopulationOptimizer], loss: Any) -> None:
    """Four micro-batches of eight are one batch of thirty-two."""

    def ran(**sizes: int) -> Trainer:
        made = model()
        if loss is None:
            made.accepts_loss_kwargs = False  # it takes any keyword, and does not count by what Transformers gives it
        how = {"optimizer_cls_and_kwargs": (kind, search(kind)), "max_steps": 2, "compute_loss_func": loss}
        it = trainer(PopulationTrainer, model=made, **how, **sizes)
        it.train()
        return it

    whole, parts = ran(per_device_train_batch_size=32), ran(gradient_accumulation_steps=4)
    for one, other in zip(whole.state.log_history, parts.state.log_history, strict=True):
        for name in {"loss", "train_loss"} & one.keys():
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    assert searching(whole).best_fitness == pytest.approx(searching(parts).best_fitness, rel=1e-4)
    assert searching(whole).evaluations == searching(parts).evaluations


def test_other_optimizers_train_as_ever() -> None:
    ran = [trainer(kind, gradient_accumulation_steps=2) for kind in (Trainer, PopulationTrainer)]
    for each in ran:
        each.train()
    one, other = ([logs.get("loss") for logs in each.state.log_history] for each in ran)
    assert one == other
    assert all("grad_norm" in logs for logs in ran[1].state.log_history[:4])


def test_mixed_precision() -> None:
    kinds: set[torch.dtype] = set()
    made = model()
    made.classifier.register_forward_hook(lambda *said: kinds.add(said[-1].dtype))
    ran = trainer(PopulationTrainer, model=made, bf16=True, optimizer_cls_and_kwargs=(HybridBFO, search(HybridBFO)))
    ran.train()
    assert kinds == {torch.bfloat16}
    assert torch.isfinite(torch.tensor(searching(ran).best_fitness))


def test_gradients_that_would_be_scaled() -> None:
    ran = trainer(PopulationTrainer, optimizer_cls_and_kwargs=(HybridBFO, search(HybridBFO)))
    ran.accelerator.scaler = torch.amp.GradScaler("cpu")  # as `fp16` has one, on a GPU
    with pytest.raises(ValueError, match="HybridBFO has no gradients that fp16 could scale"):
        ran.train()


def test_labels_that_the_loss_takes_out_of_the_inputs() -> None:
    for more in ({"label_smoothing_factor": 0.1}, {"compute_loss_func": _loss}):
        ran = trainer(
            PopulationTrainer, optimizer_cls_and_kwargs=(AdaptiveBFO, search(AdaptiveBFO)), max_steps=1, **more
        )
        ran.train()
        assert searching(ran).evaluations > 8


def _loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs["logits"], labels)


def test_gradients_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    gradient = HybridBFO._absorb

    def absorbing(search: HybridBFO, points: Any, fitness: Any, gradients: Any) -> bool:
        if gradients is not None:
            norms.extend(gradients.norm(dim=1).tolist())
        return gradient(search, points, fitness, gradients)

    monkeypatch.setattr(HybridBFO, "_absorb", absorbing)
    how = {"optimizer_cls_and_kwargs": (HybridBFO, search(HybridBFO)), "max_steps": 2}
    trainer(PopulationTrainer, max_grad_norm=0.01, **how).train()
    assert max(norms) <= 0.01 * (1 + 1e-4)
    norms.clear()
    trainer(PopulationTrainer, max_grad_norm=0.0, **how).train()
    assert max(norms) > 0.1


def test_a_search_that_resumes_is_the_same() -> None:
    how = {"optimizer_cls_and_kwargs": (HybridBFO, search(HybridBFO)), "lr_scheduler_type": "constant"}
    whole = trainer(PopulationTrainer, save_strategy="steps", save_steps=2, **how)
    whole.train()
    again = trainer(PopulationTrainer, **how)
    again.train(resume_from_checkpoint="out/checkpoint-2")
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.state.log_history[3]["loss"] == again.state.log_history[3]["loss"]


def test_a_training_after_one_that_was_interrupted_in_a_step() -> None:
    class Interrupting(TrainerCallback):
        def on_substep_end(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    how = {"optimizer_cls_and_kwargs": (AdaptiveBFO, search(AdaptiveBFO)), "gradient_accumulation_steps": 2}
    ran = trainer(PopulationTrainer, callbacks=[Interrupting()], max_steps=1, **how)
    with pytest.raises(KeyboardInterrupt):
        ran.train()
    ran.remove_callback(Interrupting)
    ran.train()
    fresh = trainer(PopulationTrainer, max_steps=1, **how)
    fresh.train()
    assert searching(ran).best_fitness == searching(fresh).best_fitness


def test_what_the_search_tells(cap: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("tracelet.frameworks.optimizers", "OptimizersFramework")
    monkeypatch.setattr(table, "FRAMEWORKS", {**table.FRAMEWORKS, "optimizers": where})
    with tracelet.start_logging(settings=TraceletSettings(optimizer_histogram_every=0)):
        ran = trainer(
            PopulationTrainer,
            optimizer_cls_and_kwargs=(AdaptiveBFO, search(AdaptiveBFO)),
            gradient_accumulation_steps=2,
            max_steps=2,
        )
        ran.train()
    fitness = cap.points("optim/AdaptiveBFO/best_fitness")
    assert [point.step for point in fitness] == [1, 2]
    assert fitness[-1].value == searching(ran).best_fitness
    assert arrived(cap) == history(ran)
