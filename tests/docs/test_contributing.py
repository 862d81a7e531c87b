"""What the page for contributors and the hooks of pre-commit call is in the Makefile."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.support.pages import ROOT

STAGES = {"pre-commit", "pre-push"}


@pytest.fixture(scope="module")
def commands() -> set[str]:
    """The Makefile's commands, as its help names them."""
    return set(re.findall(r"^## make ([\w-]+)", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def hooks() -> list[dict[str, Any]]:
    document = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert set(document["default_install_hook_types"]) == STAGES
    (repository,) = document["repos"]
    assert repository["repo"] == "local"  # nothing is fetched
    return list(repository["hooks"])


def test_every_command_of_the_makefile_is_a_target(commands: set[str]) -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands <= set(" ".join(phony).split())


def test_contributors_are_told_every_command(commands: set[str]) -> None:
    told = set(re.findall(r"^\| `make ([\w-]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert told == commands - {"format", "proto-check"}  # told beside others


def test_hooks_call_make(hooks: list[dict[str, Any]], commands: set[str]) -> None:
    for hook in hooks:
        make, command = hook["entry"].split()
        assert make == "make"
        assert command in commands
        assert (hook["id"], hook["name"]) == (command, hook["entry"])
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
        assert set(hook.get("stages", ["pre-commit"])) <= STAGES
        re.compile(hook.get("files", ""))
    assert {"lint", "typecheck", "test"} <= {hook["id"] for hook in hooks}


def test_continuous_integration_calls_what_contributors_call() -> None:
    called = re.findall(r"^make (.+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert "lint typecheck test" in called
