"""CPU time of calls, of the whole process: wall time says who else uses the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["microseconds", "per_evaluation"]


def microseconds(function: Callable[[], Any], rounds: int) -> float:
    """CPU time of one call."""
    begun = time.process_time()
    for _ in range(rounds):
        function()
    return (time.process_time() - begun) / rounds * 1e6


def per_evaluation(optimizer: Any, objective: Any, rounds: int) -> float:
    """CPU time of one evaluation, the optimizer's own work included."""
    before = optimizer.evaluations
    total = microseconds(lambda: optimizer.step(objective), rounds) * rounds
    return total / (optimizer.evaluations - before)
