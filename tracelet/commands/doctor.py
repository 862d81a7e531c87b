"""`tracelet doctor`: what is installed, what would be captured, where everything is, what is wrong, and how to mend it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from tracelet.commands import check_capture, check_collector, check_home, check_packages, check_settings
from tracelet.commands.findings import Finding, Level

__all__ = ["as_document", "examine", "show"]

_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def show(*, as_json: bool, deep: bool) -> int:
    """Look at everything, and print it.

    Args:
        as_json: as the stable JSON document; otherwise for people.
        deep: import the libraries too, in a process of their own, to see what is patched by whom.

    Returns:
        The exit code: 1 when there is a problem.
    """
    findings = examine(deep=deep)
    if as_json:
        json.dump(as_document(findings), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print(findings)
    return 1 if any(finding.level is Level.PROBLEM for finding in findings) else 0


def examine(*, deep: bool) -> list[Finding]:
    """Everything that there is to see."""
    options, settings = check_settings.findings()
    home, places = check_home.findings(options)
    return [
        *check_packages.findings(options),
        *check_capture.findings(options, deep=deep),
        *places,
        *(check_collector.findings(home) if home is not None else ()),
        *settings,
    ]


def as_document(findings: Sequence[Finding]) -> dict[str, object]:
    """The JSON document that scripts may rely on."""
    levels = [finding.level for finding in findings]
    return {
        "problems": levels.count(Level.PROBLEM),
        "warnings": levels.count(Level.WARNING),
        "findings": [{**asdict(finding), "level": finding.level.value} for finding in findings],
    }


def _print(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    about = ""
    for finding in findings:
        if finding.about != about:
            about = finding.about
            console.print(Text(f"\n{about}" if finding is not findings[0] else about, style="bold"))
        mark = (f"  {finding.level.value:<8}", _STYLES[finding.level])
        console.print(Text.assemble(mark, f" {finding.subject}: {finding.text}"), soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':11}-> {finding.remedy}"), soft_wrap=True)
    problems, warnings = (
        sum(finding.level is level for finding in findings) for level in (Level.PROBLEM, Level.WARNING)
    )
    console.print(f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
