"""The versions that a framework is made for are those that its page, pyproject.toml and both pinned sets name."""

from __future__ import annotations

import importlib.metadata
import re

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.pages import ROOT
from tracelet.frameworks import Framework
from tracelet.frameworks.table import FRAMEWORKS, kind_of
from tracelet.frameworks.versions import dotted, reaches

KINDS = {identifier: kind_of(identifier) for identifier in FRAMEWORKS}
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs/reference/frameworks").glob("*.md")}
NOT_TWICE = {"torch"}  # its older builds cannot be had everywhere without CUDA
OUTSIDE = {"fastai"}  # it asks for another torch: the Makefile installs it alone


def pins(file: str) -> dict[str, str]:
    lines = [line.partition("==") for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in lines}


NEWEST, OLDEST = pins("constraints.txt"), pins("constraints-oldest.txt")


def supported(kind: type[Framework]) -> str:
    return f"Supported: {kind.package} {dotted(kind.since)} and later, below {dotted(kind.before)}."


def trimmed(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def bounds(package: str) -> list[dict[str, str]]:
    """What pyproject.toml asks for of a package, by operator; one for each place that names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = [Requirement(line) for line in lines]
    return [
        {each.operator: each.version for each in requirement.specifier}
        for requirement in found
        if canonicalize_name(requirement.name) == canonicalize_name(package)
    ]


@pytest.mark.parametrize("identifier", KINDS)
def test_its_page_says_so(identifier: str) -> None:
    line = supported(KINDS[identifier])
    pages = [PAGES[identifier.lower()]] if identifier.lower() in PAGES else PAGES.values()
    assert any(line in page for page in pages), f"the page of {identifier} does not say: {line}"


def test_no_page_says_anything_else() -> None:
    said = {line for page in PAGES.values() for line in re.findall(r"Supported: .+?\.(?=\s|$)", page)}
    assert said <= {supported(kind) for kind in KINDS.values()}


@pytest.mark.parametrize("package", sorted({kind.package for kind in KINDS.values()}))
def test_the_packages_that_are_asked_for_are_in_its_range(package: str) -> None:
    (kind, *others) = [kind for kind in KINDS.values() if kind.package == package]
    assert {(each.since, each.before) for each in others} <= {(kind.since, kind.before)}
    asked = bounds(package)
    assert asked or package in OUTSIDE, f"pyproject.toml installs no {package}"
    for each in asked:
        assert trimmed(each[">="]) == trimmed(dotted(kind.since)), f"{package}: {each}, since {kind.since}"
        assert "<" not in each or trimmed(each["<"]) == trimmed(dotted(kind.before)), f"{package}: {each}"
    newest = NEWEST[canonicalize_name(package)]
    assert reaches(newest, kind.since), f"constraints.txt has {package} {newest}"
    assert reaches(newest, kind.before) is False, f"constraints.txt has {package} {newest}"
    if package not in NOT_TWICE:
        oldest = OLDEST[canonicalize_name(package)]
        assert f"{oldest}.".startswith(f"{dotted(kind.since)}."), f"constraints-oldest.txt has {package} {oldest}"


def test_the_tests_run_at_one_end_of_the_ranges() -> None:
    """The newest by `make test`, the oldest by `make oldest`."""
    packages = {canonicalize_name(kind.package) for kind in KINDS.values()}
    here = {package: importlib.metadata.version(package).partition("+")[0] for package in packages}
    newest = {package: NEWEST[package] for package in packages}
    assert here in (newest, newest | {package: OLDEST[package] for package in packages - NOT_TWICE})
