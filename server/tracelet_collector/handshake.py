"""What a writer must say first, and what it hears when this collector cannot serve it."""

from __future__ import annotations

from typing import Final

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.version import __version__
from tracelet_collector.log.base import slot_of

__all__ = ["Refusal", "StreamKey", "check_hello", "key_of"]

StreamKey = tuple[str, str, int]
_MAX_ID: Final = 200
_MAX_WORD: Final = 4096


class Refusal(Exception):
    """A stream ends with a `Goodbye`."""

    def __init__(self, code: wire.Goodbye.Code.ValueType, message: str) -> None:
        self.code = code
        super().__init__(message)


def key_of(run: wire.RunSpec, writer: wire.WriterSpec) -> StreamKey:
    """What makes a stream: the run, the writer, and the writer's epoch."""
    return (run.run_id, writer.writer_id, writer.epoch)


def check_hello(hello: wire.Hello) -> None:
    """Check a greeting.

    Raises:
        Refusal: the versions do not go together, or it lacks what a stream needs.
    """
    _check_version(hello)
    for name, word, most in (
        ("run id", hello.run.run_id, _MAX_ID),
        ("writer id", hello.writer.writer_id, _MAX_ID),
        ("run name", hello.run.name or "-", _MAX_WORD),
        ("project", hello.run.project or "-", _MAX_WORD),
    ):
        if not word or len(word) > most:
            raise Refusal(wire.Goodbye.CODE_MALFORMED, f"the {name} must have 1 to {most} characters")
        if any(ord(character) < 32 for character in word):
            raise Refusal(wire.Goodbye.CODE_MALFORMED, f"the {name} has control characters")
    kinds = [slot_of(backend) for backend in hello.run.backends]
    if len(set(kinds)) < len(kinds) or not all(kinds):
        raise Refusal(wire.Goodbye.CODE_MALFORMED, "the run names a backend twice, or one without a kind")


def _check_version(hello: wire.Hello) -> None:
    theirs, ours = (hello.wire.major, hello.wire.minor), (codec.WIRE_MAJOR, codec.WIRE_MINOR)
    if theirs[0] == ours[0] and theirs[1] <= ours[1]:
        return
    client = f"tracelet {hello.client_version or 'of an unknown version'} in the training process speaks wire {_dotted(theirs)}"
    collector = f"this collector (tracelet {__version__}) speaks wire {_dotted(ours)}"
    if theirs > ours:
        remedy = (
            "upgrade the collector: pip install -U tracelet where it is installed, then `tracelet stop`; "
            "the next run starts it anew"
        )
    else:
        remedy = "upgrade the training process's side: pip install -U tracelet in its environment"
    raise Refusal(wire.Goodbye.CODE_VERSION, f"{client}, {collector}: {remedy}")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
