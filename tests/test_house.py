"""The house rules: public names, which way imports go, what an import may pull in, how long files are, what a wheel holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from functools import cache
from pathlib import Path

import pytest

import tracelet

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"tracelet": ROOT / "tracelet", "tracelet_collector": ROOT / "server" / "tracelet_collector"}
MAX_LINES = 400

# Data flows one way. A room (the longest prefix that fits) may import from itself and from these, and from nothing else here.
ARROWS: dict[str, tuple[str, ...]] = {
    "tracelet.errors": (),
    "tracelet.version": (),
    "tracelet.spoolfile": (),
    "tracelet.core.metrics": (),
    "tracelet.guard": (),
    "tracelet.proto": ("tracelet.spoolfile", "tracelet.core.metrics"),
    "tracelet.transport": (
        "tracelet.spoolfile",
        "tracelet.proto",
        "tracelet.core.metrics",
        "tracelet.guard",
        "tracelet.errors",
        "tracelet.version",
    ),
    "tracelet.core": (
        "tracelet.guard",
        "tracelet.spoolfile",
        "tracelet.transport",
        "tracelet.errors",
        "tracelet.version",
    ),
    "tracelet.optim": ("tracelet.errors",),
    "tracelet.frameworks": (
        "tracelet.patching",
        "tracelet.secrets",
        "tracelet.exits",
        "tracelet.core",
        "tracelet.guard",
        "tracelet.errors",
    ),
    # A loop of somebody else's for our optimizers.
    "tracelet.frameworks.transformers_population": ("tracelet.optim",),
    "tracelet.exits": ("tracelet.core.metrics", "tracelet.guard", "tracelet.secrets"),
    "tracelet.patching": ("tracelet.guard",),
    "tracelet.provenance": (
        "tracelet.patching",
        "tracelet.secrets",
        "tracelet.core",
        "tracelet.transport.background",
        "tracelet.guard",
        "tracelet.errors",
        "tracelet.version",
    ),
    "tracelet.secrets": (),
    # A logger that starts a run, as a script does.
    "tracelet.loggers": (
        "tracelet.frameworks",
        "tracelet.core",
        "tracelet.guard",
        "tracelet.exits",
        "tracelet.interface",
        "tracelet.lifetime",
        "tracelet.nested",
    ),
    # Frameworks that start runs.
    "tracelet.nested": (
        "tracelet.frameworks",
        "tracelet.core",
        "tracelet.patching",
        "tracelet.secrets",
        "tracelet.guard",
        "tracelet.exits",
        "tracelet.interface",
        "tracelet.lifetime",
    ),
    "tracelet_collector": (
        "tracelet.spoolfile",
        "tracelet.proto",
        "tracelet.core.metrics",
        "tracelet.errors",
        "tracelet.version",
    ),
}
# What a training process must not pay for, or must not have at all, before it needs it.
HEAVY = ("asyncio", "google.protobuf", "grpc", "mlflow", "numpy", "pydantic", "rich", "torch", "typer", "wrapt")
TRACKERS = ("clearml", "mlflow", "wandb")


@cache
def sources() -> dict[str, Path]:
    """Every module of both packages by its dotted name; generated code is not ours to judge."""
    found = {}
    for package, root in PACKAGES.items():
        for path in sorted(root.rglob("*.py")):
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                inner = path.relative_to(root).with_suffix("").parts
                found[".".join((package, *(part for part in inner if part != "__init__")))] = path
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in sources() else str(node.module)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(module: str) -> str | None:
    return max((room for room in ARROWS if within(module, room)), key=len, default=None)


def test_public_names_are_the_documented_ones() -> None:
    page, _, _ = (ROOT / "docs/reference/python.md").read_text().partition("\n## Settings")
    documented = re.findall(r"^::: tracelet\.(\w+)$", page, re.MULTILINE)
    assert sorted([*documented, "__version__"]) == sorted(tracelet.__all__)
    assert all(getattr(tracelet, name) is not None for name in tracelet.__all__)
    assert set(dir(tracelet)) == set(tracelet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'start_loging'"):
        _ = tracelet.start_loging


def test_version_is_that_of_the_project() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert tracelet.__version__ == version


@pytest.mark.parametrize("room", ARROWS)
def test_imports_go_with_the_flow(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for module, path in sources().items()
        if room_of(module) == room
        for line, name in imports(path)
        if name.split(".")[0] in PACKAGES and not any(within(name, allowed) for allowed in (room, *ARROWS[room]))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_knows_both_sides() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in sources().items()
        if within(module, "tracelet") and not within(module, "tracelet.commands")
        for line, name in imports(path)
        if within(name, "tracelet_collector")
    ]
    assert not wrong


def test_only_exporters_name_a_tracker_and_only_frameworks_and_optimizers_name_torch() -> None:
    exporters, capture = "tracelet_collector.exporters", ("tracelet.frameworks", "tracelet.optim")
    rooms = {
        **dict.fromkeys(TRACKERS, (exporters,)),
        "tensorboard": (exporters, *capture),  # it is listened to, and delivered to
        "torch": capture,
    }
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for module, path in sources().items()
        for line, name in imports(path)
        if (top := name.split(".")[0]) in rooms and not any(within(module, room) for room in rooms[top])
    ]
    assert not wrong


def test_the_spool_format_needs_the_standard_library_alone() -> None:
    names = {
        name.split(".")[0]
        for module, path in sources().items()
        if within(module, "tracelet.spoolfile")
        for _, name in imports(path)
    }
    assert names - set(sys.stdlib_module_names) == {"tracelet"}


def loaded_after(statement: str) -> set[str]:
    """Modules of a fresh interpreter that ran a statement."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("statement", ["import tracelet", "import tracelet; tracelet.start_logging"])
