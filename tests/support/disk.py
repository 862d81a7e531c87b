"""A disk that may lose what was not synced: replays the system calls of a process as strace saw them.

A write lies in the page cache until a successful fsync of its file. A fsync that fails forgets the writes it was to sync: no
later one makes them durable (what Linux does). At a crash, of what is not durable nothing is left, or any part.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.processes import until

_CALL = re.compile(
    r"^(?P<at>\d+\.\d+) (?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)(?P<rest>.*?) <(?P<took>[\d.]+)>$"
)
_FD = re.compile(r"^\d+<(?P<path>(?:\\x[0-9a-f]{2})+)>(?:, )?")
CALLS = "write,pwrite64,ftruncate,fsync,fdatasync"


def strace_or_skip() -> str:
    """The strace command; skips aloud where it cannot be used."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed: failing fsyncs are not tested here")
    probe = subprocess.run([found, "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"strace cannot trace here, so failing fsyncs are not tested: {probe.stderr.strip()}")
    return found


def failing_fsyncs(first: int, last: int | str) -> list[str]:
    """Options that make the `first` to `last` sync of a process fail; "" as `last` is for ever."""
    when = f"{first}+" if last == "" else f"{first}..{last}"
    return ["-e", f"inject=fsync,fdatasync:error=EIO:when={when}"]


@contextmanager
def dead_disk(pid: int) -> Iterator[None]:
    """Every fsync of a running process fails, for as long as this lasts."""
    with tempfile.TemporaryFile("w+") as said:
        strace = subprocess.Popen(
            [
                strace_or_skip(),
                "-f",
                "-o",
                "/dev/null",
                "-e",
                "trace=fsync,fdatasync",
                *failing_fsyncs(1, ""),
                "-p",
                str(pid),
            ],
            stderr=said,
        )

        def attached() -> bool:
            said.seek(0)
            if strace.poll() is not None:
                pytest.skip(f"strace cannot attach here, so a dead disk is not tested: {said.read().strip()}")
            return "attached" in said.read()

        until(attached)
        try:
            yield
        finally:
            strace.terminate()  # it lets go of the process
            strace.wait(60)


@dataclass(order=True)
class Call:
    """A system call, in order of its start."""

    at: float
    until: float
    name: str = field(compare=False)
    path: str = field(compare=False)
    data: bytes = field(compare=False, default=b"")
    offset: int = field(compare=False, default=0)
    failed: bool = field(compare=False, default=False)


def traced(command: Sequence[str], folder: Path, options: Sequence[str] = ()) -> tuple[str, list[Call]]:
    """Run a command under strace: its output, and the calls that concern files."""
    folder.mkdir()
    strace = [strace_or_skip(), "-ff", "-y", "-xx", "-s", "10000000", "-ttt", "-T", "-o", str(folder / "trace")]
    done = subprocess.run(
        [*strace, "-e", f"trace={CALLS}", *options, *command], capture_output=True, text=True, check=False, timeout=240
    )
    calls = [call for path in folder.glob("trace.*") for call in _parse(path)]
    assert done.stdout, done.stderr
    return done.stdout, sorted(calls)


def _parse(path: Path) -> Iterator[Call]:
    for line in path.read_text().splitlines():
        if (call := _CALL.match(line)) is None or (target := _FD.match(call["arguments"])) is None:
            continue
        at, rest = float(call["at"]), call["arguments"][target.end() :]
        data, offset = b"", 0
        if call["name"] in ("write", "pwrite64"):
            text, _, numbers = rest[1:].partition('"')
            data = bytes.fromhex(text.replace("\\x", ""))[: max(int(call["result"]), 0)]
            offset = int(numbers.split(", ")[2]) if call["name"] == "pwrite64" else 0
        elif call["name"] == "ftruncate":
            offset = int(rest)
        name = bytes.fromhex(target["path"].replace("\\x", "")).decode()
        failed = int(call["result"]) < 0
        yield Call(at, at + float(call["took"]), call["name"], name, data, offset, failed)


class Disk:
    """What is on the disk after some calls.

    Args:
        calls: all calls, in order.
        luck: for what happens to be written without having been synced; None: nothing is.
    """

    def __init__(self, calls: Sequence[Call], luck: random.Random | None = None) -> None:
        self._calls = calls
        self._luck = luck

    def crash(self, at: float, files: Sequence[str], into: Path) -> None:
        """Write what would be left of `files` after a crash at a moment to the folder `into`."""
        durable: defaultdict[str, bytearray] = defaultdict(bytearray)
        cached: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self._calls:
            if call.at >= at:
                break
            if call.name in ("fsync", "fdatasync"):
                if call.until > at:
                    continue
                covered = [write for write in cached[call.path] if write.until <= call.at]
                for write in covered:
                    if not call.failed or self._lucky():
                        _apply(durable[call.path], write)
                cached[call.path] = [write for write in cached[call.path] if write.until > call.at]
            elif not call.failed:
                cached[call.path].append(call)
        for path, writes in cached.items():
            for write in writes:
                if self._lucky():
                    _apply(durable[path], write)
        for path in files:
            if path in durable:
                (into / Path(path).name).write_bytes(durable[path])

    def _lucky(self) -> bool:
        return self._luck is not None and self._luck.random() < 0.5


def _apply(content: bytearray, call: Call) -> None:
    if call.name == "ftruncate":
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    if len(content) < call.offset:
        content.extend(bytes(call.offset - len(content)))
    content[call.offset : call.offset + len(call.data)] = call.data
