"""Frameworks of other packages: the guide's own package, installed for real, and packages that are broken in every way."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run, tracelet
from tests.support.pages import ROOT
from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.commands import check_capture
from tracelet.core.options import Options
from tracelet.errors import ConfigurationError
from tracelet.frameworks import Framework, plugins, table
from tracelet.frameworks.plugins import Plugin
from tracelet.launch.command import understand
from tracelet.launch.interpreter import examine

PAGE = ROOT / "docs/guide/own-framework.md"
# The library is imported in each process by itself, once tracelet is there.
SEARCH = """
import multiprocessing, sys

def search():
    import cma
    strategy = cma.CMAEvolutionStrategy([1.0, 2.0], 0.5, {"verbose": -9, "seed": 1})
    strategy.optimize(lambda x: float(x @ x), iterations=3)

def search_in_a_child(how="spawn"):
    process = multiprocessing.get_context(how).Process(target=search)
    process.start()
    process.join()
    return process.exitcode
"""
WITH_START_LOGGING = (
    SEARCH
    + """
if __name__ == "__main__":
    import json, cma, tracelet, tracelet.testing
    from tracelet.core.options import Options
    from tracelet.frameworks import install_all

    def patched():
        return [hasattr(vars(cma.CMAEvolutionStrategy)[name], "__wrapped__") for name in ("tell", "__init__")]

    before = [*patched(), "tracelet_cma" in sys.modules]
    with tracelet.testing.capture() as cap:
        with tracelet.start_logging() as first:
            search()
            assert search_in_a_child("fork") == 0
            during = patched()
        with tracelet.start_logging() as second:
            install_all(second, Options().override(plugins=False))
            search()
    search()
    print(json.dumps({
        "first": [(point.name, point.step) for point in cap.points(run=first)],
        "second": len(cap.points(run=second)),
        "params": cap.params,
        "patched": [before, during, patched()],
    }))
"""
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's package, in a folder of its own: the text of the page, file by file."""
    folder = tmp_path_factory.mktemp("tracelet-cma")
    files = dict(re.findall(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert files.keys() == {"pyproject.toml", "tracelet_cma.py", "test_tracelet_cma.py"}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def installed(package: Path) -> Path:
    """Where pip has put it: no environment that others use."""
    site = package / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(site), str(package)], check=True, timeout=180)
    assert (site / "tracelet_cma.py").is_file()
    return site


