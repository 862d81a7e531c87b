"""What the reference says of commands and settings is what there is."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import typer.main

from tests.support import configuration_page
from tests.support.pages import ROOT, blocks
from tracelet.commands.app import app
from tracelet.core.options import EXPORTERS
from tracelet.frameworks.table import FRAMEWORKS
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.settings import TraceletSettings


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def options(command: Any) -> set[str]:
    """Of a command, or of all that are below it."""
    own = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    return own.union(*(options(below) for below in getattr(command, "commands", {}).values()))


def test_command_line_page_has_every_command_and_option(commands: dict[str, Any]) -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    sections = dict(re.findall(r"^## tracelet ([\w-]+)\n+```text\n(.+?)\n```", page, re.MULTILINE | re.DOTALL))
    assert sections.keys() == commands.keys()
    for name, usage in sections.items():
        assert set(re.findall(r"--[\w-]+", usage)) == options(commands[name]) - {"--help"}, name
        below = [line.split()[2] for line in usage.splitlines()] if hasattr(commands[name], "commands") else []
        assert set(below) == getattr(commands[name], "commands", {}).keys(), name


def test_commands_in_the_pages_exist(commands: dict[str, Any]) -> None:
    lines = [
        (block, line.partition("#")[0])
        for block in blocks("bash", "console", "sh")
        for line in block.code.splitlines()
        if line.startswith("tracelet ")
    ]
    assert lines
    for block, line in lines:
        _, name, *words = shlex.split(line)
        assert name in commands, f"{block}: {line}"
        command = commands[name]
        if hasattr(command, "commands"):
            assert words[0] in command.commands, f"{block}: {line}"
            command = command.commands[words[0]]
        if name != "run":  # its words behind the first are another command's
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options(command), str(block)
        ours = words[: next((at for at, word in enumerate(words) if not word.startswith("-")), None)]
        assert {word.partition("=")[0] for word in ours if word.startswith("--")} <= options(commands[name]), str(block)


def test_configuration_page_has_every_setting_and_its_variable() -> None:
    page = (ROOT / "docs/reference/configuration.md").read_text()
    listed = dict(re.findall(r"^\| `(TRACELET_\w+)` \| `([\w.]+)` \|", page, re.MULTILINE))
    expected = {}
    for name, field in TraceletSettings.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        for setting in [f"{name}.{inner}" for inner in nested] if nested else [name]:
            expected["TRACELET_" + setting.upper().replace(".", "__")] = setting
    assert listed == expected


def test_configuration_page_says_what_the_settings_say() -> None:
    page = configuration_page.PAGE.read_text()
    assert page == configuration_page.with_table(page), "run python -m tests.support.configuration_page"


def test_every_framework_and_every_backend_has_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs/reference/frameworks").glob("*.md")}
    on_lightnings = {"pytorch_lightning", "files"}
    assert pages == {identifier.lower() for identifier in FRAMEWORKS.keys() - on_lightnings}
    assert {path.stem for path in (ROOT / "docs/reference/backends").glob("*.md")} == set(EXPORTERS)


def test_status_document_is_as_documented() -> None:
    from tracelet.commands.status import as_document

    documented, _, _ = (json.loads(block.code) for block in blocks("json") if block.page == "docs/reference/cli.md")
    reply = wire.StatusReply(
        collector=wire.CollectorInfo(pid=1, version="0", address="a", home="h"),
        runs=[
            wire.RunState(
                run_id="r", status=1, labels={"/runs/a": "a"}, backends=[wire.BackendState(kind="mlflow", state="ok")]
            )
        ],
    )

    assert shape(as_document(reply)) == shape(documented)


def test_document_of_runs_is_as_documented() -> None:
    from tracelet.commands.runs import as_document

    _, documented, _ = (json.loads(block.code) for block in blocks("json") if block.page == "docs/reference/cli.md")
    backend = wire.BackendState(kind="mlflow", state="ok")
    run = wire.RunState(run_id="r", status=1, created=1.0, ended=2.0, backends=[backend])
    assert shape(as_document([run], 1)) == shape(documented)


def test_document_of_dead_letters_is_as_documented() -> None:
    from tracelet.commands.dead_letters import as_document

    _, _, documented = (json.loads(block.code) for block in blocks("json") if block.page == "docs/reference/cli.md")
    point = json.dumps(documented["letters"][0]["point"])
    letter = wire.DeadLetter(id=1, run_id="r", backend="mlflow", name="loss", error="no", point=point)
    assert shape(as_document([letter], {"r": "a run"}, 1)) == shape(documented)


def shape(document: object) -> object:
    if isinstance(document, dict):
        return {key if "/" not in key else "": shape(value) for key, value in document.items()}
    return [shape(each) for each in document] if isinstance(document, list) else type(document)
