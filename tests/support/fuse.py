"""An empty file system of FUSE, served by a thread of the test: what the kernel takes for one that is not its own."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_IN = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_OUT = struct.Struct("<IiQ")  # length, error, unique
_GETATTR, _INIT, _FORGET = 3, 26, 2


@contextmanager
def fuse(folder: Path) -> Iterator[Path]:
    """Mount one; the test is skipped, aloud, where that cannot be done."""
    folder.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE here, so a home on a network file system is not tested: {error}")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if libc.mount(b"remote", os.fsencode(folder), b"fuse", 0, options.encode()):
        os.close(device)
        pytest.skip(f"cannot mount FUSE here: {os.strerror(ctypes.get_errno())}")
    server = threading.Thread(target=_serve, args=(device,), daemon=True)
    server.start()
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        server.join(60)
        os.close(device)


def _serve(device: int) -> None:
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT):
                continue
            return  # it is not mounted any more
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode == _FORGET:
            continue
        error, body = 0, b""
        if opcode == _INIT:
            body = struct.pack("<IIIIHHIIHHIIIIII", 7, 31, 0, 0, 12, 9, 1 << 16, 1, 1, 0, 0, *[0] * 5)[:64]
        elif opcode == _GETATTR and node == 1:
            now = int(time.time())
            owner = (os.getuid(), os.getgid())
            body = struct.pack("<QIIQQQQQQIII", 1, 0, 0, 1, 0, 0, now, now, now, 0, 0, 0)
            body += struct.pack("<IIIIIII", stat.S_IFDIR | 0o755, 2, *owner, 0, 4096, 0)
        else:
            error = -errno.ENOENT
        os.write(device, _OUT.pack(_OUT.size + len(body), error, unique) + body)
