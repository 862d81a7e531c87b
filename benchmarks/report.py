"""How benchmarks say their figures: a table for people, JSON for whatever compares them later.

The JSON files become the second half of docs/benchmarks.md by

    python benchmarks/report.py build/bench-*.json --into docs/benchmarks.md

where each replaces the section with its title; those of benchmarks that were not run again stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Figure", "Report", "markdown", "replaced", "spread"]

MARK = "<!-- figures: written by benchmarks/report.py -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing.

    Attributes:
        what: what was measured.
        value: the median, as it is shown, with its unit.
        beside: what it is compared with in the same run; empty when nothing.
        target: what DESIGN asks for; empty when nothing.
        met: whether the target is met; None where there is none.
        rounds: the single measurements.
    """

    what: str
    value: str
    beside: str = ""
    target: str = ""
    met: bool | None = None
    rounds: Sequence[float] = ()


@dataclass(slots=True)
class Report:
    """The figures of one benchmark."""

    title: str
    machine: Mapping[str, str]
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        what: str,
        value: str,
        *,
        beside: str = "",
        target: str = "",
        met: bool | None = None,
        rounds: Sequence[float] = (),
    ) -> None:
        """Add a figure."""
        self.figures.append(Figure(what, value, beside, target, met, list(rounds)))

    def show(self, json_file: Path | None) -> None:
        """Print the table, and write the same as JSON where that is asked for."""
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        table = Table(title=self.title, title_justify="left")
        for name, justify in (("", "left"), ("measured", "right"), ("beside", "right"), ("target", "right")):
            table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for figure in self.figures:
            colour = {True: "green", False: "red", None: ""}[figure.met]
            value = f"[{colour}]{figure.value}[/]" if colour else figure.value
            table.add_row(figure.what, value, figure.beside, figure.target)
        console.print(table)
        console.print(" · ".join(f"{name} {value}" for name, value in self.machine.items()), style="dim")
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            said = {"title": self.title, "machine": self.machine, "figures": [asdict(each) for each in self.figures]}
            json_file.write_text(json.dumps(said, indent=2) + "\n")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and the range behind it."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def markdown(said: Mapping[str, Any]) -> str:
    """A benchmark's JSON as a section of a page."""
    lines = [
        f"## {said['title'][0].upper()}{said['title'][1:]}",
        "",
        "| | measured | beside | target |",
        "|---|---|---|---|",
    ]
    for figure in said["figures"]:
        target = figure["target"]
        if figure["met"] is False:
            target += " (missed)"
        lines.append(f"| {figure['what']} | {figure['value']} | {figure['beside']} | {target} |")
    lines += ["", ", ".join(f"{name} {value}" for name, value in said["machine"].items()) + ".", ""]
    return "\n".join(lines)


def replaced(page: str, sections: Sequence[str]) -> str:
    """A page's text with some sections, of `markdown`, in the place of those with the same titles, or at its end.

    Raises:
        ValueError: when the page has no mark behind which sections are.
    """
    before, mark, after = page.partition(MARK)
    if not mark:
        raise ValueError(f"there is no line {MARK}")
    known = {_title(each): each for each in re.split(r"^(?=## )", after, flags=re.MULTILINE) if each.strip()}
    known.update((_title(each), each) for each in sections)
    return before + mark + "\n\n" + "\n".join(each.strip() + "\n" for each in known.values())


def _title(section: str) -> str:
    return section.lstrip().partition("\n")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks' JSON files as Markdown.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="a page; sections behind its mark are replaced")
    args = parser.parse_args()
    sections = [markdown(json.loads(file.read_text())) for file in args.files]
    try:
        args.into.write_text(replaced(args.into.read_text(), sections))
    except ValueError as error:
        parser.error(f"{args.into}: {error}")


if __name__ == "__main__":
    main()
