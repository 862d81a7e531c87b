"""Parameters that the script's code has: of argparse, jsonargparse, absl, OmegaConf and Hydra, as the user names them."""

from __future__ import annotations

import argparse
import enum
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from tests.provenance.support import gathered, params
from tests.support.clients import PRELUDE, Client, client
from tests.support.commands import TRACELET, run
from tracelet.core.metrics import Params
from tracelet.provenance import parameters
from tracelet.provenance.arguments import _OTHERS, listen
from tracelet.provenance.parameters import flatten, in_frames


class Colour(enum.Enum):
    RED = 1


class Plain:
    pass


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_values_as_they_are_told() -> None:
    given = {
        "lr": 0.1, "n": 3, "flag": True, "nothing": None, "name": "a", "path": Path("/a"), "colour": Colour.RED,
        "list": [1, "b", None, [2]], "tuple": (1.5,), "set": {"b", "a"}, "empty": {}, "dtype": torch.float32,
        "function": flatten, "kind": dict, "plain": Plain(), "broken": Broken(), "tensor": torch.zeros(2, 3),
        "array": numpy.zeros(4), "range": range(3), "device": torch.device("cpu"), "inf": float("inf"),
        "model": {"layers": 2, "head": argparse.Namespace(size=4)}, 3: "x",
    }  # fmt: skip
    assert flatten(given) == {
        "lr": 0.1, "n": 3, "flag": True, "nothing": None, "name": "a", "path": "/a", "colour": "RED",
        "list": '[1, "b", null, [2]]', "tuple": "[1.5]", "set": '["a", "b"]', "empty": "{}", "dtype": "torch.float32",
        "function": "tracelet.provenance.parameters.flatten", "kind": "builtins.dict",
        "plain": f"{__name__}.Plain", "broken": "Broken", "tensor": "Tensor(2, 3)", "array": "ndarray(4,)",
        "range": "[0, 1, 2]", "device": "cpu", "inf": float("inf"), "model.layers": 2, "model.head.size": 4, "3": "x",
    }  # fmt: skip
    assert len(flatten({str(number): number for number in range(5000)})) == 2000
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert len(flatten(endless)) == 1
    assert flatten({"long": list(range(500))})["long"].endswith("198, 199, …]")


def above(namespaces: bool = True) -> dict[str, Any]:
    return in_frames(sys._getframe(), namespaces)


def test_the_nearest_frame_that_has_any() -> None:
    def near() -> dict[str, Any]:
        args = argparse.Namespace(lr=0.1)
        more = argparse.Namespace(lr=0.2, size=2)
        assert args != more
        return above()

    def far() -> dict[str, Any]:
        args = argparse.Namespace(far=1)
        assert args.far
        return above() if near() == {"lr": 0.1, "size": 2} else {}

    assert far() == {"far": 1}
    other = SimpleNamespace(lr=3)
    assert other.lr
    assert above() == {}


def test_objects_that_do_not_like_to_be_asked() -> None:
    class Lazy:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("not set up yet")

    lazy, args = Lazy(), argparse.Namespace(lr=0.1)
    assert above() == {"lr": args.lr}
    assert type(lazy) is Lazy


def test_the_main_module_is_the_last_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "args", argparse.Namespace(lr=0.1), raising=False)
    assert above() == {"lr": 0.1}
    assert above(namespaces=False) == {}


