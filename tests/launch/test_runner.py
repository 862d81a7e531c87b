"""A script under `tracelet run` against the same script under plain python: output, errors, exit code, identity."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.commands import TRACELET, run, tracelet

PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Nothing here records; still, no test touches the user's home."""


def same(folder: Path, words: list[str], given: str = "", environment: dict[str, str] | None = None) -> str:
    """Run a Python command line both ways, compare all that can be seen, and return its standard output."""
    plain = run(PYTHON, *words, cwd=folder, given=given, environment=environment)
    ours = tracelet("run", PYTHON, *words, cwd=folder, given=given, environment=environment)
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, plain.returncode)
    return ours.stdout


def script(folder: Path, text: str, name: str = "train.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise ValueError('boom')",
        "raise SystemExit(3)",
        "raise SystemExit('text')",
        "raise SystemExit",
        "raise SystemExit(256)",
        "raise SystemExit(True)",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit((1, 2))",
        "import os; print(flush=True); os._exit(4)",
        "raise KeyboardInterrupt",
        "raise BaseException('base')",
        "try: 1 / 0\nexcept ZeroDivisionError as error: raise RuntimeError('second') from error",
        "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])" if sys.version_info >= (3, 11) else "",
        "def broken(:",
        "import nowhere_at_all",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_it_ends_the_same(tmp_path: Path, ending: str) -> None:
    same(tmp_path, [script(tmp_path, f"print('started')\n{ending}\n")])


def test_main_module_is_as_plain_python_makes_it(tmp_path: Path) -> None:
    name = script(
        tmp_path,
        """
        '''Words.'''
        import inspect, linecache, pickle, sys

        class Model:
            def forward(self): return 1

        def source(): pass

        print(__name__, __file__, __spec__, __package__, __doc__, type(__loader__), __builtins__, sorted(globals()))
        print(sys.argv, sys.orig_argv, sys.path[0], sys.modules["__main__"].__dict__ is globals())
        print(inspect.getsource(source), inspect.getmodule(Model), linecache.getline(__file__, 5))
        print(type(pickle.loads(pickle.dumps(Model()))) is Model, __annotations__)
        """.replace("\n        ", "\n").lstrip(),
    )
    same(tmp_path, [name, "--name", "mine", "--", "-x", "ünï", ""])


def test_script_through_a_link_finds_its_neighbours(tmp_path: Path) -> None:
    script(tmp_path / "real", "import sys, neighbour; print(sys.argv[0], neighbour.__name__, __file__)")
    script(tmp_path / "real", "", "neighbour.py")
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "train.py")
    assert "neighbour" in same(tmp_path, ["./link.py"])


def test_names_of_ours_hide_none_of_the_users(tmp_path: Path) -> None:
    script(tmp_path, "print('mine')", "command.py")
    assert "mine" in same(tmp_path, [script(tmp_path, "import command")])


def test_first_line_options_reach_the_interpreter(tmp_path: Path) -> None:
    name = script(
        tmp_path, "import sys; print(sys.flags.optimize, sys.warnoptions, sys._xoptions, sys.stdout.write_through)"
    )
    assert "2" in same(tmp_path, ["-uOO", "-W", "ignore", "-Wdefault", "-Xdev", name, "-W", "not ours"])


def test_standard_input_is_the_scripts(tmp_path: Path) -> None:
    assert same(tmp_path, [script(tmp_path, "print(input() + input())")], given="one\ntwo\n") == "onetwo\n"


def test_the_users_excepthook_sees_the_users_frames(tmp_path: Path) -> None:
    name = script(
        tmp_path,
        "import sys, traceback\n"
        "def hook(kind, error, trace):\n"
        "    print(kind, error, [frame.name for frame in traceback.extract_tb(trace)], error.__traceback__ is trace)\n"
        "sys.excepthook = hook\n"
        "import atexit\n"
        "atexit.register(lambda: print(sys.excepthook is hook, sys.last_value, sys.last_traceback.tb_frame.f_code.co_name))\n"
        "def deep(): raise ValueError('x')\n"
        "deep()\n",
    )
    assert "['<module>', 'deep'] True" in same(tmp_path, [name])


