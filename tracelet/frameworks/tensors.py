"""What may be read of a tensor where it lies, without a wait for a device."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["is_plain", "is_scalar", "on_host"]

_DEVICES: Final = ("cpu", "cuda", "mps", "xpu")  # reading elsewhere may make a graph of what was only noted
_TYPES: Final[Mapping[str, Any]] = {
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "int64": ctypes.c_int64,
    "int32": ctypes.c_int32,
    "int16": ctypes.c_int16,
    "int8": ctypes.c_int8,
    "uint8": ctypes.c_uint8,
    "bool": ctypes.c_bool,
}
_types: dict[Any, Any] = {}  # by torch's own names, once it is there


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that holds its numbers by itself, on a device that can be read: no fake or sharded one."""
    tensor, kind = sys.modules["torch"].Tensor, type(value)
    if kind is not tensor and not (isinstance(value, tensor) and kind.__torch_dispatch__ is tensor.__torch_dispatch__):
        return False
    return value.is_cpu or value.device.type in _DEVICES


def is_scalar(value: Any) -> bool:
    """Whether a value is a tensor of one real number."""
    return is_plain(value) and value.numel() == 1 and not (value.is_complex() or value.is_sparse)


def on_host(tensor: Any) -> float | None:
    """The number of a tensor on the CPU; None when it cannot be read.

    From its memory: reading it by torch would count as a synchronisation among those who look for them.
    """
    if not _types:
        _types.update((getattr(sys.modules["torch"], name), kind) for name, kind in _TYPES.items())
    try:
        if (kind := _types.get(tensor.dtype)) is None:
            tensor, kind = tensor.detach().float(), ctypes.c_float
        address = tensor.data_ptr()
        return float(kind.from_address(address).value) if address else None
    except RuntimeError:  # it has no memory: it is traced, or transformed by functorch
        return None
