"""`tracelet doctor`: what it finds, how bad it is, and how to mend it; without torch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.home import log_path
from tracelet_collector.log.base import Append
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.commands import tracelet
from tests.support.fuse import fuse
from tests.support.processes import until
from tests.support.spools import SlotWriter
from tracelet.commands import check_capture, check_packages, trial
from tracelet.commands.check_settings import findings as settings_findings
from tracelet.commands.findings import Finding, Level
from tracelet.core.options import Options
from tracelet.frameworks import Framework, Place, after
from tracelet.version import __version__

ROOT = Path(__file__).parents[2]


class Report:
    """What it said, by chapter and subject."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        done = tracelet("doctor", "--json", *words, cwd=folder, environment=environment)
        assert done.stderr == "", done.stderr
        self.code = done.returncode
        self.document: dict[str, Any] = json.loads(done.stdout)
        assert set(self.document) == {"problems", "warnings", "findings"}

    def of(self, about: str, subject: str) -> dict[str, str]:
        """One finding."""
        (found,) = [f for f in self.document["findings"] if (f["about"], f["subject"]) == (about, subject)]
        return dict(found)

    @property
    def problems(self) -> list[dict[str, str]]:
        return [f for f in self.document["findings"] if f["level"] == "problem"]


def test_a_sound_installation(home: Path, tmp_path: Path) -> None:
    report = Report(tmp_path)
    assert (report.code, report.document["problems"], report.problems) == (0, 0, [])
    for finding in report.document["findings"]:
        assert set(finding) == {"level", "about", "subject", "text", "remedy"}
    assert report.of("installed", "tracelet")["text"] == __version__
    assert report.of("installed", "backend mlflow")["text"].endswith(f"sqlite:///{tmp_path}/mlflow.db")
    assert report.of("places", "home")["text"].startswith(str(home))
    assert report.of("places", "log")["text"] == f"{home}/log, 0 B"
    assert report.of("collector", "process")["text"] == "none runs; whoever needs one starts it"
    assert report.of("settings", "home")["text"] == f"{home} (the environment, TRACELET_HOME)"
    assert report.of("settings", "project")["text"] == "default (default)"


