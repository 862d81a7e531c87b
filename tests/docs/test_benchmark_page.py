"""The page of figures: a benchmark that ran again replaces its own section, and no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_section_is_replaced_by_the_one_with_its_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "report", raising=False)
    import report

    page = f"# Figures\n\nwords\n\n{report.MARK}\n\n## One\n\nold\n\n## Two\n\nkept\n"
    figures = [{"what": "speed", "value": "2", "beside": "", "target": "≤ 1", "met": False}]
    sections = [
        report.markdown({"title": title, "machine": {"cores": "2"}, "figures": figures}) for title in ("one", "three")
    ]
    page = report.replaced(page, sections)
    assert page.startswith(f"# Figures\n\nwords\n\n{report.MARK}\n\n## One\n")
    assert "old" not in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## One", "## Two", "## Three"]
    assert "## Two\n\nkept\n\n## Three\n" in page
    assert page.count("| speed | 2 |  | ≤ 1 (missed) |") == 2
    assert report.replaced(page, sections) == page
    with pytest.raises(ValueError, match="no line"):
        report.replaced("# Figures\n", sections)
