"""Parameters as one point: where each parameter lies in a row of the population, and the way in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Layout"]


class Layout:
    """The joint search space of all parameter groups.

    Parameters lie one behind the other, in the order of the groups. An `nn.Parameter` with `requires_grad=False` is frozen and
    left out; a plain tensor is searched whatever its flag says.

    Args:
        groups: the optimizer's `param_groups`.
        device: where the population lives; None is the first parameter's device.

    Attributes:
        parameters: the searched tensors, in order.
        names: their names, from `named_parameters()` where those were given, else their positions "0", "1", ...
        dimensions: D, the number of coordinates.
        dtype: of the population: float64 when a parameter has it, else float32, also over bfloat16 and float16 parameters.

    Raises:
        TypeError: for a parameter that is not of a real floating-point type.
        ValueError: when nothing is left to search.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], device: torch.device | None = None) -> None:
        self.parameters: list[Tensor] = []
        self.names: list[str] = []
        self.members: list[int] = []
        for member, group in enumerate(groups):
            names = group.get("param_names")
            for index, parameter in enumerate(group["params"]):
                if isinstance(parameter, torch.nn.Parameter) and not parameter.requires_grad:
                    continue
                if not parameter.dtype.is_floating_point:
                    raise TypeError(f"a population is searched over real numbers, not over {parameter.dtype}")
                self.names.append(names[index] if names else str(len(self.parameters)))
                self.parameters.append(parameter)
                self.members.append(member)
        if not self.parameters:
            raise ValueError("every parameter is frozen (requires_grad=False): there is nothing to search")
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.dimensions = sum(self.sizes)
        self.device = device or self.parameters[0].device
        wide = any(parameter.dtype == torch.float64 for parameter in self.parameters)
        self.dtype = torch.float64 if wide else torch.float32
        # MPS has no float64.
        self.fitness_dtype = torch.float32 if self.device.type == "mps" else torch.float64

    def read(self) -> Tensor:
        """The parameters as they stand, as a point of shape (D,)."""
        flat = [parameter.detach().reshape(-1).to(self.device, self.dtype) for parameter in self.parameters]
        return torch.cat(flat)

    def write(self, point: Tensor) -> None:
        """Copy a point of shape (D,) into the parameters, in place: their storage stays."""
        (row,) = self.rows(point.unsqueeze(0))
        self.put(row, [parameter.detach() for parameter in self.parameters])

    @staticmethod
    def put(row: tuple[Tensor, ...], targets: list[Tensor]) -> None:
        """Copy one of `rows` into the (detached) parameters."""
        # Neither side has a graph: no mode of autograd has to be entered, which would cost as much as the copy.
        if len(targets) == 1:
            targets[0].copy_(row[0])
        else:
            torch._foreach_copy_(targets, row)

    def rows(self, points: Tensor) -> list[tuple[Tensor, ...]]:
        """For each of n points (n, D) its views in the parameters' shapes."""
        count = points.shape[0]
        if len(self.sizes) == 1:
            return [(row,) for row in points.view(count, *self.shapes[0]).unbind(0)]
        pieces = torch.split(points, self.sizes, dim=1)
        return list(
            zip(
                *(piece.view(count, *shape).unbind(0) for piece, shape in zip(pieces, self.shapes, strict=True)),
                strict=True,
            )
        )

    def stacked(self, points: Tensor) -> dict[str, Tensor]:
        """N points (n, D) as named parameters of shape (n, *shape), in the parameters' own types and devices."""
        pieces = torch.split(points, self.sizes, dim=1)
        count = points.shape[0]
        return {
            name: piece.view(count, *shape).to(parameter.device, parameter.dtype)
            for name, piece, shape, parameter in zip(self.names, pieces, self.shapes, self.parameters, strict=True)
        }

    def flat(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """The way back: named tensors of shape (n, *shape) as (n, D)."""
        count = next(iter(stacked.values())).shape[0]
        return torch.cat([stacked[name].reshape(count, -1).to(self.device, self.dtype) for name in self.names], dim=1)

    def gradient(self) -> Tensor:
        """The parameters' `.grad` as (D,); a parameter without one counts as zero."""
        return torch.cat(
            [
                (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
                .detach()
                .reshape(-1)
                .to(self.device, self.dtype)
                for parameter in self.parameters
            ]
        )

    def spread(self, values: Sequence[float]) -> float | Tensor:
        """One number per group as a number (when all are equal) or as one per coordinate, shape (D,)."""
        if len(set(values)) == 1:
            return float(values[0])
        parts = [
            torch.full((size,), float(values[member]), dtype=self.dtype, device=self.device)
            for size, member in zip(self.sizes, self.members, strict=True)
        ]
        return torch.cat(parts)

    def bounds(self, limits: Sequence[tuple[float, float] | None]) -> tuple[Tensor, Tensor] | None:
        """Bounds per group as (low, high) of shape (D,), or None when no group has any.

        They are moved inwards to numbers that the parameter's own type can hold: rounding a clipped point to bfloat16 must
        not carry it outside.
        """
        if all(limit is None for limit in limits):
            return None
        lows, highs = [], []
        for size, member, parameter in zip(self.sizes, self.members, self.parameters, strict=True):
            low, high = limits[member] or (-torch.inf, torch.inf)
            lows.append(torch.full((size,), _inward(low, parameter.dtype, 1), dtype=self.dtype, device=self.device))
            highs.append(torch.full((size,), _inward(high, parameter.dtype, -1), dtype=self.dtype, device=self.device))
        return torch.cat(lows), torch.cat(highs)


def _inward(limit: float, dtype: torch.dtype, direction: int) -> float:
    """The nearest number of a type that is not beyond a limit."""
    held = torch.tensor(limit, dtype=torch.float64).to(dtype)
    if direction * (held.double().item() - limit) < 0:
        held = torch.nextafter(held, torch.tensor(direction * torch.inf, dtype=dtype))
    return held.double().item()