def test_for_people(home: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TRACELET_STOP_TIMEOUT=soon\n")
    done = tracelet("doctor", cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "installed"
    assert f"  ok       tracelet: {__version__}" in lines
    (bad,) = [number for number, line in enumerate(lines) if line.startswith("  problem")]
    assert "TRACELET_STOP_TIMEOUT='soon' makes no sense" in lines[bad]
    assert lines[bad + 1].strip().startswith("-> ")
    assert lines[-1].startswith("1 problem, ")


def test_nothing_heavy_is_imported(home: Path, tmp_path: Path) -> None:
    heavy = ("torch", "tensorboard", "mlflow", "wandb", "clearml", "lightning", "numpy")
    program = (
        "import sys; from tracelet.commands.doctor import examine; examine(deep=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python that has what tracelet needs, and neither torch nor a tracker."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=180)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "tracelet.pth").write_text(f"{ROOT}\n{ROOT / 'server'}\n")
    have = Path(sysconfig.get_paths()["purelib"])
    absent = ("torch", "tensorboard", "mlflow", "lightning", "pytorch", "nvidia", "functorch", "wrapt")
    for entry in have.iterdir():
        if not entry.name.lower().startswith(absent) and entry.suffix != ".pth" and entry.name != "__pycache__":
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def test_without_torch_a_tracker_or_wrapt(home: Path, tmp_path: Path, bare_python: Path) -> None:
    command = [str(bare_python), "-c", "from tracelet.cli import main; main()", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 1, done.stderr
    found = {f["subject"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["torch"]["text"] == "not installed"
    assert found["pytorch"]["text"] == "torch is not installed: nothing to capture"
    assert found["wrapt"]["level"] == "problem"
    assert found["wrapt"]["remedy"].endswith("-m pip install 'wrapt>=1.16'")
    assert found["backend mlflow"]["level"] == "problem"
    assert found["backend mlflow"]["remedy"].endswith("-m pip install 'tracelet[mlflow]'")


@pytest.mark.parametrize("kind", ["wandb", "clearml"])
def test_a_tracker_without_a_key(home: Path, tmp_path: Path, kind: str) -> None:
    nowhere = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    report = Report(tmp_path, TRACELET_BACKEND=kind, **nowhere)
    found = report.of("installed", f"backend {kind}")
    assert found["level"] == "warning"
    assert "start_logging fails, unless the script gives it api_key: there " in found["text"]
    keys = {"WANDB_API_KEY": "k" * 40, "CLEARML_API_ACCESS_KEY": "a", "CLEARML_API_SECRET_KEY": "s"}
    report = Report(tmp_path, TRACELET_BACKEND=kind, **nowhere, **keys)
    assert report.of("installed", f"backend {kind}")["level"] == "ok"


@pytest.mark.parametrize(("version", "level"), [("1.0", Level.PROBLEM), ("1.75.1", Level.OK), ("2.0rc1", Level.OK)])
def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch, version: str, level: Level) -> None:
    monkeypatch.setattr(check_packages, "installed", lambda package: version)
    (found,) = [f for f in check_packages.findings(Options(backend=())) if f.subject == "grpcio"]
    assert found.level is level
    assert (found.remedy == "") == (level is Level.OK)


def test_what_is_captured_and_in_which_range(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_pytorch(**versions: str) -> Finding:
        monkeypatch.setattr(check_capture, "installed", versions.get)
        return next(f for f in check_capture.findings(Options(), deep=False) if f.subject == "pytorch")

    assert of_pytorch(torch="2.4.1", tensorboard="2.16").level is Level.OK
    assert "made for 2.2 and later" in of_pytorch(torch="2.4.1", tensorboard="2.16").text
    assert of_pytorch(torch="1.13", tensorboard="2.16").level is Level.WARNING
    lone = of_pytorch(torch="2.4.1")
    assert lone.level is Level.WARNING
    assert "pip install tensorboard" in lone.remedy
    monkeypatch.setattr(check_capture, "installed", {"wandb": "0.31.0"}.get)
    found = {f.subject: f.text for f in check_capture.findings(Options(), deep=False)}
    assert "sync_tensorboard" in found["wandb 0.31.0"]


class Yaml(Framework):
    """Of a module whose package has another name."""

    identifier, module, package, since, before = "yaml", "yaml", "yaml", (5,), (99,)

    def __init__(self, every: int = 1) -> None:
        super().__init__()


def test_a_framework_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_capture, "identifiers", lambda _: ["yaml"])
    monkeypatch.setattr(check_capture, "kind_of", lambda _: Yaml)
    found = next(check_capture.findings(Options(), deep=False))
    assert (found.level, found.text.split(" (")[0]) == (Level.OK, "calls of yaml")
    monkeypatch.setenv("TRACELET_YAML__EVERY", "often")
    found = next(check_capture.findings(Options(), deep=False))
    assert found.level is Level.PROBLEM
    assert "TRACELET_YAML__EVERY='often' makes no sense" in found.text


def test_capturing_that_is_switched_off(home: Path, tmp_path: Path) -> None:
    report = Report(tmp_path, TRACELET_PYTORCH__PATCH_TENSORBOARD="no", TRACELET_DISABLED="1")
    assert report.of("captured", "pytorch")["text"] == "switched off: pytorch.patch_tensorboard"
    disabled = [f for f in report.document["findings"] if f["subject"] == "disabled" and f["level"] == "warning"]
    assert "nothing is recorded" in disabled[0]["text"]


def test_settings_and_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        "TRACELET_PROJECT=from-file\nTRACELET_STOP_TIMEOUT=3\nTRACELET_FLUSH_INTERVAL=never\n"
    )
    monkeypatch.setenv("TRACELET_PROJECT", "from-environment")
    monkeypatch.setenv("TRACELET_BACKENDS", "mlflow")
    monkeypatch.setenv("TRACELET_RUN_OWNER", "1")
    options, found = settings_findings()
    said = {f.subject: f for f in found if f.level is Level.OK}
    assert (options.project, options.stop_timeout, options.flush_interval) == ("from-environment", 3.0, 0.1)
    assert said["project"].text == "from-environment (the environment, TRACELET_PROJECT)"
    assert said["stop_timeout"].text == f"3.0 ({tmp_path}/.env, TRACELET_STOP_TIMEOUT)"
    (bad,) = [f for f in found if f.level is Level.PROBLEM]
    assert "TRACELET_FLUSH_INTERVAL='never' makes no sense" in bad.text
    (slip,) = [f for f in found if f.level is Level.WARNING]
    assert (slip.subject, slip.remedy) == ("TRACELET_BACKENDS", "did you mean TRACELET_BACKEND?")


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = Report(tmp_path, TRACELET_HOME=str(tmp_path / "file" / "home"))
    assert report.code == 1
    assert "cannot use" in report.of("places", "home")["text"]
    assert "TRACELET_HOME" in report.of("places", "home")["remedy"]


def test_a_home_on_the_network(tmp_path: Path) -> None:
    with fuse(tmp_path / "remote") as remote:
        report = Report(tmp_path, TRACELET_HOME=str(remote / "state"))
    found = report.of("places", "home")
    assert found["level"] == "warning"
    assert f"{remote / 'state'} is on a network file system (fuse)" in found["text"]
    near = Path(found["text"].partition("on this machine, ")[2].partition(" stands for it")[0])
    assert near.parent == Path(f"/var/tmp/tracelet-{os.getuid()}")
    shutil.rmtree(near)


def test_what_is_wrong_with_the_places(home: Path, tmp_path: Path) -> None:
    home.chmod(0o777)
    (home / "credentials").mkdir()
    (home / "credentials" / "a.json").write_text("{}")
    (home / "credentials" / "a.json").chmod(0o644)
    (home / "spool-damaged" / "r-w-1").mkdir(parents=True)
    report = Report(tmp_path)
    assert [f["subject"] for f in report.problems] == ["credentials"]
    assert report.problems[0]["remedy"] == f"chmod 600 {home}/credentials/*.json"
    assert report.of("places", "damaged spools")["text"].startswith(f"1 in {home}/spool-damaged")
    rights = [f for f in report.document["findings"] if f["remedy"] == f"chmod 700 {home}"]
    assert "mode 777" in rights[0]["text"]


def test_a_disk_without_room(small_disk: Path, tmp_path: Path) -> None:
    report = Report(tmp_path, TRACELET_HOME=str(small_disk / "home"))
    assert report.code == 1
    disk = report.of("places", "disk")
    assert (disk["level"], "the collector takes nothing" in disk["text"]) == ("problem", True)


def test_a_socket_that_has_no_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracelet.commands.check_home import findings

    monkeypatch.setattr("tracelet_collector.home.Path", lambda path: home / "missing" if path == "/tmp" else Path(path))
    _, found = findings(Options(home=home))
    (socket,) = [f for f in found if f.subject == "socket"]
    assert socket.level is Level.PROBLEM


Serve = Callable[..., CollectorProcess]


@pytest.fixture
def paused(home: Path) -> Iterator[CollectorProcess]:
    """A collector whose deliveries are paused."""
    program = "import sys; from tracelet_collector.__main__ import serve; from tests.support.collector import Nowhere; "
    program += "from pathlib import Path; sys.exit(serve(Path(sys.argv[3]), 60.0, None, Nowhere))"
    with CollectorProcess(home, program=["-c", program]) as collector:
        for _ in range(2):
            stream = collector.open(run_spec("mlflow"), writer_spec())
            stream.welcome()
            stream.send(opening(10))
            stream.acked_to(10)
        yield collector


def test_a_collector_that_is_paused(paused: CollectorProcess, home: Path, tmp_path: Path) -> None:
    report = Report(tmp_path)
    assert report.of("collector", "process")["text"].startswith(f"pid {paused.pid}, version {__version__}, wire ")
    (trouble,) = report.problems
    assert (trouble["about"], trouble["subject"]) == ("delivery", "mlflow")
    assert trouble["text"] == "paused for 2 runs: nowhere"
    assert report.of("delivery", "runs")["text"] == "2 runs, 18 points not delivered yet"
    assert report.code == 1


def test_what_waits_without_a_collector(home: Path, tmp_path: Path) -> None:
    log = SqliteLog(log_path(home))
    stream = log.open_stream(run_spec("mlflow"), writer_spec()).stream
    log.append([Append(stream, opening(10).SerializeToString())])
    log.close()
    spool = SlotWriter(home, run_spec(), writer_spec())
    spool.define()
    spool.die()
    (home / "collector.err").write_text("tracelet_collector: it had no luck\n")
    report = Report(tmp_path)
    assert report.of("delivery", "runs")["remedy"] == report.of("delivery", "spools")["remedy"] == "tracelet sync"
    assert report.of("delivery", "spools")["text"] == "1 waits to be read in"
    assert report.of("places", "spools")["text"].startswith(f"{home}/spool, 1 there, 4.0 MiB")
    assert report.of("collector", "last words")["text"] == "tracelet_collector: it had no luck"
    assert report.code == 0


def test_a_log_that_is_damaged(home: Path, tmp_path: Path) -> None:
    (home / "log").mkdir()
    log_path(home).write_bytes(b"something else" * 500)
    (trouble,) = Report(tmp_path).problems
    assert "not a database" in trouble["text"]
    assert trouble["remedy"] == f"mv {home}/log {home}/log.damaged"


def test_where_no_collector_outlives_the_script(home: Path, tmp_path: Path) -> None:
    found = Report(tmp_path, SLURM_JOB_ID="17").of("collector", "lifetime")
    assert found["text"] == "none outlives a SLURM job: stopping a run waits until it is delivered, 120 s at most"


def test_a_collector_that_hangs(home: Path, tmp_path: Path) -> None:
    with CollectorProcess(home) as collector:
        os.kill(collector.pid, signal.SIGSTOP)
        try:
            (home / "endpoint.json").write_text("")
            (trouble,) = Report(tmp_path).problems
            assert f"pid {collector.pid}" in trouble["text"]
            assert trouble["remedy"].endswith(f"kill {collector.pid}")
        finally:
            os.kill(collector.pid, signal.SIGCONT)


def test_a_collector_of_another_version(home: Path, tmp_path: Path) -> None:
    with CollectorProcess(home) as collector:
        os.kill(collector.pid, signal.SIGSTOP)  # else it repairs what is changed here
        lock = home / "endpoint.json"
        try:
            for changes, words in (
                ({"version": "0.0.1"}, "older than this tracelet"),
                ({"wire": [99, 0]}, "is not served"),
            ):
                lock.write_text(json.dumps({**collector.endpoint, **changes}))
                found = list(_process_of(home))
                assert words in found[0].text
        finally:
            os.kill(collector.pid, signal.SIGCONT)


def _process_of(home: Path) -> Iterator[Finding]:
    from tracelet.commands.asking import Standing
    from tracelet.commands.check_collector import _process
    from tracelet.proto.v1 import collector_pb2 as wire

    return _process(home, Standing(wire.StatusReply(collector=wire.CollectorInfo(pid=1))))


def test_errors_of_the_journal(home: Path, tmp_path: Path) -> None:
    with CollectorProcess(home):
        (home / "endpoint.json").unlink()
        (home / "endpoint.json").mkdir()
        until(lambda: "cannot announce itself" in (home / "collector.log").read_text())
        (home / "endpoint.json").rmdir()
    found = Report(tmp_path).of("collector", "journal")
    assert found["level"] == "warning"
    assert "1 errors in the last 24 hours, the last one: this collector cannot announce itself" in found["text"]


# A stand for PyTorch's module, where tracelet patches: the trial must tell what was patched, what stayed on, and who was first.


def test_a_trial_tells_what_is_patched_and_by_whom(tmp_path: Path) -> None:
    for package in ("torch", "torch/utils", "torch/utils/tensorboard", "intruder"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("__version__ = '2.9.0'\n")
    (tmp_path / "torch/utils/tensorboard/writer.py").write_text(
        "class SummaryWriter:\n"
        "    def __init__(self): pass\n"
        "    def add_scalar(self, tag, value): pass\n"
        "    def add_scalars(self, tag, values): pass\n"
        + "".join(f"    def {name}(self, *a, **k): pass\n" for name in ADDS)
        + "    @staticmethod\n"
        "    def _encode(text): pass\n"
        "import intruder; intruder.patch(SummaryWriter)\n"
    )
    (tmp_path / "intruder/__init__.py").write_text(
        "def patch(owner):\n"
        "    original = owner.add_scalar\n"
        "    def add_scalar(self, *a, **k): return original(self, *a, **k)\n"
        "    owner.add_scalar = add_scalar\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tracelet.commands.trial", "pytorch"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["foreign"] == {"SummaryWriter.add_scalar": "intruder"}
    assert {"SummaryWriter.add_scalar", "SummaryWriter.add_scalars"} <= set(said["patched"])
    assert said["left"] == []


ADDS = [
    *(
        "add_hparams",
        "add_histogram",
        "add_histogram_raw",
        "add_image",
        "add_images",
        "add_image_with_boxes",
        "add_figure",
    ),
    *("add_video", "add_audio", "add_text", "add_onnx_graph", "add_graph", "add_embedding", "add_pr_curve"),
    *("add_pr_curve_raw", "add_custom_scalars_multilinechart", "add_custom_scalars_marginchart", "add_custom_scalars"),
    *("add_mesh", "add_tensor", "flush", "close", "get_logdir"),
]


class Handlers(Framework):
    """Its module has none of the classes that are patched."""

    identifier, module, package, since, before = "handlers", "logging", "logging", (0,), (99,)

    @classmethod
    def places(cls) -> list[Place]:
        return [
            Place(".handlers", "SocketHandler", "emit", after("sending", print)),
            Place(".config", "ConvertingDict", "pop", after("reading", print), later=True),
        ]


def test_deep_finds_places_in_other_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "kind_of", lambda _: Handlers)
    said = trial.attempt("handlers")
    assert "SocketHandler.emit" in said["patched"]
    assert (said["left"], said["foreign"]) == ([], {})


def test_deep_tries_what_is_installed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By default no files are kept: then there is nothing to try.
    monkeypatch.setattr(check_capture, "identifiers", lambda _: ["pytorch", "files"])
    (found,) = [f for f in check_capture.findings(Options(), deep=True) if f.subject.endswith(", tried")]
    assert found.subject == "pytorch, tried"
    assert found.level is Level.OK
    assert "SummaryWriter.add_scalar" in found.text
    monkeypatch.setattr(check_capture, "_DEEP_SECONDS", 0.01)
    (late,) = [f for f in check_capture.findings(Options(), deep=True) if f.subject == "pytorch, tried"]
    assert late.level is Level.PROBLEM
