"""How benchmarks say their figures: a table for people, JSON for whatever compares them later."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Figure", "Report", "spread"]


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
            said = {"title": self.title, "machine": self.machine, "figures": [asdict(each) for each in self.figures]}
            json_file.write_text(json.dumps(said, indent=2) + "\n")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and the range behind it."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"
