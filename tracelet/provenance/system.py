"""How the machine and this training fare: CPU, memory, disk, network, GPU, looked at every few seconds by a thread.

    system/cpu_percent                          of all CPUs of the machine
    system/memory_percent                       of the machine's memory
    system/disk_percent                         of the file system with the working directory, how full it is
    system/disk_read_bytes_per_second           the machine's; …_write_… likewise
    system/network_sent_bytes_per_second        the machine's; …_received_… likewise
    system/process/cpu_percent                  of one CPU, by this process and those below it: 250 is two and a half
    system/process/memory_bytes                 resident, of the same
    system/gpu.<i>/utilisation_percent          likewise memory_bytes, temperature_celsius, power_watts

A rate is that of the time since the look before, so the first look has none. What a machine or a container does not tell is
left out. The step of a point is the number of the look; its wall time is the look's own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tracelet.core.metrics import MetricType
from tracelet.guard import Guard
from tracelet.provenance.gpus import Gpus
from tracelet.transport.background import importing

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Looks", "SystemMetrics"]

_LOOKING: Final = Guard("measuring the system")
_SOON: Final = 0.05  # start_logging returns first
_SHORTEST: Final = 0.1  # seconds; a rate of less is noise
_COLLECTOR: Final = "tracelet_collector"


class SystemMetrics:
    """Records what is measured, until the run ends: first at once, then every few seconds, and at the end.

    Args:
        run: whose points they are.
        every: seconds.
    """

    def __init__(self, run: Experiment, every: float) -> None:
        self._run = run
        self._every = every
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> None:
        """Begin; where there may be no more threads, nothing is measured."""
        thread = threading.Thread(target=self._work, name="tracelet-system", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def end(self, wait: float) -> None:
        """Look for the last time.

        Args:
            wait: seconds at most for that.
        """
        self._end.set()
        if self._thread is not None:
            self._thread.join(wait)
        self._closed = True

    def _work(self) -> None:
        self._end.wait(_SOON)
        with _LOOKING:
            with importing():
                import psutil  # noqa: F401
            looks = Looks()
            number, over = 0, False
            while True:
                for name, value in looks.look().items():
                    if not self._closed:
                        self._run.record_measured(f"system/{name}", value, MetricType.SYSTEM, number, {})
                if over:
                    break
                number += 1
                over = self._end.wait(self._every)
            looks.close()


class Looks:
    """Looks at the machine, each time at what happened since the last time."""

    def __init__(self, gpus: Gpus | None = None) -> None:
        import psutil

        self._psutil = psutil
        self._gpus = gpus or Gpus()
        self._at = 0.0
        self._before: dict[str, float] = {}
        # By number and start: a process, and its CPU time.
        self._tree: dict[tuple[int, float], tuple[Any, float]] = {}
        self._ended = 0.0  # CPU time of those that have ended

    def look(self) -> Mapping[str, float]:
        """What there is to tell, by name, without `system/`."""
        psutil, found = self._psutil, dict[str, float]()
        now = time.monotonic()
        passed, self._at = (now - self._at if self._at else 0.0), now
        counted: dict[str, float] = {}
        with _Part():
            times = psutil.cpu_times()
            idle = times.idle + getattr(times, "iowait", 0.0)
            # What is a guest's is in user already.
            all_of_it = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            counted |= {"\0busy": all_of_it - idle, "\0all": all_of_it}
        with _Part():
            found["memory_percent"] = psutil.virtual_memory().percent
        with _Part():
            found["disk_percent"] = psutil.disk_usage(os.getcwd()).percent
        with _Part():
            disk = psutil.disk_io_counters()
            if disk is not None:
                counted |= {"disk_read": disk.read_bytes, "disk_write": disk.write_bytes}
        with _Part():
            network = psutil.net_io_counters()
            if network is not None:
                counted |= {"network_sent": network.bytes_sent, "network_received": network.bytes_recv}
        with _Part():
            memory, counted["\0process"] = self._of_processes()
            found["process/memory_bytes"] = memory
        with _Part():
            found |= {f"gpu.{name}": value for name, value in self._gpus.readings().items()}
        if passed >= _SHORTEST:
            found |= self._rates(counted, passed)
        self._before = counted
        return found

    def close(self) -> None:
        """Let go of the GPUs."""
        self._gpus.close()

    def _rates(self, counted: Mapping[str, float], passed: float) -> dict[str, float]:
        grown = {name: value - self._before[name] for name, value in counted.items() if name in self._before}
        grown = {name: value for name, value in grown.items() if value >= 0}  # else counted anew, from zero
        found = {}
        busy, all_of_it = grown.pop("\0busy", None), grown.pop("\0all", 0.0)
        if busy is not None and all_of_it > 0:
            found["cpu_percent"] = min(100.0 * busy / all_of_it, 100.0)
        if (process := grown.pop("\0process", None)) is not None:
            found["process/cpu_percent"] = 100.0 * process / passed
        return found | {f"{name}_bytes_per_second": value / passed for name, value in grown.items()}

    def _of_processes(self) -> tuple[float, float]:
        """Resident bytes of this process and those below it, and the CPU time that they have taken, ended ones too."""
        psutil, memory = self._psutil, 0.0
        mine = psutil.Process()
        tree = {}
        for process in [mine, *_unless(psutil.Error, mine.children, recursive=True)]:
            try:
                key = (process.pid, process.create_time())
                if key not in self._tree and process is not mine and _COLLECTOR in " ".join(process.cmdline()):
                    continue  # ours; it may outlive this process
                with process.oneshot():
                    times, memory = process.cpu_times(), memory + process.memory_info().rss
                tree[key] = (process, times.user + times.system)
            except psutil.Error:
                continue  # it has ended
        self._ended += sum(spent for key, (_, spent) in self._tree.items() if key not in tree)
        self._tree = tree
        return memory, self._ended + sum(spent for _, spent in tree.values())


class _Part:
    """What this machine does not tell is left out."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Exception)


def _unless(errors: type[Exception], ask: Callable[..., list[Any]], **arguments: Any) -> list[Any]:
    try:
        return ask(**arguments)
    except errors:
        return []
