"""The norm of an optimizer's gradients, before they are clipped."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from tracelet.frameworks.tensors import is_plain, is_scalar, on_host

__all__ = ["Clip", "Norm", "norm_of", "total_norm"]

_EUCLIDEAN: Final = 2.0


class Clip(NamedTuple):
    """Gradients that were clipped.

    Attributes:
        norm: of all of them together, before: a number, or a tensor of one element.
        parameters: the identities of what they are of.
        norm_type: the order of the norm.
    """

    norm: Any
    parameters: set[int]
    norm_type: float


class Norm(NamedTuple):
    """The norm of an optimizer's gradients.

    Attributes:
        value: a number, or a tensor of one element.
        clipped: it is from before a clipping.
        norm_type: its order.
    """

    value: Any
    clipped: bool
    norm_type: float


def norm_of(optimizer: Any, clips: Sequence[Clip]) -> Norm | None:
    """The norm of all gradients of an optimizer, as they were before they were clipped.

    Args:
        optimizer: with gradients as they are now.
        clips: of its gradients, in their order.

    Returns:
        None when there are no gradients, or some that cannot be read where they are: sharded ones, and on an accelerator
        sparse ones with an index twice, which only a wait would add up.
    """
    all_parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not clips:
        norm = total_norm([parameter.grad for parameter in all_parameters])
        return None if norm is None else Norm(norm, False, _EUCLIDEAN)
    used = _first_ones(clips)
    norm_type = used[0].norm_type
    if any(clip.norm_type != norm_type for clip in used):
        return None
    clipped: set[int] = set().union(*(clip.parameters for clip in used))
    rest = [parameter.grad for parameter in all_parameters if id(parameter) not in clipped]
    others = _norms([gradient for gradient in rest if gradient is not None], norm_type)
    if others is None:
        return None
    return Norm(_together([clip.norm for clip in used] + others, norm_type), True, norm_type)


def total_norm(gradients: Iterable[Any], norm_type: float = _EUCLIDEAN) -> Any:
    """The norm of some gradients together; None when there are none, or some that cannot be read where they are."""
    gradients = [gradient for gradient in gradients if gradient is not None]
    if norm_type == _EUCLIDEAN and (norm := _of_ordinary(gradients)) is not None:
        return norm
    parts = _norms(gradients, norm_type)
    return _together(parts, norm_type) if parts else None


def _of_ordinary(gradients: Sequence[Any]) -> float | None:
    """The norm of what most gradients on a CPU are, by the shortest way: it is cold whenever it is gone. None for others."""
    torch = sys.modules["torch"]
    tensor, strided, exact, norm_of_one = torch.Tensor, torch.strided, torch.float32, torch.linalg.vector_norm
    norms = []
    for each in gradients:
        if type(each) is not tensor or each.dtype is not exact or each.layout is not strided:
            return None
        if not each.is_cpu or each.requires_grad or not each.numel():
            return None
        norms.append(norm_of_one(each))
    return _on_host(norms) if norms else None


def _first_ones(clips: Sequence[Clip]) -> list[Clip]:
    """Of clippings that follow each other on the same gradients, the first."""
    used: list[Clip] = []
    seen: set[int] = set()
    for clip in clips:
        if seen.isdisjoint(clip.parameters):
            used.append(clip)
            seen |= clip.parameters
    return used


def _norms(gradients: Iterable[Any], norm_type: float) -> list[Any] | None:
    torch = sys.modules["torch"]
    strided = torch.strided
    found: dict[tuple[Any, Any], list[Any]] = {}
    for gradient in gradients:
        if not is_plain(gradient):
            return None
        dense = gradient.detach() if gradient.requires_grad else gradient  # one with a graph of its own
        if dense.layout is not strided and (dense := _dense(dense)) is None:
            return None
        if dense.numel():
            found.setdefault((dense.device, dense.dtype), []).append(dense)
    norms: list[Any] = []
    for (_, dtype), alike in found.items():
        if dtype in (torch.float16, torch.bfloat16):  # their norm may be more than they can say
            norms += [torch.linalg.vector_norm(each, norm_type, dtype=torch.float32) for each in alike]
        elif (
            dtype.is_complex or alike[0].is_cpu
        ):  # there, _foreach_norm takes one after the other, too, and no less time
            norms += [torch.linalg.vector_norm(each, norm_type) for each in alike]
        else:
            norms += torch._foreach_norm(alike, norm_type)
    return norms


def _dense(gradient: Any) -> Any:
    """The values of a sparse gradient, each index once; None where they cannot be had without a wait."""
    if not gradient.is_sparse or not (gradient.is_cpu or gradient.is_coalesced()):
        return None
    return gradient.coalesce().values()


def _together(norms: Sequence[Any], norm_type: float) -> Any:
    if len(norms) == 1:
        return norms[0]
    if norm_type == _EUCLIDEAN and (together := _on_host(norms)) is not None:
        return together
    torch = sys.modules["torch"]
    with torch.no_grad():
        norms = [norm if hasattr(norm, "is_cpu") else torch.tensor(norm) for norm in norms]
        device = next((norm.device for norm in norms if not norm.is_cpu), norms[0].device)
        dtype = torch.float64 if any(norm.dtype is torch.float64 for norm in norms) else torch.float32
        alike = [norm.detach().reshape(()).to(device=device, dtype=dtype, non_blocking=True) for norm in norms]
        return torch.linalg.vector_norm(torch.stack(alike), norm_type)


def _on_host(norms: Sequence[Any]) -> float | None:
    """The Euclidean norm of norms that are numbers, or on the CPU; None for others."""
    total = 0.0
    for norm in norms:
        if isinstance(norm, float):
            number: float | None = norm
        elif norm.is_cpu:
            number = on_host(norm)
        else:
            return None
        total += math.nan if number is None else number * number
    return math.sqrt(total)


def clip_of(parameters: Any, norm: Any, norm_type: float) -> Clip | None:
    """What a clipping leaves to a step; None for norms that cannot be read."""
    if not isinstance(norm, float) and not is_scalar(norm):
        return None
    each = [parameters] if hasattr(parameters, "grad") else list(parameters)
    return Clip(norm if isinstance(norm, float) else norm.detach(), {id(parameter) for parameter in each}, norm_type)
