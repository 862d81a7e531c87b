"""NVIDIA's GPUs, by NVML alone: nothing here imports torch or makes a CUDA context."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from tracelet.transport.background import importing

__all__ = ["Gpus"]

_MODULE: Final = "pynvml"


class Gpus:
    """The GPUs of this machine; none, where NVML is not there or there is no driver.

    Args:
        nvml: NVML's bindings; by default `pynvml` (of nvidia-ml-py), if it is installed.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml: Any = nvml if nvml is not None else _bindings()
        self._handles: list[Any] = []
        if self._nvml is None:
            return
        try:
            self._nvml.nvmlInit()
            count = range(self._nvml.nvmlDeviceGetCount())
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in count]
        except Exception:  # NVMLError and, without a library, what ctypes raises
            self.close()

    def names(self) -> list[str]:
        """Model names."""
        names = [self._ask(self._nvml.nvmlDeviceGetName, handle) for handle in self._handles]
        return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names if name]

    def readings(self) -> Mapping[str, float]:
        """What they do now: `<index>/utilisation_percent`, `memory_bytes`, `temperature_celsius`, `power_watts`, as far as
        each says it.
        """  # noqa: D205
        found: dict[str, float] = {}
        nvml = self._nvml
        for index, handle in enumerate(self._handles):
            asked: dict[str, Callable[[Any], float]] = {
                "utilisation_percent": lambda of: float(nvml.nvmlDeviceGetUtilizationRates(of).gpu),
                "memory_bytes": lambda of: float(nvml.nvmlDeviceGetMemoryInfo(of).used),
                "temperature_celsius": lambda of: float(nvml.nvmlDeviceGetTemperature(of, nvml.NVML_TEMPERATURE_GPU)),
                "power_watts": lambda of: nvml.nvmlDeviceGetPowerUsage(of) / 1000.0,
            }
            for name, ask in asked.items():
                if (value := self._ask(ask, handle)) is not None:
                    found[f"{index}/{name}"] = value
        return found

    def close(self) -> None:
        """Let go of NVML."""
        nvml, self._nvml, self._handles = self._nvml, None, []
        if nvml is not None:
            self._ask(nvml.nvmlShutdown)

    @staticmethod
    def _ask(question: Callable[..., Any], *of: Any) -> Any:
        try:
            return question(*of)
        except Exception:  # a GPU that does not say it, or is gone
            return None


def _bindings() -> ModuleType | None:
    try:
        with importing():
            return importlib.import_module(_MODULE)
    except Exception:  # not installed, or broken
        return None
