"""How the machine fares, as it is measured: first at once, last at the end, what there is and nothing else."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.provenance.support import gathered, here
from tests.support import runs
from tests.support.spool_points import points
from tracelet import provenance
from tracelet.core.metrics import MetricType, RunStatus
from tracelet.core.options import Options
from tracelet.provenance.gpus import Gpus
from tracelet.provenance.system import Looks

FIRST = {"system/memory_percent", "system/disk_percent", "system/process/memory_bytes"}
RATES = {
    "system/cpu_percent",
    "system/process/cpu_percent",
    "system/disk_read_bytes_per_second",
    "system/disk_write_bytes_per_second",
    "system/network_sent_bytes_per_second",
    "system/network_received_bytes_per_second",
}


def nvml(**missing: None) -> Any:
    """NVML of a machine with two GPUs, of which the second does not say what it takes."""

    def power(handle: int) -> int:
        if handle == 1:
            raise RuntimeError("Not Supported")
        return 70_500

    calls = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"NVIDIA A100" if handle else "NVIDIA A100",
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=50 + handle),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=2**30),
        "nvmlDeviceGetTemperature": lambda handle, of: 60,
        "nvmlDeviceGetPowerUsage": power,
        "NVML_TEMPERATURE_GPU": 0,
    }
    return SimpleNamespace(**{name: call for name, call in calls.items() if name not in missing})


def test_a_run_that_is_over_at_once_has_two_looks(home: Path) -> None:
    before = time.time()
    with gathered(home, system_every=3600):
        pass
    found = points(home)
    assert {point.name for point in found} >= FIRST
    assert {(point.type, point.type_inferred) for point in found} == {(MetricType.SYSTEM.value, False)}
    memory = [point for point in found if point.name == "system/process/memory_bytes"]
    assert [point.step for point in memory] == [0, 1]
    assert before <= memory[0].wall_time <= memory[1].wall_time <= time.time()
    assert memory[0].value >= 2**20
    assert not {point.name for point in found if point.step == 0} & RATES


def test_looks_go_on_every_few_seconds(home: Path) -> None:
    enough = threading.Event()
    with runs.running(home) as run:
        record = run.record_measured

        def recorded(name: str, value: float, kind: MetricType, step: int, metadata: Any) -> None:
            record(name, value, kind, step, metadata)
            if step == 2:
                enough.set()

        run.record_measured = recorded  # type: ignore[method-assign]
        provenance.begin(run, Options().override(system_every=0.1, provenance=False))
        assert enough.wait(30)
    found = [point for point in points(home) if point.name == "system/memory_percent"]
    assert [point.step for point in found] == list(range(len(found)))
    assert len(found) >= 3
    names = {point.name for point in points(home)}
    assert names - {name for name in names if "gpu" in name} <= FIRST | RATES


def test_rates_are_of_the_time_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock = SimpleNamespace(read_bytes=100, write_bytes=0), [50.0]
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: disk)
    monkeypatch.setattr("tracelet.provenance.system.time", SimpleNamespace(monotonic=lambda: clock[0]))
    looks = Looks()
    looks.look()
    clock[0], disk.read_bytes, disk.write_bytes = 54.0, 900, 40
    second = looks.look()
    assert (second["disk_read_bytes_per_second"], second["disk_write_bytes_per_second"]) == (200.0, 10.0)
    clock[0], disk.read_bytes = 55.0, 5  # counted anew
    third = looks.look()
    assert "disk_read_bytes_per_second" not in third
    assert third["disk_write_bytes_per_second"] == 0.0
    clock[0] = 55.01
    assert not {name for name in looks.look() if "second" in name or "cpu" in name}, "of too short a time"


def test_what_the_machine_does_not_tell_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    def fails() -> None:
        raise PermissionError("not in this container")

    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", fails)
    monkeypatch.setattr(psutil, "cpu_times", fails)
    (tmp_path / "gone").mkdir()
    with here(tmp_path / "gone"):
        (tmp_path / "gone").rmdir()
        with gathered(home, system_every=3600):
            pass
    assert {point.name for point in points(home)} - {"system/process/cpu_percent"} == FIRST - {"system/disk_percent"}


def test_the_process_is_it_and_those_below_it() -> None:
    looks = Looks()
    alone = looks.look()["process/memory_bytes"]
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(writer)
        block = bytearray(os.urandom(64)) * (2**20)
        os.read(reader, 1)
        os._exit(len(block) == 0)
    os.close(reader)
    try:
        deadline = time.monotonic() + 30
        while looks.look()["process/memory_bytes"] < alone + 60 * 2**20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert looks.look()["process/memory_bytes"] > alone + 60 * 2**20
    finally:
        os.close(writer)
        os.waitpid(child, 0)
    assert looks.look().get("process/cpu_percent", 0.0) >= 0.0, "what the child took is not taken back"


def test_gpus_by_nvml() -> None:
    gpus = Gpus(nvml())
    assert gpus.names() == ["NVIDIA A100", "NVIDIA A100"]
    assert gpus.readings() == {
        "0/utilisation_percent": 50.0, "0/memory_bytes": 2.0**30, "0/temperature_celsius": 60.0, "0/power_watts": 70.5,
        "1/utilisation_percent": 51.0, "1/memory_bytes": 2.0**30, "1/temperature_celsius": 60.0,
    }  # fmt: skip
    gpus.close()
    assert (gpus.names(), gpus.readings()) == ([], {})
    assert Looks(Gpus(nvml())).look()["gpu.1/utilisation_percent"] == 51.0


def test_without_a_driver_or_nvml_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("NVML Shared Library Not Found")

    broken = nvml()
    broken.nvmlInit = fails
    assert Gpus(broken).names() == []
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert Gpus().readings() == {}


def test_other_ranks_of_the_node_and_forked_children_measure_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with runs.running(home) as run:
        run._owner = False
        provenance.begin(run, Options().override(system_every=0.1))
        assert not [thread for thread in threading.enumerate() if thread.name == "tracelet-system"]
    assert points(home) == []
    monkeypatch.setenv("LOCAL_RANK", "0")  # the first of a further node
    monkeypatch.setenv("RANK", "2")
    with runs.running(home) as run:
        run._owner = False
        provenance.begin(run, Options().override(system_every=3600))
    assert {point.name for point in points(home)} >= FIRST


def test_a_forked_child_goes_on_without_it(home: Path) -> None:
    with gathered(home, system_every=3600) as run:
        if (child := os.fork()) == 0:
            run.log_metric("child", 1.0, 0)
            run.stop(RunStatus.FINISHED, "", 0.0)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert len([point for point in points(home) if point.name == "system/memory_percent"]) == 2
