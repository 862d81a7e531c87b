"""Commands that are no Python: a child, with signals, exit code and standard input passed through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import BIN, TRACELET, run, tracelet
from tests.support.processes import lives, wait_gone
from tracelet.launch.forward import describe


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Nothing here records; still, no test touches the user's home."""


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A command under `tracelet run`; its standard output is a pipe."""
    pipe = subprocess.PIPE
    return subprocess.Popen([TRACELET, "run", *words], cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    "code", ["exit 0", "exit 3", "exit 255", "kill -TERM $$", "kill -KILL $$", "kill -INT $$", "nowhere_at_all"]
)
def test_it_ends_as_the_command_ends(tmp_path: Path, code: str) -> None:
    words = ["sh", "-c", f"cat; echo error >&2; {code}"]
    plain = run(*words, cwd=tmp_path, given="input\n")
    ours = tracelet("run", *words, cwd=tmp_path, given="input\n")
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, plain.returncode)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    done = tracelet("run", "./broken", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 126)
    assert "cannot start" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_it(tmp_path: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with started(
        tmp_path, "sh", "-c", f"trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert (output, process.returncode) == ("got\n", 9)


def test_a_signal_that_it_does_not_handle_ends_both(tmp_path: Path) -> None:
    with started(tmp_path, "sh", "-c", "echo $$; exec cat") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert pid != process.pid
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    assert not lives(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is passed on by Linux alone")
def test_kill_9_is_kill_9_of_the_command(tmp_path: Path) -> None:
    with started(tmp_path, "sh", "-c", "echo $$; exec cat") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        assert wait_gone(pid, 20)


def test_one_interrupt_at_the_terminal_is_one_interrupt(tmp_path: Path) -> None:
    """The terminal sends it to both; passed on as well, it would come twice."""
    shell = "trap 'echo int >>count' INT; echo ready; read line; read line; exit 7"
    typist = (
        "import os, pty, sys\n"
        "pid, terminal = pty.fork()\n"
        f"if pid == 0: os.execv({TRACELET!r}, ['tracelet', 'run', 'sh', '-c', sys.argv[1]])\n"
        "seen = b''\n"
        "def until(words):\n"
        "    global seen\n"
        "    while words not in seen: seen += os.read(terminal, 1024)\n"
        "until(b'ready')\n"
        "os.write(terminal, b'\\x03')\n"
        "until(b'^C')\n"
        "os.write(terminal, b'\\n\\n\\n')\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = run(sys.executable, "-c", typist, shell, cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert (tmp_path / "count").read_text() == "int\n"


def test_it_inherits_what_it_would(tmp_path: Path) -> None:
    """Default signals, no signal held back, and the descriptors that its caller left open for it."""
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)
    code = f"grep -E '^Sig(Blk|Ign)' /proc/self/status >&{writable}"
    try:
        plain = subprocess.run(["bash", "-c", code], pass_fds=[writable], check=True, timeout=120)
        expected = os.read(readable, 4096)
        subprocess.run([TRACELET, "run", "bash", "-c", code], pass_fds=[writable], check=True, timeout=120)
        assert os.read(readable, 4096) == expected
        assert plain.returncode == 0
    finally:
        os.close(readable)
        os.close(writable)


def test_its_python_children_carry_the_run(tmp_path: Path) -> None:
    show = "import os; print(os.environ['TRACELET_RUN_ID'], os.environ['TRACELET_RUN_OWNER'], os.getppid())"
    done = tracelet("run", "sh", "-c", f'{BIN}/python -c "{show}"; {BIN}/python -c "{show}"; true', cwd=tmp_path)
    (first, second) = (line.split() for line in done.stdout.splitlines())
    assert first == second
    assert first[1] != first[2]  # the owner is not the shell: a shell could not say how the run ended


def test_how_a_command_ended_in_words() -> None:
    assert [describe(code) for code in (0, 3, -9, -63)] == [
        "",
        "exit code 3",
        "killed by SIGKILL",
        "killed by signal 63",
    ]
