"""What the pages about optimizers say of parameters is what there is, and their examples run."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest
import torch

from tests.support.pages import ROOT, Block, blocks
from tracelet import optim
from tracelet.optim.settings import ALIASES, COMMON, spelled

PAGES = ("index", "choosing", "parameters", "convergence")
EXAMPLES = [block for block in blocks("py") if block.page in {f"docs/optim/{page}.md" for page in PAGES}]
OPTIMIZERS = ("BFO", "AdaptiveBFO", "HybridBFO", "CMAES", "DifferentialEvolution", "ParticleSwarm")
PAGE = (ROOT / "docs/optim/parameters.md").read_text()


def sections() -> dict[str, str]:
    """The parts of the page by their headings."""
    return dict(re.findall(r"^## (\w[\w ]*)\n(.+?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def listed(section: str) -> dict[str, Any]:
    """The parameters of a table with the defaults that it says."""
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE)
    assert len(rows) == len({name for name, _ in rows}), "a parameter is listed twice"
    return {name: ast.literal_eval(default) for name, default in rows}


def own(name: str) -> dict[str, Any]:
    """The parameters of an optimizer, as its signature has them."""
    parameters = inspect.signature(getattr(optim, name)).parameters.values()
    return {each.name: each.default for each in parameters if each.kind != each.VAR_KEYWORD and each.name != "params"}


def test_the_page_has_every_optimizer() -> None:
    kinds = [getattr(optim, name) for name in optim.__all__]
    known = {
        kind.__name__ for kind in kinds if inspect.isclass(kind) and issubclass(kind, optim.PopulationOptimizer)
    } - {"PopulationOptimizer"}
    assert set(OPTIMIZERS) == known
    assert sections().keys() == {"All optimizers", *known}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_there_with_its_default(name: str) -> None:
    assert listed(sections()[name]) == own(name)


def test_every_common_parameter_is_there_with_its_default() -> None:
    assert listed(sections()["All optimizers"]) == COMMON


def test_every_row_is_whole() -> None:
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            assert len(cells) == 5, line
            assert all(cell.strip() for cell in cells), line


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_other_spellings_are_those_that_are_taken(name: str) -> None:
    taken = set()
    for alias in ALIASES:
        try:
            spelled({alias: 1}, own(name))
        except TypeError:
            continue
        taken.add(alias)
    told = re.search(r"^Other spellings: (.+)\.$", sections()[name], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", told[1] if told else "")) == taken


def test_what_is_said_to_be_fixed_is_no_setting_or_cannot_be_edited() -> None:
    fixed = {name: set(re.findall(r"^\| `(\w+)` .*\*Fixed\*", text, re.MULTILINE)) for name, text in sections().items()}
    assert COMMON.keys() - optim.BFO([torch.zeros(2)]).defaults.keys() <= fixed["All optimizers"]
    for name in OPTIMIZERS:
        optimizer = getattr(optim, name)([torch.zeros(2)])
        optimizer.step(lambda: 1.0) if name != "HybridBFO" else optimizer.ask()
        for setting in (fixed["All optimizers"] | fixed[name]) & optimizer.defaults.keys():
            before = optimizer.defaults[setting]
            optimizer.defaults[setting] = "other"
            with pytest.raises(ValueError, match=f"{setting} cannot change once the search has begun: it stays"):
                optimizer.ask()
            assert optimizer.defaults[setting] == optimizer.param_groups[0][setting] == before
        optimizer.ask()


def test_the_pages_name_no_parameter_that_does_not_exist() -> None:
    known = {"params", *COMMON, *ALIASES, *(each for name in OPTIMIZERS for each in own(name))}
    known |= set(inspect.signature(optim.PopulationObjective).parameters) | {"flat"}
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (ROOT / f"docs/optim/{page}.md").read_text(), flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"`(\w+)=[^`]+`", text)) | set(re.findall(r'`optimizer\.defaults\["(\w+)"\]', text))
        assert named <= known, page


def test_there_are_examples() -> None:
    assert {block.page for block in EXAMPLES} >= {"docs/optim/index.md", "docs/optim/choosing.md"}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_run(example: Block, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example.code, str(example), "exec"), {"__name__": "__main__"})
    assert ("print(" in example.code) == bool(capsys.readouterr().out)
