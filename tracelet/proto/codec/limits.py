"""The wire's version and the largest batch that it carries."""

from typing import Final

__all__ = ["MAX_BATCH_BYTES", "MAX_BATCH_RECORDS", "WIRE_MAJOR", "WIRE_MINOR"]

WIRE_MAJOR: Final = 1
WIRE_MINOR: Final = 0
MAX_BATCH_RECORDS: Final = 10_000  # events and points; spans may cover more positions
MAX_BATCH_BYTES: Final = 3 * 1024 * 1024
