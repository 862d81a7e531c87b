"""Writes the table of settings into its page, from the settings' own docstrings and defaults.

python -m tests.support.configuration_page
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from tests.support.pages import ROOT
from tracelet.core.options import ENV_PREFIX, Options
from tracelet.settings import TraceletSettings

__all__ = ["PAGE", "table", "with_table"]

PAGE = ROOT / "docs/reference/configuration.md"
BEGIN, END = "<!-- settings: written by tests/support/configuration_page.py -->\n\n", "\n\n<!-- end of settings -->"
# Where the guide tells more.
MORE = {
    "home": "[On a network file system](../guide/troubleshooting.md#a-home-on-nfs-lustre-or-fuse)",
    "id": "[Preempted jobs](../guide/preempted-jobs.md)",
    "resume": "[Preempted jobs](../guide/preempted-jobs.md)",
    "writer_prefix": "[Labels](../guide/unmodified-code.md#names-and-labels)",
    "retention_days": "[Retention](../guide/retention.md)",
    "retention_bytes": "[Retention](../guide/retention.md)",
    "stop_wait": "[Where that is](../guide/what-survives.md#a-machine-that-goes-away-with-the-script)",
    "ranks": "[Ranks](../guide/processes.md#ranks)",
    "child_runs": "[Child runs](../guide/processes.md#child-runs)",
    "optimizer_every": "[Optimizers](frameworks/optimizers.md)",
    "plugins": "[A framework of your own](../guide/own-framework.md)",
}
# What stands for None.
MADE = {
    "home": "the platform's state directory (`~/.local/state/tracelet`)",
    "run_name": "the script's name and the time",
    "id": "a new one",
    "spool_cap_bytes": "2 GiB, or a tenth of the disk",
    "optimizer_every": "each one's own rhythm: every step of a population optimizer, every 50th of an ordinary one",
}


def table() -> str:
    """The table, in Markdown."""
    rows = ["| variable | setting | default | |", "|---|---|---|---|"]
    for name, default, about in _settings(TraceletSettings, Options(), ""):
        variable = ENV_PREFIX + name.upper().replace(".", "__")
        rows.append(
            f"| `{variable}` | `{name}` | {_shown(name, default)} | {'. '.join(filter(None, [about, MORE.get(name)]))} |"
        )
    return "\n".join(rows)


def with_table(page: str) -> str:
    """A page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def _settings(kind: Any, defaults: Any, prefix: str) -> Iterator[tuple[str, Any, str]]:
    about = _attributes(kind)
    for name, field in kind.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _settings(field.annotation, getattr(defaults, name), f"{name}.")
        else:
            yield prefix + name, getattr(defaults, name), about[name]


def _attributes(kind: type) -> dict[str, str]:
    """What a docstring says of each attribute, in a line."""
    _, _, section = inspect.getdoc(kind).partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.+?)(?=\n    \w+: |\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    # What stands for None is the default.
    return {name: " ".join(text.split("; None for ")[0].split()).removesuffix(".") for name, text in found}


def _shown(name: str, default: Any) -> str:
    if default is None or default in ({}, ()):
        return MADE.get(name, "none")
    if isinstance(default, tuple):
        default = ",".join(default)
    return f"`{default:g}`" if isinstance(default, float) else f"`{str(default).lower()}`"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