def test_threads_outlive_the_script_and_come_before_atexit(tmp_path: Path) -> None:
    name = script(
        tmp_path,
        "import atexit, threading\n"
        "over = threading.Event()\n"
        "def late():\n"
        "    over.wait(); threading.main_thread().join(); print('thread', __name__)\n"
        "threading.Thread(target=late).start()\n"
        "atexit.register(print, 'atexit')\n"
        "print('end'); over.set()\n"
        "raise ValueError('x')\n",
    )
    assert same(tmp_path, [name]).split() == ["end", "thread", "__main__", "atexit"]


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_processes_find_main(tmp_path: Path, method: str) -> None:
    name = script(
        tmp_path,
        "import multiprocessing, sys\n"
        "class Batch:\n"
        "    def __init__(self, n): self.n = n\n"
        "def double(batch): return Batch(batch.n * 2)\n"
        "print('module', __name__, flush=True)\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(1) as pool:\n"
        "        print([batch.n for batch in pool.map(double, [Batch(1), Batch(2)])], sys.argv)\n",
    )
    assert "[2, 4]" in same(tmp_path, [name, "argument"])


@pytest.mark.parametrize("words", [["-m", "pack", "a"], ["-mpack.inner", "a"], ["-m", "nowhere"], ["-m", "pack.empty"]])
def test_modules(tmp_path: Path, words: list[str]) -> None:
    say = "import sys; print(__name__, __package__, __spec__.name, sys.argv, sys.path[0])\n"
    script(tmp_path, "print('package')", "pack/__init__.py")
    script(tmp_path, "from . import inner\n" + say, "pack/__main__.py")
    script(tmp_path, say + "if __name__ == '__main__': raise ValueError('x')", "pack/inner.py")
    (tmp_path / "pack" / "empty").mkdir()
    same(tmp_path, words)


def test_spawned_children_of_a_module(tmp_path: Path) -> None:
    script(tmp_path, "", "pack/__init__.py")
    script(  # not pack.__main__: of that, plain python finds nothing in its children either
        tmp_path,
        "import multiprocessing\n"
        "def square(n): return n * n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(square, [3]))\n",
        "pack/train.py",
    )
    assert same(tmp_path, ["-m", "pack.train"]) == "[9]\n"


def test_code_folder_and_archive(tmp_path: Path) -> None:
    same(
        tmp_path,
        ["-c", "import sys; print(sys.argv, sys.path[0], sys.orig_argv, __loader__, sorted(globals())); 1 / 0", "x"],
    )
    script(tmp_path, "import sys, inner; print(__file__, sys.argv, sys.path[0], __package__)", "app/__main__.py")
    script(tmp_path, "", "app/inner.py")
    same(tmp_path, ["app", "x"])
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        for file in (tmp_path / "app").glob("*.py"):
            archive.write(file, file.name)
    same(tmp_path, ["./app.pyz", "x"])


def test_what_needs_no_runner(tmp_path: Path) -> None:
    same(tmp_path, ["-"], given="print('input', __name__)")
    same(tmp_path, ["--version"])
    same(tmp_path, ["-x", script(tmp_path, "not python\nprint('second line')")])


def test_prompt_after_the_script(tmp_path: Path) -> None:
    same(tmp_path, ["-i", script(tmp_path, "answer = 42\nraise SystemExit(3)")], given="print(answer)\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
@pytest.mark.parametrize("handled", [False, True])
def test_signals_reach_the_script_itself(tmp_path: Path, number: signal.Signals, handled: bool) -> None:
    if handled and number is signal.SIGKILL:
        pytest.skip("nobody handles SIGKILL")
    handler = f"signal.signal({int(number)}, lambda n, f: sys.exit(n + 40))\n" if handled else ""
    name = script(
        tmp_path, f"import os, signal, sys\n{handler}print(os.getpid(), flush=True)\nwhile True: signal.pause()\n"
    )
    ends = []
    for words in ([PYTHON, name], [TRACELET, "run", name]):
        pipe = subprocess.PIPE
        with subprocess.Popen(words, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            os.kill(process.pid, number)
            _, errors = process.communicate(timeout=120)
            ends.append((process.returncode, errors.splitlines()[-1:]))
    assert ends[0] == ends[1]
    assert ends[1][0] == (number + 40 if handled else -number)


def test_nothing_on_standard_output_and_errors_is_ours(tmp_path: Path) -> None:
    done = tracelet("run", "--name", "n", "--project=p", script(tmp_path, "print('only this')"), cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("only this\n", "", 0)
