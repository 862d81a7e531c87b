"""The spool's file format: what a writer leaves on disk, and what anybody may read of it. No dependencies."""

from tracelet.spoolfile.directory import SpoolDirectory, SpoolInfo
from tracelet.spoolfile.reader import SpoolReader
from tracelet.spoolfile.slots import BlobKind, SlotDecoder, SpoolBlob, SpoolItem, SpoolLost, SpoolPoint, SpoolVoid

__all__ = [
    "BlobKind",
    "SlotDecoder",
    "SpoolBlob",
    "SpoolDirectory",
    "SpoolInfo",
    "SpoolItem",
    "SpoolLost",
    "SpoolPoint",
    "SpoolReader",
    "SpoolVoid",
]
