"""Installations of tracelet in several versions: each a virtual environment with a copy of the packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tracelet
from tests.support.clients import but_for_waiting

ROOT = Path(tracelet.__file__).parents[1]

SCRIPT = """
import os, sys, time
from pathlib import Path
import tracelet
from tracelet.core import targets
targets.resolve = lambda *a, **k: ()
name, count, pace, until = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
run = tracelet.start_logging(exp_name=name)
step = 0
while step < count or (until and not Path(until).exists()):
    run.log_metric("loss", step / 7, step)
    step += 1
    time.sleep(pace)
tracelet.stop_logging()
print(step)
"""


@dataclass(frozen=True)
class Installation:
    """A Python with a tracelet of its own.

    Attributes:
        python: the interpreter.
        version: what that tracelet says it is.
    """

    python: Path
    version: str

    def start(
        self, home: Path, name: str, count: int = 50, pace: float = 0.0, until: Path | None = None
    ) -> subprocess.Popen[str]:
        """A script that records `count` points, and goes on until a file exists; it prints how many those were."""
        environment: Mapping[str, str] = {**os.environ, "TRACELET_HOME": str(home)}
        command = [str(self.python), "-c", textwrap.dedent(SCRIPT), name, str(count), str(pace), str(until or "")]
        return subprocess.Popen(
            command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, home: Path, name: str, count: int = 50) -> None:
        """Such a script, to its end."""
        finish(self.start(home, name, count))


def finish(script: subprocess.Popen[str]) -> int:
    """Wait for a script's end; how many points it recorded. It has nothing to say on stderr, but that a collector is late."""
    out, err = script.communicate(timeout=240)
    assert (script.returncode, but_for_waiting(err)) == (0, ""), err
    return int(out)


def install(folder: Path, version: str, wire_minor: int | None = None) -> Installation:
    """Make one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=180)
    code = folder / "code"
    for source in (ROOT / "tracelet", ROOT / "server" / "tracelet_collector"):
        shutil.copytree(source, code / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    _change(code / "tracelet" / "version.py", r'__version__( *(?:: \w+ *)?= *)"[^"]+"', rf'__version__\1"{version}"')
    if wire_minor is not None:
        _change(
            code / "tracelet" / "proto" / "codec" / "limits.py",
            r"WIRE_MINOR: Final = \d+",
            f"WIRE_MINOR: Final = {wire_minor}",
        )
    (packages,) = folder.glob("lib/python*/site-packages")
    # Ours first; what it needs is taken from where the tests have it.
    (packages / "all.pth").write_text(f"{code}\n{sysconfig.get_paths()['purelib']}\n")
    return Installation(folder / "bin" / "python", version)


def _change(path: Path, pattern: str, new: str) -> None:
    text, number = re.subn(pattern, new, path.read_text())
    assert number == 1, path
    path.write_text(text)
