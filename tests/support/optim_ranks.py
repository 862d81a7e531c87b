"""What the ranks of sharded searches do: `python optim_ranks.py FOLDER` forks those of each world; torch is imported once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # what the first step of an optimizer imports: once for all ranks
import torch.distributed as dist
from torch import nn

from tracelet import optim

WORLDS = (2, 3)
ALGORITHMS = ("BFO", "AdaptiveBFO", "HybridBFO")
KINDS = ("population", "data")


def search(rank: int, world: int, kind: str | None, algorithm: str) -> dict[str, object]:
    torch.manual_seed(0)
    data = torch.randn(12, 3)
    model = nn.Linear(3, 2)
    if kind == "data":  # parts of equal size: the mean of their means is the mean
        data = data.chunk(world)[rank]
    torch.manual_seed(rank)  # nothing may depend on the global generator
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = (model(data) - 1).square().mean()
        loss.backward()
        return loss

    optimizer = getattr(optim, algorithm)(
        model.parameters(),
        population_size=9,
        swim_length=2,
        seed=None if kind and world > 1 else 5,
        shard=kind if world > 1 else None,
    )
    if kind is not None and world > 1:
        optimizer._seed = 5 + rank  # rank 0's is taken
    for _ in range(20):
        optimizer.step(closure)
    return {
        "population": optimizer.population,
        "best": optimizer.best_params,
        "fitness": optimizer.best_fitness,
        "evaluations": optimizer.evaluations,
        "calls": calls,
    }


def failing(rank: int) -> str:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = optim.BFO([parameter], population_size=6, shard="population", seed=0)

    def closure() -> float:
        if rank == 1:
            raise KeyError("mine")
        return parameter.square().sum().item()

    try:
        optimizer.step(closure)
    except (KeyError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}; {torch.equal(parameter, torch.ones(2))}"
    return "nothing"


def run(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(folder / f"store of {world}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    results: dict[str, object] = {
        f"{kind} {name}": search(rank, world, kind, name) for kind in KINDS for name in ALGORITHMS
    }
    results["failing"] = failing(rank)
    torch.save(results, folder / f"{rank} of {world}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    folder = Path(sys.argv[1])
    context = multiprocessing.get_context("fork")
    places = [(rank, world) for world in WORLDS for rank in range(world)]
    ranks = [context.Process(target=run, args=(*place, folder), daemon=True) for place in places]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(260)
    sys.exit(any(each.exitcode != 0 for each in ranks))


if __name__ == "__main__":
    main()
