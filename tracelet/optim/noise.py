"""Random numbers of one optimizer, from a generator of its own: the global ones are neither read nor advanced."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

__all__ = ["Noise", "default_seed"]

MANY = 1 << 13

_count = itertools.count()


def default_seed() -> int:
    """A seed that follows `torch.manual_seed` without drawing from it, different for every optimizer of a process."""
    return (torch.initial_seed() * 6364136223846793005 + next(_count) * 1442695040888963407) % (1 << 63)


class Noise:
    """Draws for one population.

    Args:
        device: of the numbers.
        dtype: of the normal and uniform numbers.
        seed: of the generator.
        generator: one to use in place of an own.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int, generator: torch.Generator | None) -> None:
        self.device = device
        self.dtype = dtype
        self.generator = generator or torch.Generator(device)
        if generator is None:
            self.generator.manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device, dtype=self.dtype)

    def symmetric(self, *shape: int) -> Tensor:
        """Numbers in [-1, 1)."""
        return torch.empty(shape, device=self.device, dtype=self.dtype).uniform_(-1.0, 1.0, generator=self.generator)

    def coordinates(self, count: int, dimensions: int) -> Tensor:
        """A uniform number for each coordinate, (count, dimensions): in [0, 1), or, of many, any of 16 bits.

        On a CPU such a number costs less than a third of one in [0, 1).
        """
        total = count * dimensions
        if total < MANY or self.device.type != "cpu":
            return self.uniform(count, dimensions)
        words = torch.empty((total + 3) // 4, dtype=torch.int64)
        words.random_(-(1 << 63), None, generator=self.generator)
        return words.view(torch.int16)[:total].view(count, dimensions)

    def levy(self, count: int, alpha: float) -> Tensor:
        """Lengths |L| of Lévy flights, shape (count, 1), by Mantegna's method (Phys. Rev. E 49, 1994), at most 10."""
        over = math.gamma(1 + alpha) * math.sin(math.pi * alpha / 2)
        under = math.gamma((1 + alpha) / 2) * alpha * 2 ** ((alpha - 1) / 2)
        top, bottom = self.normal(2, count, 1).unbind(0)
        return (top.mul_((over / under) ** (1 / alpha)) / bottom.abs().pow_(1 / alpha)).abs_().clamp_(max=10.0)

    def state(self) -> Tensor:
        """The generator's state, as bytes on the host."""
        return self.generator.get_state()

    def restore(self, state: Tensor, seed: int) -> None:
        """Go on from a state; a generator of another device's kind cannot, and starts anew from a seed."""
        state = state.cpu()
        if state.numel() == self.generator.get_state().numel():
            self.generator.set_state(state)
        else:
            self.generator.manual_seed(seed)
