"""Reads from a file of `torch.save` which run wrote it: nothing else is loaded, and nothing that the file names is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import Any

from tracelet.core.plan import check_run_id
from tracelet.core.resuming import KEY

__all__ = ["peek"]

_PARTS = "meta.pt"  # of a checkpoint in several files, what is no tensor


def peek(path: str | os.PathLike[str]) -> str:
    """The id of the run that a checkpoint names; empty where it names none, or cannot be read here.

    Args:
        path: a file, or a folder of a checkpoint in several files.
    """
    file = os.path.join(path, _PARTS) if os.path.isdir(path) else os.fspath(path)
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as data:
                found = _Reader(data).load()
        return check_run_id(found[KEY]) if isinstance(found, dict) and KEY in found else ""
    except Exception:  # whatever it is, the library that loads it says what is wrong with it
        return ""


class _Reader(pickle.Unpickler):
    """Puts something that does nothing in the place of every class and function that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        return _Anything

    def persistent_load(self, identity: Any) -> Any:
        return None


class _Anything:
    def __new__(cls, *args: Any, **kwargs: Any) -> _Anything:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, name: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Anything:
        return self

    def __hash__(self) -> int:
        return id(self)
