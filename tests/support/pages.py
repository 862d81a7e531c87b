"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "examples", "pages"]

ROOT = Path(__file__).resolve().parents[2]
_UNDER_A_HEADING = re.compile(r"^##+ ([^\n]+)$(?:(?!^#).)*?^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: relative to the repository.
        line: of its first line.
        language: as the fence names it.
    """

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The README and everything under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(*languages: str) -> list[Block]:
    """The blocks in these languages, page by page."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start(2)) + 1
                found.append(Block(str(page.relative_to(ROOT)), line, match[1], match[2]))
    return found


def examples(page: str) -> dict[str, str]:
    """A page's examples that begin no run (`py`, not `python`), by the heading above: one for each that has any."""
    return dict(_UNDER_A_HEADING.findall((ROOT / page).read_text()))