def test_a_configuration_of_omegaconf(monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    monkeypatch.setenv("PRIVATE", "mine")
    called: list[None] = []
    OmegaConf.register_new_resolver("mine", lambda: called.append(None), replace=True)
    text = {"lr": 0.1, "model": {"size": "${width}", "sizes": [1, 2]}, "width": 4, "user": "${oc.env:PRIVATE}"}
    config = OmegaConf.create(text)
    expected = {"lr": 0.1, "model.size": 4, "model.sizes": "[1, 2]", "width": 4, "user": "${oc.env:PRIVATE}"}
    assert config.lr
    assert above() == expected
    more = {"mine": "${mine:}", "missing": "???", "name": "w${width}-${mine:}", "group": "${model}", "loop": "${loop}"}
    config.merge_with(more)
    assert above() == {**expected, **more, "name": "w4-${mine:}"}
    assert called == [], "code of the user's is not run"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is heard of argparse. These tests run below pytest, which parses for itself too."""
    monkeypatch.setattr("tracelet.provenance.arguments._OTHERS", _OTHERS - {"pytest", "_pytest"})
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.5", "rest"])
    told: list[dict[str, Any]] = []
    before = argparse.ArgumentParser.__dict__["parse_known_args"]
    end = listen(told.append)
    yield told
    end()
    assert argparse.ArgumentParser.__dict__["parse_known_args"] is before


def parser(kind: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    made = kind()
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--batch-size", type=int, default=8)
    made.add_argument("what", nargs="?")
    return made


def test_the_own_command_line_with_its_defaults(heard: list[dict[str, Any]]) -> None:
    expected = {"lr": 0.5, "batch_size": 8, "what": "rest"}
    assert vars(parser().parse_args()) == expected
    parser().parse_args(sys.argv[1:])
    parser().parse_known_args()
    assert heard == [expected] * 3


def test_other_lists_and_errors_are_not_it(heard: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]) -> None:
    parser().parse_args(["--lr", "3"])
    parser().parse_args([])
    sys.argv[2] = "much"
    with pytest.raises(SystemExit) as end:
        parser().parse_args()
    assert (end.value.code, heard) == (2, [])
    assert "invalid float value: 'much'" in capfd.readouterr().err


def test_a_command_with_sub_commands_is_told_once(heard: list[dict[str, Any]]) -> None:
    sys.argv[1:] = ["fit", "--lr", "0.5"]
    outer = argparse.ArgumentParser()
    commands = outer.add_subparsers(dest="command")
    fit = commands.add_parser("fit")
    fit.add_argument("--lr", type=float)
    fit.set_defaults(run=parser)
    outer.parse_args()
    assert heard == [{"command": "fit", "lr": 0.5, "run": f"{__name__}.parser"}]


def test_parsers_of_launchers_are_theirs(heard: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile("def call(parser): return parser.parse_args()", "run.py", "exec")
    for module, count in {"torch.distributed.run": 0, "_pytest.config": 1, "train": 2}.items():
        names: dict[str, Any] = {"__name__": module}
        exec(code, names)
        names["call"](parser())
        assert len(heard) == count


def test_who_has_wrapped_a_parser_is_not_its_caller(heard: list[dict[str, Any]]) -> None:
    """ClearML wraps `ArgumentParser.parse_args` for good when it is imported, whoever imports it."""

    def within(module: str, call: Any) -> Any:
        names: dict[str, Any] = {"__name__": module, "inner": call}
        exec("def call(parser): return inner(parser)", names)
        return names["call"]

    wrapped = within("clearml.binding.args", argparse.ArgumentParser.parse_args)
    within("torch.distributed.run", wrapped)(parser())
    assert heard == []
    within("train", wrapped)(parser())
    assert len(heard) == 1


def test_jsonargparse_but_not_lightnings_parsers(heard: list[dict[str, Any]]) -> None:
    import jsonargparse

    sys.argv[1:] = ["--model.lr", "0.5"]

    def parse(kind: Any) -> Any:
        made = kind()
        made.add_argument("--model.lr", type=float, default=0.1)
        made.add_argument("--size", type=int, default=3)
        return made.parse_args()

    parse(jsonargparse.ArgumentParser)
    assert heard == [{"model.lr": 0.5, "size": 3}]
    lightning = type("LightningArgumentParser", (jsonargparse.ArgumentParser,), {"__module__": "lightning.pytorch.cli"})
    parse(lightning)
    assert len(heard) == 1


def test_what_is_parsed_after_the_start_and_nothing_after_the_end(home: Path, heard: list[dict[str, Any]]) -> None:
    with gathered(home):
        parser().parse_args()
    parser().parse_args()
    assert params(home) == {"lr": 0.5, "batch_size": 8, "what": "rest"}


def test_absl(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys; sys.path[:0] = sys.argv.pop().split(":")
from absl import app, flags
flags.DEFINE_float("lr", 0.1, "")
flags.DEFINE_list("sizes", ["1", "2"], "")
from tracelet.provenance.parameters import of_absl
assert of_absl() == {}
def main(words):
    print(of_absl())
app.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--lr", "0.5", ":".join(sys.path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "{'lr': 0.5, 'sizes': '[\"1\", \"2\"]'}\n", done.stderr
    assert parameters.of_absl() == {}


HYDRA = """
import hydra, tracelet
@hydra.main(version_base=None, config_path=".", config_name="config")
def train(cfg):
    if cfg.starts:
        tracelet.start_logging(exp_name=cfg.name)
    tracelet.get_active_experiment().log_metric("loss", 1.0, 0)
    if cfg.starts:
        tracelet.stop_logging()
"""
CONFIG = """
lr: 0.1
name: hydra
starts: true
model: {size: 3, twice: "${model.size}", api_key: k3y-of-mine}
hydra: {run: {dir: out}}
"""


@pytest.fixture(scope="module")
def scripts() -> Any:
    with client() as made:
        yield made


@pytest.mark.parametrize("starts", [True, False])
def test_hydra(scripts: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starts: bool) -> None:
    """In a script that starts its run, and under `tracelet run`."""
    script = tmp_path / "train.py"
    script.write_text(PRELUDE + HYDRA + "train()\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.setenv("TRACELET_PROVENANCE", "1")
    monkeypatch.setenv("TRACELET_HOME", str(scripts.home))
    words = ["lr=0.5", f"starts={str(starts).lower()}"]
    launcher = [sys.executable] if starts else [TRACELET, "run", "--name", "hydra-launched", "--backend", "tensorboard"]
    done = run(*launcher, script, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name = "hydra" if starts else "hydra-launched"
    scripts.until_ended(name)
    told = [values for record in scripts.records(name, Params) for values in record.values.items()]
    assert dict(told) == {
        "lr": 0.5, "name": "hydra", "starts": starts, "model.size": 3, "model.twice": 3, "model.api_key": "REDACTED"
    }  # fmt: skip
    assert len(told) == 6
