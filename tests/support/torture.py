"""What a run of the torture tests gave, as a Markdown table.

    python -m tests.support.torture build/torture.xml --seed 4711 --into build/torture.md

The rounds of a test are one row: which of a parametrised test's values are rounds is told by their being numbers.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.machine import describe

__all__ = ["Row", "cell", "rows", "table"]

_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Row:
    """A test, or one of its variants.

    Attributes:
        file: relative to the repository.
        test: the function.
        variant: its values that are no numbers; empty when there are none.
        outcomes: how often each was the outcome: passed, failed, skipped.
        seconds: of all rounds together.
    """

    file: str
    test: str
    variant: str
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def what(self) -> str:
        """The first line of the test's docstring, else its name in words; with the variant."""
        words = self.test.removeprefix("test_").replace("_", " ")
        for node in ast.walk(ast.parse((_ROOT / self.file).read_text())) if (_ROOT / self.file).exists() else ():
            if isinstance(node, ast.FunctionDef) and node.name == self.test:
                words = (ast.get_docstring(node) or words).splitlines()[0].rstrip(".")
        return f"{words}: {self.variant.replace('_', ' ')}" if self.variant else words


def rows(junit: Path) -> list[Row]:
    """The tests of a junit file, in its order."""
    found: dict[tuple[str, str, str], Row] = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        test, _, values = case.get("name", "").rstrip("]").partition("[")
        variant = "-".join(value for value in values.split("-") if not value.isdecimal())
        row = found.setdefault((file, test, variant), Row(file, test, variant))
        outcome = {"failure": "failed", "error": "failed", "skipped": "skipped"}
        row.outcomes[next((outcome[child.tag] for child in case if child.tag in outcome), "passed")] += 1
        row.seconds += float(case.get("time", 0))
    return list(found.values())


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def table(found: list[Row]) -> Iterator[str]:
    """The lines of the table."""
    yield "| what | test | rounds | passed | failed | skipped | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in found:
        counts = " | ".join(str(row.outcomes[each]) for each in ("passed", "failed", "skipped"))
        where = f"`{row.file}::{row.test}`"
        yield f"| {cell(row.what)} | {where} | {row.outcomes.total()} | {counts} | {row.seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("junit", type=Path, nargs="+", help="what pytest --junitxml wrote, in one or several parts")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--arguments", default="", help="those that pytest was given (ARGS)")
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args()
    machine = describe(_ROOT, ("torch", "grpcio", "mlflow"))
    rounds = os.environ.get("TRACELET_TORTURE_ROUNDS")
    extra = f" TRACELET_TORTURE_ROUNDS={rounds}" if rounds else ""
    extra += f' ARGS="{args.arguments}"' if args.arguments else ""
    lines = [
        f"`make torture TRACELET_TORTURE_SEED={args.seed}{extra}`",
        "",
        *table([row for part in args.junit for row in rows(part)]),
        "",
        ", ".join(f"{name} {value}" for name, value in machine.items()) + ".",
        "",
    ]
    args.into.parent.mkdir(parents=True, exist_ok=True)
    args.into.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
