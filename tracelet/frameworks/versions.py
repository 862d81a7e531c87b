"""The version of a library that is imported, or in the middle of being so, beside the range that a framework is made for."""

from __future__ import annotations

import os
import re
import sys

__all__ = ["dotted", "reaches", "version_of"]


def version_of(package: str) -> str:
    """A package's `__version__`; empty when nobody can tell it.

    Many packages set it last, when what is listened to has been imported for long. Then the name of the folder of its metadata
    tells it, if that lies beside the package.
    """
    module = sys.modules.get(package)
    if isinstance(said := getattr(module, "__version__", None), str) and said:
        return said
    file = getattr(module, "__file__", None)
    try:
        beside = os.listdir(os.path.dirname(os.path.dirname(file))) if file else []
    except OSError:
        return ""
    for name in map(str, beside):
        distribution, _, rest = name.partition("-")
        if rest.endswith(".dist-info") and re.sub(r"[-_.]+", "_", distribution).lower() == package.lower():
            return rest.removesuffix(".dist-info")
    return ""


def reaches(version: str, bound: tuple[int, ...]) -> bool | None:
    """Whether a version is a bound or newer; None when it has no number. A pre-release counts as the release."""
    found = re.match(r"\d+(\.\d+)*", version)
    if found is None:
        return None
    numbers = [int(part) for part in found[0].split(".")]
    return (*numbers, *[0] * (len(bound) - len(numbers))) >= bound


def dotted(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))
