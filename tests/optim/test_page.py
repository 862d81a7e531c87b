"""The examples of the page about optimizers run as they stand."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT
from tracelet import optim

PAGE = (ROOT / "docs/reference/optim.md").read_text()
EXAMPLES = re.findall(r"^```py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example: str) -> None:
    exec(compile(example, "optim.md", "exec"), {})


def test_the_page_tells_all_public_names() -> None:
    told = set(re.findall(r"^::: tracelet\.optim\.(\w+)$", PAGE, re.MULTILINE))
    assert told == set(optim.__all__)
    assert len(EXAMPLES) == 2


def test_the_page_tells_all_of_the_status() -> None:
    import torch

    told = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## Status") : PAGE.index("## Schedules")]))
    for name in ("BFO", "AdaptiveBFO", "HybridBFO"):
        known = set(getattr(optim, name)([torch.ones(2)]).status)
        assert known - told <= {
            "coordinate_share",
            "swim_probability",
            "swarm_size",
            "swarm_sigma",
            "gradient_evaluations",
        }