def test_its_own_test_passes(package: Path, installed: Path) -> None:
    pytest_alone = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run(*pytest_alone, "test_tracelet_cma.py", cwd=package, environment={"PYTHONPATH": str(installed)})
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_start_logging_and_its_end(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text(WITH_START_LOGGING)
    done = run("python", "search.py", cwd=tmp_path, environment={"PYTHONPATH": str(installed)})
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    # Of the process and of its child: each once.
    assert sorted(said["first"]) == sorted([[name, s] for name in ("cma/best", "cma/sigma") for s in (1, 2, 3)] * 2)
    assert said["second"] == 0
    assert said["params"] == {"cma/dimensions": 2, "cma/population": 6}
    assert said["patched"] == [[False, False, False], [True, True], [False, False]]


def test_under_the_launcher(installed: Path, shared_spine: Spine) -> None:
    spine = shared_spine
    main = "if __name__ == '__main__':\n    search(); sys.exit(search_in_a_child())"
    (spine.folder / "search.py").write_text(SEARCH + main)
    environment = {
        "PYTHONPATH": str(installed),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "TRACELET_CMA__EVERY": "2",
    }
    # -s: a Python that has to be asked what it has.
    done = tracelet("run", "python", "-s", "search.py", cwd=spine.folder, environment=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    until(lambda: spine.run().durable >= 4, 30, "the points")
    assert spine.run().durable == 4  # of generation 2 alone, in each process


def test_the_launcher_knows_what_its_own_python_has(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(plugins, "_found", None)
    monkeypatch.setattr(plugins, "_kinds", {})
    command = understand([sys.executable, "-c", "pass"])
    assert examine(command, (), plugins=True).plugins == ("cma.evolution_strategy",)
    assert examine(command, (), plugins=False).plugins == ()
    monkeypatch.delitem(sys.modules, "tracelet_cma")


# -- packages that are broken

LIBRARY = """
__version__ = {version!r}
class Trainer:
    def report(self, value): return value
def report(value): return value
"""
FRAMEWORK = """
from tracelet.frameworks import Framework, Place, after, guard

class Good(Framework):
    identifier, module, package, since, before = "good", "library", "library", (1,), (2,)

    def __init__(self, captures=True, every=1):
        super().__init__(captures)

    @classmethod
    def places(cls):
        return [Place("", "Trainer", "report", after("recording a report", cls.reported))]

    @classmethod
    def reported(cls, trainer, value):
        if (framework := cls.here()) is not None:
            framework.log_metric(cls.identifier, value)

class Plain: pass
class OtherName(Good): pass
class Lacking(Framework): identifier, module, package, since = "lacking", "library", "library", (1,)
class Bounded(Framework): identifier, module, package, since, before = "bounded", "library", "library", (1,), "2"
class Older(Good): identifier, package, module = "older", "old_library", "old_library"
class Newer(Good): identifier, package, module = "newer", "new_library", "new_library"
class Setting(Good): identifier = "setting"
class Constructor(Good):
    identifier = "constructor"
    def __init__(self): raise ValueError("not today")
class Places(Good):
    identifier = "places"
    @classmethod
    def places(cls): raise ValueError("nowhere")
class Missing(Good):
    identifier = "missing"
    @classmethod
    def places(cls): return [Place("", "Trainer", "no_such", after("missing", cls.reported)), *super().places()]
class Hook(Good):
    identifier, module, package = "hook", "other_library", "other_library"
    @classmethod
    def places(cls): return [Place("", "", "report", after("hooking", cls.raises))]
    @staticmethod
    def raises(*args): raise ValueError("in a hook")
class Twice(Good): identifier = "twice"
class Letters(Good): identifier = "letters"
"""
POINTS = {
    "good": "Good",
    "plain": "Plain",
    "other": "OtherName",
    "lacking": "Lacking",
    "bounded": "Bounded",
    "older": "Older",
    "newer": "Newer",
    "setting": "Setting",
    "constructor": "Constructor",
    "places": "Places",
    "missing": "Missing",
    "hook": "Hook",
    "twice": "Twice",
    "pytorch": "Good",
    "not-a-name": "Good",
    "no_class": "Nothing",
}
USE = """
import json, sys
from pathlib import Path
from tests.support import runs
from tests.support.spool_points import points
from tracelet.frameworks.plugins import modules
import library, old_library, new_library, other_library
assert {"library", "new_library"} <= set(modules(())), modules(())
home = Path(sys.argv[1])
for _ in range(2):
    with runs.running(home) as run:
        run.log_metric("mine", 1.0)
        for each in (library, old_library, new_library):
            assert each.Trainer().report(0.5) == 0.5
        assert other_library.report(0.5) == 0.5 and other_library.report(1.5) == 1.5
assert not hasattr(library.Trainer.report, "__wrapped__")
print(json.dumps(sorted(point.name for point in points(home))))
"""
LINES = [
    "constructor failed (ValueError: not today)",
    "bounded, a framework of broken, failed (TypeError: framework:Bounded must have before as a tuple of whole numbers, ",
    "exits, a framework of exiting, failed (SystemExit: 3)",
    "gone, a framework of gone, failed (ModuleNotFoundError: No module named 'nowhere_at_all')",
    "hooking failed (ValueError: in a hook)",
    "lacking, a framework of broken, failed (TypeError: framework:Lacking lacks before)",
    "new_library 2.0 is newer than what this framework is made for (before 2): it is recorded as far as it is as it was",
    "no_class, a framework of broken, failed (AttributeError: module 'framework' has no attribute 'Nothing')",
    "old_library 0.9 is older than 1, the oldest that framework is made for: it is not recorded",
    "other, a framework of broken, failed (TypeError: framework:OtherName must have identifier = 'other', ",
    "places failed (ValueError: nowhere)",
    "plain, a framework of broken, failed (TypeError: framework:Plain is no subclass of tracelet.frameworks.Framework)",
    "setting failed (ConfigurationError: TRACELET_SETTING__EVERY='often' makes no sense; give a whole number)",
    "the frameworks of garbled are left out: its entry points make no sense: ParsingError: ",
    "the framework not-a-name of broken is left out: its name must be a Python identifier",
    "the framework pytorch of broken is left out: tracelet has one of that name",
    "the framework twice of zweiter is left out: broken has one of that name",
    "there is no library.Trainer.no_such in this version of library: what is seen there is not recorded",
]


def distribution(folder: Path, name: str, content: str, metadata: str = ".dist-info") -> None:
    """As an installer leaves it."""
    info = folder / (f"{name}-1.0{metadata}" if metadata != "EGG-INFO" else f"{name}-1.0.egg/EGG-INFO")
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(content)
    (info / ("METADATA" if metadata == ".dist-info" else "PKG-INFO")).write_text(f"Name: {name}\nVersion: 1.0\n")


def entries(**points: str) -> str:
    return "[console_scripts]\nsome = other:thing\n\n[tracelet.frameworks]\n" + "".join(
        f"{name} = {value}\n" for name, value in points.items()
    )


def test_each_fault_costs_a_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "framework.py").write_text(FRAMEWORK)
    (tmp_path / "exiting.py").write_text("print('loading')\nraise SystemExit(3)")
    for name, version in (("library", "1.5"), ("old_library", "0.9"), ("new_library", "2.0"), ("other_library", "1.0")):
        (tmp_path / f"{name}.py").write_text(LIBRARY.format(version=version))
    distribution(tmp_path, "broken", entries(**{name: f"framework:{kind}" for name, kind in POINTS.items()}))
    distribution(tmp_path, "gone", entries(gone="nowhere_at_all:Thing"))
    distribution(tmp_path, "exiting", entries(exits="exiting:Thing"))
    distribution(tmp_path, "garbled", "[tracelet.frameworks]\nno value here")
    distribution(tmp_path / "second", "zweiter", entries(twice="framework:Twice", letters="framework:Letters [extra]"))
    distribution(tmp_path / "second", "Broken", entries(hidden="nowhere:Hidden"))
    (tmp_path / "script.py").write_text(USE)
    path = os.pathsep.join(map(str, (tmp_path, tmp_path / "second", ROOT)))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "TRACELET_SETTING__EVERY": "often"}
    done = subprocess.run(
        [sys.executable, "script.py", str(home)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # What the package itself says as it is loaded is its own: once for the launcher's question, once for the run.
    assert done.stderr.splitlines().count("loading") == 1
    lines = [line for line in done.stderr.splitlines() if line != "loading"]
    for line in LINES:
        assert sum(line in said for said in lines) == 1, (line, done.stderr)
    assert len(lines) == len(LINES), done.stderr
    said = json.loads(done.stdout.replace("loading\n", ""))
    assert said == sorted(["mine", "good", "missing", "twice", "letters", "newer"] * 2)


def test_what_is_found_is_what_the_standard_library_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    distribution(first, "Some_Package", entries(a="a.b:C", b="b : D.E [extra]", camelCase="c:F"))
    distribution(first, "develop", entries(develop="develop:D"), ".egg-info")
    distribution(first, "other", "[console_scripts]\ntracelet.frameworks = some:main\n")
    distribution(first, "egg", entries(egg="egg:E"), "EGG-INFO")
    distribution(second, "some.package", entries(late="late:L"))
    distribution(second, "third", entries(**{"a": "again:A", "with space": "s:S"}))
    (second / "nothing-1.0.dist-info").mkdir()
    (second / "a_file-1.0.egg-info").write_text("Name: a_file\nVersion: 1.0\n")
    (tmp_path / "a_file").write_text("")
    distribution(third, "here", entries(here="here:H"))
    monkeypatch.chdir(third)
    path = [
        str(tmp_path / "no_such"),
        str(first),
        str(first / "egg-1.0.egg"),
        str(tmp_path / "a_file"),
        str(second),
        "",
    ]
    found, wrong = plugins.scan(path)
    monkeypatch.setattr(sys, "path", path)
    standard: Any = importlib.metadata.entry_points(group=plugins.GROUP)
    expected = {(each.name, each.module, each.attr) for each in standard}
    assert {(each.name, *each.value.split(":")) for each in found} == expected
    assert len(found) == len(standard) == 8
    assert not wrong


def test_settings_are_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy(Framework):
        identifier = "toy"
        package = module = "toy"

        def __init__(
            self, captures: bool = True, every: int = 1, rate: float = 0.5, name: str = "", other: Any = None
        ) -> None:
            super().__init__(captures)

    monkeypatch.chdir(tmp_path)
    assert Toy.arguments(Options()) == {}
    (tmp_path / ".env").write_text("TRACELET_TOY__RATE=1e-3\nTRACELET_TOY__NAME=of the file\n")
    for name, value in (
        ("toy__every", "7"),
        ("TOY__NAME", "of the environment"),
        ("TOY__OTHER", "x"),
        ("TOY__NEW", "y"),
    ):
        monkeypatch.setenv(f"TRACELET_{name}", value)
    assert Toy.arguments(Options()) == {"every": 7, "rate": 0.001, "name": "of the environment"}
    assert Toy.switched_off(Options()) == []
    monkeypatch.setenv("TRACELET_TOY__CAPTURES", "off")
    assert Toy.switched_off(Options()) == ["toy.captures"]
    monkeypatch.setenv("TRACELET_TOY__CAPTURES", "perhaps")
    with pytest.raises(ConfigurationError, match="TRACELET_TOY__CAPTURES='perhaps' makes no sense; give true or false"):
        Toy.arguments(Options())
    monkeypatch.setattr(Toy, "settings", "toys")
    monkeypatch.setenv("TRACELET_TOYS__EVERY", "many")
    with pytest.raises(ConfigurationError, match="TRACELET_TOYS__EVERY='many' makes no sense; give a whole number"):
        Toy.arguments(Options())
    # Of tracelet's own the settings tell.
    assert table.kind_of("files").arguments(Options()) == {"kinds": ()}


def test_the_doctor_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy(Framework):
        identifier, module, package, since, before = "toy", "cma", "cma", (4,), (5,)

    there = {"toy": Plugin("toy", "toy:Toy", "a-toy"), "gone": Plugin("gone", "nowhere_at_all:Gone", "gone")}
    monkeypatch.setattr(plugins, "_found", there)
    monkeypatch.setattr(plugins, "_kinds", {"toy": Toy})
    found = {each.subject: each for each in check_capture.findings(Options(), deep=False)}
    assert found["toy"].text == f"calls of cma (cma {importlib.metadata.version('cma')}; made for 4 and later, below 5)"
    assert found["gone"].text == "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'"
    without = {each.subject for each in check_capture.findings(Options().override(plugins=False), deep=False)}
    assert without.isdisjoint(there)
    assert without >= table.FRAMEWORKS.keys()


def test_a_run_that_records_nothing_loads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Options().without_capture().plugins
