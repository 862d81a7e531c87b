"""The documentation builds, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT


@pytest.mark.timeout(480)
def test_site_builds_strictly(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=450,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    python = (tmp_path / "site/reference/python/index.html").read_text()
    assert 'id="tracelet.start_logging"' in python
    assert 'id="tracelet.Experiment.log_metric"' in python
    own = (tmp_path / "site/guide/own-framework/index.html").read_text()
    for name in ("base.Framework.here", "base.Framework.places", "places.Place", "parameters.record_parameters"):
        assert f'id="tracelet.frameworks.{name}"' in own
    assert 'id="tracelet.patching.after"' in own
    pytorch = (tmp_path / "site/reference/frameworks/pytorch/index.html").read_text()
    assert 'id="tracelet.frameworks.pytorch.PyTorchFramework.log_enhanced_metric"' in pytorch


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (ROOT / "docs/decisions/index.md").read_text())
    assert listed == sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))
