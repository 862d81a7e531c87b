"""The wire's version and the largest batch that it carries."""

from typing import Final

__all__ = [
    "MAX_ARTIFACT_PATH",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_RECORDS",
    "MAX_BLOB_BYTES",
    "UPLOAD_CHUNK",
    "WIRE_MAJOR",
    "WIRE_MINOR",
]

WIRE_MAJOR: Final = 1
WIRE_MINOR: Final = 2
MAX_BATCH_RECORDS: Final = 10_000  # events and points; spans may cover more positions
MAX_BATCH_BYTES: Final = 3 * 1024 * 1024
MAX_BLOB_BYTES: Final = 1 << 40
UPLOAD_CHUNK: Final = 512 * 1024
MAX_ARTIFACT_PATH: Final = 1000  # characters
