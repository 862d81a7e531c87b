"""Optimizers of other libraries' loops, of several processes, and of processes that were forked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.support import runs
from tests.support.optimizing import found, parameter, series
from tests.support.spool_points import streams


def test_accelerate_counts_for_the_optimizer_inside(home: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    with runs.running(home, optimizer_every=1) as run:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = nn.Linear(2, 1)
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
        norms = []
        for _ in range(4):
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.ones(3, 2)).square().mean())
                if accelerator.sync_gradients:
                    norms.append(accelerator.clip_grad_norm_(model.parameters(), 0.5).item())
                optimizer.step()
                optimizer.zero_grad()
        assert run._frameworks["optimizers"].updates == {"AdamW": 2}
    by_name = found(home)
    assert [point.metadata for point in by_name["optim/AdamW/loss"]] == [{"backward_calls": 2}] * 2
    assert [point.value for point in by_name["optim/AdamW/grad_norm"]] == norms


def test_a_ddp_model_of_one_process(home: Path, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with runs.running(home, optimizer_every=1):
            model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            losses = []
            for _ in range(3):
                sgd.zero_grad()
                with model.no_sync():
                    model(torch.ones(3, 2)).square().mean().backward()
                loss = model(torch.zeros(3, 2)).square().mean()
                loss.backward()
                losses.append(loss.item())
                sgd.step()
            del model
    finally:
        torch.distributed.destroy_process_group()
    assert [(point.value, point.metadata) for point in found(home)["optim/SGD/loss"]] == [
        (loss, {"backward_calls": 2}) for loss in losses
    ]


class Numbers(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3,), float(index))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_workers_of_a_loader_record_nothing(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        weight = parameter()
        sgd = torch.optim.SGD([weight], lr=0.0)
        for batch in DataLoader(Numbers(), batch_size=2, num_workers=1, multiprocessing_context="fork"):
            (weight * batch).sum().backward()
            sgd.step()
    assert len(streams(home)) == 1
    assert [step for step, _ in series(home)["optim/SGD/loss"]] == [1, 2]


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_that_trains_counts_on_from_where_it_was_forked(home: Path) -> None:
    weight = parameter()
    with runs.running(home, optimizer_every=1):
        sgd = torch.optim.SGD([weight], lr=0.0)
        weight.sum().backward()
        sgd.step()
        if (child := os.fork()) == 0:
            status = 1
            try:
                (2 * weight).sum().backward()
                sgd.step()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(series(home)["optim/SGD/loss"]) == [(1, -0.5), (2, -1.0)]
