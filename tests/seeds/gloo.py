"""What document 002's distributed block takes for granted, two GPUs and nccl, played by two processes and gloo on the CPU.

Imported before the block in each of its processes; the block itself is not touched.
"""

from __future__ import annotations

import multiprocessing.util
import os
from typing import Any

import torch
import torch._dynamo  # before the process group: imported after it (as DDP does), torch 2.13 may abort at the very end
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

WORLD = 2
_begin = dist.init_process_group


def _init_process_group(backend: str, **arguments: Any) -> None:
    _begin({"nccl": "gloo"}[backend], **arguments)
    # The block leaves its group open, and one rank in six aborts when the interpreter ends then. So it does not get there:
    # tracelet is done when this is called, as it is the last thing that multiprocessing does. The points tell of a failure.
    multiprocessing.util.Finalize(None, os._exit, args=(0,), exitpriority=-1000)


class _OnCpu(DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, device_ids: list[int]) -> None:
        super().__init__(module)


dist.init_process_group = _init_process_group
torch.cuda.device_count = lambda: WORLD
torch.Tensor.cuda = lambda tensor, device: tensor
torch.nn.Module.cuda = lambda module, device: module
torch.nn.parallel.DistributedDataParallel = _OnCpu
