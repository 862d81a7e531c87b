"""Translates spool items into batches, and batches into records: the one place where either happens.

The writer's sender and the collector's adoption cut the same spool into batches with `encode`; the collector checks them
with `validate`, trims what it has with `cut`, stores the bytes as they came, and whoever delivers reads them with `decode`.
"""

from tracelet.proto.codec.checks import MalformedBatch, Tally, blobs, is_artifact_path, tally, validate
from tracelet.proto.codec.decoding import cut, decode
from tracelet.proto.codec.encoding import encode
from tracelet.proto.codec.limits import (
    MAX_ARTIFACT_PATH,
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    MAX_BLOB_BYTES,
    UPLOAD_CHUNK,
    WIRE_MAJOR,
    WIRE_MINOR,
)
from tracelet.proto.codec.statuses import status_from_wire, status_to_wire

__all__ = [
    "MAX_ARTIFACT_PATH",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_RECORDS",
    "MAX_BLOB_BYTES",
    "UPLOAD_CHUNK",
    "WIRE_MAJOR",
    "WIRE_MINOR",
    "MalformedBatch",
    "Tally",
    "blobs",
    "cut",
    "decode",
    "encode",
    "is_artifact_path",
    "status_from_wire",
    "status_to_wire",
    "tally",
    "validate",
]
