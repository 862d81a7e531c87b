"""The table that `make torture` makes, and the one in the documentation."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.pages import ROOT
from tests.support.torture import Row, rows, table

TESTS = """
import pytest

@pytest.mark.parametrize("round", range(3))
@pytest.mark.parametrize("kill", ["kill_all", "kill_worker"])
def test_kills(kill, round):
    '''Who is killed.

    And more.
    '''
    assert (kill, round) != ("kill_all", 1)

def test_that_cannot_run(): pytest.skip("not here")

@pytest.fixture
def broken(): raise RuntimeError

def test_with_a_broken_fixture(broken): pass
"""


def test_rounds_of_a_test_are_one_row(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    found = rows(tmp_path / "out.xml")
    assert [(row.test, row.variant, dict(row.outcomes)) for row in found] == [
        ("test_kills", "kill_all", {"passed": 2, "failed": 1}),
        ("test_kills", "kill_worker", {"passed": 3}),
        ("test_that_cannot_run", "", {"skipped": 1}),
        ("test_with_a_broken_fixture", "", {"failed": 1}),
    ]


def test_a_row_says_what_its_test_says() -> None:
    here = Row("tests/docs/test_torture.py", "test_a_row_says_what_its_test_says", "kill_all")
    assert here.what == "a row says what its test says: kill all"
    (_, _, line) = table([here])
    assert line.split(" | ")[1] == "`tests/docs/test_torture.py::test_a_row_says_what_its_test_says`"


def test_page_names_torture_tests_that_exist() -> None:
    page = (ROOT / "docs/torture.md").read_text()
    assert re.search(r"TRACELET_TORTURE_SEED=\d+", page)
    named = set(re.findall(r"^\| .+ \| `(\S+?)::(\w+)` \|", page, re.MULTILINE))
    assert len(named) >= 5
    for file, test in named:
        functions = [
            node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
        ]
        marks = [ast.unparse(mark) for node in functions if node.name == test for mark in node.decorator_list]
        assert "pytest.mark.torture" in marks, f"{file}::{test}"