def test_importing_tracelet_is_cheap(statement: str) -> None:
    loaded = loaded_after(statement)
    assert "tracelet" in loaded
    assert not loaded.intersection(HEAVY)


def test_the_collectors_front_loads_neither_torch_nor_a_tracker(home: Path) -> None:
    """The whole life of one that finds nothing to do; what delivers is another process."""
    loaded = loaded_after(
        f"from pathlib import Path; from tracelet_collector.__main__ import serve; serve(Path({str(home)!r}), 0.0, None)"
    )
    assert "tracelet_collector.app" in loaded
    assert "tracelet_collector.delivery.scheduler" in loaded
    assert not loaded.intersection({"torch", "numpy", "pandas", "sqlalchemy", "tensorboard", *TRACKERS})


def test_files_have_one_reason_to_exist_and_say_it() -> None:
    texts = {path.relative_to(ROOT): path.read_text() for path in sources().values()}
    assert not {str(path): lines for path, text in texts.items() if (lines := text.count("\n")) > MAX_LINES}
    assert not [
        str(path)
        for path, text in texts.items()
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(text))
    ]


def test_folders_only_hand_names_on() -> None:
    for module, path in sources().items():
        if path.name == "__init__.py" and module != "tracelet":  # which imports nothing before it is asked
            for node in ast.parse(path.read_text()).body:
                names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
                docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                assert isinstance(node, ast.ImportFrom) or names == ["__all__"] or docstring, f"{path}:{node.lineno}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    for package, root in PACKAGES.items():
        shipped = {str(path.relative_to(root)) for path in root.rglob("*.py")} | {"py.typed"}
        assert {f"{package}/{name}" for name in shipped} <= names
    (licence,) = (name for name in names if name.endswith("LICENSE"))
    assert b"Apache License" in wheel.read(licence)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert b"tracelet = tracelet.cli:main" in wheel.read(entry_points)


def test_a_plain_install_brings_neither_torch_nor_a_tracker(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
    plain = {re.split(r"[^\w-]", line)[0].lower() for line in required if "extra ==" not in line}
    assert "grpcio" in plain
    assert not plain.intersection({"torch", "tensorboard", "numpy", *TRACKERS, "mlflow-skinny"})
