"""Which file system a folder lies on, and whether it is this machine's own.

The spool is mapped memory, and the log is SQLite with a write-ahead log: both want a disk that no other machine writes to,
whose locks and mappings are the kernel's own. On NFS a mapped page may be lost in silence, and a lock may be nobody's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FileSystem", "file_system"]

_REMOTE: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "cvfs", "davfs", "drvfs", "fuse", "fuseblk", "gfs", "gfs2", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs",
    }
)  # fmt: skip
# Beneath a container without root it is the root itself.
_OWN_BY_FUSE: Final = frozenset({"fuse.fuse-overlayfs"})
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system.

    Attributes:
        kind: its type, as the kernel names it.
        mounted_on: where.
        own: no other machine writes to it, and its locks and mappings are the kernel's own.
    """

    kind: str
    mounted_on: str
    own: bool


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> FileSystem | None:
    """The file system of a path, whether the path exists or not.

    Args:
        path: any path.
        mounts: the table of what is mounted.

    Returns:
        None where the system does not say (macOS).
    """
    try:
        table = mounts.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    real = os.path.realpath(path)
    best: tuple[str, str] | None = None
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        where = _ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[1])
        if real == where or real.startswith(where.rstrip("/") + "/"):
            # The last of several on one place is the one that is seen.
            best = (where, fields[2]) if best is None or len(where) >= len(best[0]) else best
    if best is None:
        return None
    where, kind = best
    remote = kind not in _OWN_BY_FUSE and (kind in _REMOTE or kind.startswith("fuse."))
    return FileSystem(kind, where, own=not remote)
