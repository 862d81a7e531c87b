"""The content-addressed store: what is too large for a record, kept once, under its hash.

<home>/log/blobs/<first two hex digits>/<sha256>
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["blob_path"]


def blob_path(root: Path, sha256: str) -> Path:
    """Where the content with a hash is.

    Args:
        root: the store's folder.
        sha256: 64 hex digits.
    """
    return root / sha256[:2] / sha256
