"""Settings by arguments, variables and `.env`: both ways to read them agree, and what makes no sense is told."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from tracelet.core import options, targets
from tracelet.core.options import EXPORTERS, NESTED, Options
from tracelet.core.parsers import PARSERS
from tracelet.core.plan import check_run_id
from tracelet.errors import ConfigurationError, UnknownBackendError
from tracelet.settings import PyTorchSettings, TraceletSettings

# variable -> its text, the setting's value
VARIABLES: dict[str, tuple[str, Any]] = {
    "TRACELET_HOME": ("somewhere/below", None),
    "TRACELET_PROJECT": ("  Zifferblätter 2 ", "Zifferblätter 2"),
    "TRACELET_RUN_NAME": ("first try", "first try"),
    "TRACELET_BACKEND": ("mlflow, MLflow,", ("mlflow",)),
    "TRACELET_DISABLED": ("Yes", True),
    "TRACELET_WRITER_PREFIX": ("Always", "always"),
    "TRACELET_SPOOL_CAP_BYTES": ("8388608", 8388608),
    "TRACELET_FLUSH_INTERVAL": ("0.25", 0.25),
    "TRACELET_COLLECTOR_IDLE": ("5", 5.0),
    "TRACELET_RETENTION_DAYS": ("None", 0.0),
    "TRACELET_RETENTION_BYTES": ("1000", 1000),
    "TRACELET_STOP_TIMEOUT": ("1e1", 10.0),
    "TRACELET_STOP_WAIT": ("Delivered", "delivered"),
    "TRACELET_RANKS": ("ALL", "all"),
    "TRACELET_CHILD_RUNS": (" new ", "new"),
    "TRACELET_ID": ("job 7", "job 7"),
    "TRACELET_RESUME": ("Checkpoint", "checkpoint"),
    "TRACELET_PARENT": ("sweep 7", "sweep 7"),
    "TRACELET_GROUP": ("Größe 3", "Größe 3"),
    "TRACELET_TAGS": ("cluster = a, quick,", {"cluster": "a", "quick": "true"}),
    "TRACELET_NOTES": ("# Why\\nmore layers", "# Why\\nmore layers"),
    "TRACELET_OPTIMIZER_EVERY": ("10", 10),
    "TRACELET_OPTIMIZER_STATUS": ("on", True),
    "TRACELET_OPTIMIZER_HISTOGRAM_EVERY": ("0", 0),
    "TRACELET_CAPTURE_ARTIFACTS": ("profiles, checkpoints,", ("checkpoints", "profiles")),
    "TRACELET_PROVENANCE": ("no", False),
    "TRACELET_ENVIRONMENT": ("SLURM_*,CUDA_VISIBLE_DEVICES", ("CUDA_VISIBLE_DEVICES", "SLURM_*")),
    "TRACELET_SYSTEM_EVERY": ("0", 0.0),
    "TRACELET_CONSOLE": ("1", True),
    "TRACELET_PLUGINS": ("no", False),
    "TRACELET_TRIALS": ("0", False),
    "TRACELET_PYTORCH__PATCH_TENSORBOARD": ("off", False),
    "TRACELET_LIGHTNING__CAPTURE": ("f", False),
    "TRACELET_TRANSFORMERS__CAPTURE": ("false", False),
    "TRACELET_ACCELERATE__CAPTURE": ("off", False),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TRACELET_STOP_WAIT", "TRACELET_PROVENANCE", "TRACELET_SYSTEM_EVERY"):  # which other tests need
        monkeypatch.delenv(name, raising=False)


def setting(of: Options, variable: str) -> Any:
    value: Any = of
    for name in variable.removeprefix("TRACELET_").lower().split("__"):
        value = getattr(value, name)
    return value


def agreed() -> Options:
    """What both ways say."""
    light, comfortable = Options.load(), TraceletSettings()
    assert comfortable.options() == light
    assert {name: setting(light, name) for name in VARIABLES} == {
        name: tuple(sorted(value) if isinstance(value, frozenset) else value)
        if isinstance(value := setting(comfortable, name), list | frozenset)  # type: ignore[arg-type]
        else value
        for name in VARIABLES
    }
    return light


def test_every_setting_is_tried_here() -> None:
    assert set(asdict(Options())) == set(TraceletSettings.model_fields)
    inner = 0
    for name, kind in NESTED.items():
        nested: Any = TraceletSettings.model_fields[name].annotation
        assert {each.name for each in fields(kind)} == set(nested.model_fields)
        inner += len(fields(kind))
    known = {name.upper().replace(".", "__") for name in PARSERS if name not in NESTED}
    assert {f"TRACELET_{name}" for name in known} == set(VARIABLES)
    assert len(known) == len(fields(Options)) - len(NESTED) + inner


def test_defaults() -> None:
    assert agreed() == Options()
    assert (Options().backend, Options().project, Options().pytorch.patch_tensorboard) == (("mlflow",), "default", True)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_variable(variable: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = VARIABLES[variable]
    if where == ".env":
        Path(".env").write_text(f"DATABASE_URL=postgres://x\nexport {variable}='{text}'\n")
    else:
        monkeypatch.setenv(variable, text)
    got = agreed()
    assert setting(got, variable) == (Path("somewhere/below").absolute() if expected is None else expected)
    assert all(setting(got, other) == setting(Options(), other) for other in VARIABLES if other != variable)


def test_the_environment_goes_before_the_file_and_arguments_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("TRACELET_PROJECT=file\nTRACELET_RUN_NAME=file\nTRACELET_PYTORCH__PATCH_TENSORBOARD=0\n")
    monkeypatch.setenv("TRACELET_PROJECT", "environment")
    monkeypatch.setenv("TRACELET_RUN_NAME", "")  # set to nothing is not set
    got = agreed()
    assert (got.project, got.run_name, got.pytorch.patch_tensorboard) == ("environment", "file", False)
    assert TraceletSettings(project="argument").project == "argument"
    assert got.override(project="argument", run_name=None) == TraceletSettings(project="argument").options()
    assert TraceletSettings(pytorch=PyTorchSettings(patch_tensorboard=True)).options().pytorch.patch_tensorboard


def test_names_in_any_case_and_unknown_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("tracelet_project", "lower")
    monkeypatch.setenv("TRACELET_TELEPATHY", "of a later version")
    Path(".env").write_text("Tracelet_Writer_Prefix=never\nTRACELET_TYPO=1\nTRACELET_RUN_NAME\n")
    got = agreed()
    assert (got.project, got.writer_prefix, got.run_name) == ("lower", "never", None)


def test_a_file_that_is_not_ours_costs_no_import_and_no_error() -> None:
    Path(".env").write_bytes(b"\xff\xfe this is no text")
    assert agreed() == Options()
    code = "import sys; from tracelet.core.options import Options; Options.load(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"dotenv", "pydantic", "pydantic_settings", "platformdirs"} & set(loaded)


def test_a_file_that_cannot_be_read() -> None:
    Path(".env").write_bytes(b"TRACELET_PROJECT=\xff\n")
    for read in (Options.load, TraceletSettings):
        with pytest.raises(ConfigurationError, match=r"\.env cannot be read"):
            read()


def test_another_file_or_none(tmp_path: Path) -> None:
    Path(".env").write_text("TRACELET_PROJECT=default file\n")
    Path("prod.env").write_text("TRACELET_PROJECT=prod\n")
    assert TraceletSettings(_env_file="prod.env").project == "prod"
    assert TraceletSettings(_env_file=None).project == "default"


WRONG: list[tuple[str, str, str]] = [
    ("TRACELET_HOME", " ", "a directory"),
    ("TRACELET_PROJECT", " ", "a line of text"),
    ("TRACELET_RUN_NAME", "two\nlines", "a line of text"),
    ("TRACELET_BACKEND", ",", "at least one of: mlflow"),
    ("TRACELET_DISABLED", "maybe", "true or false"),
    ("TRACELET_WRITER_PREFIX", "sometimes", "auto, always or never"),
    ("TRACELET_SPOOL_CAP_BYTES", "2G", "a whole number of bytes, at least 4194304"),
    ("TRACELET_SPOOL_CAP_BYTES", "4194303", "a whole number of bytes, at least 4194304"),
    ("TRACELET_FLUSH_INTERVAL", "soon", "a number of seconds above 0"),
    ("TRACELET_COLLECTOR_IDLE", "-1", "a number of seconds above 0"),
    ("TRACELET_STOP_TIMEOUT", "nan", "a number of seconds above 0"),
    ("TRACELET_STOP_TIMEOUT", "inf", "a number of seconds above 0"),
    ("TRACELET_STOP_WAIT", "never", "auto, durable or delivered"),
    ("TRACELET_RANKS", "0", "first or all"),
    ("TRACELET_CHILD_RUNS", "true", "join or new"),
    ("TRACELET_ID", "a/b", "printable characters without '/'"),
    ("TRACELET_RESUME", "always", "never, auto, must or checkpoint"),
    ("TRACELET_PARENT", "../x", "printable characters without '/'"),
    ("TRACELET_GROUP", "a\nb", "a line of text"),
    ("TRACELET_TAGS", "=1", 'a mapping, words, or "a=1,b"'),
    ("TRACELET_NOTES", "x" * 8001, "a text of at most 8000 characters"),
    ("TRACELET_OPTIMIZER_EVERY", "-1", "a whole number of steps, 0 for never"),
    ("TRACELET_OPTIMIZER_STATUS", "all", "true or false"),
    ("TRACELET_OPTIMIZER_HISTOGRAM_EVERY", "often", "a whole number of steps, 0 for never"),
    ("TRACELET_PYTORCH__PATCH_TENSORBOARD", "2", "true or false"),
    ("TRACELET_PYTORCH", '{"patch_tensorboard": false}', "TRACELET_PYTORCH__PATCH_TENSORBOARD"),
]


@pytest.mark.parametrize(("variable", "text", "right"), WRONG)
def test_a_value_that_makes_no_sense_names_variable_value_and_what_would_be_right(
    variable: str, text: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    for read in (Options.load, TraceletSettings):
        with pytest.raises(ConfigurationError) as caught:
            read()
        assert f"{variable}={text!r}" in str(caught.value)
        assert right in str(caught.value)


def test_a_wrong_value_in_the_file_says_so() -> None:
    Path(".env").write_text("TRACELET_DISABLED=maybe\n")
    for read in (Options.load, TraceletSettings):
        with pytest.raises(ConfigurationError, match=r"TRACELET_DISABLED \(in \.env\)='maybe'"):
            read()


@pytest.mark.parametrize("given", ["neptune", "mlflow,neptune", ["neptune"]])
def test_an_unknown_backend(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (lambda: TraceletSettings(backend=given), lambda: Options().override(backend=given)):
        with pytest.raises(
            UnknownBackendError, match=r"backend=.*unknown backend 'neptune'.*choose from: mlflow"
        ) as caught:
            read()
        assert (caught.value.backend, caught.value.known) == ("neptune", EXPORTERS)
    monkeypatch.setenv("TRACELET_BACKEND", ",".join([given] if isinstance(given, str) else given))
    for read in (Options.load, TraceletSettings):
        with pytest.raises(UnknownBackendError, match="TRACELET_BACKEND="):
            read()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mlflow", ("mlflow",)),
        (["mlflow"], ("mlflow",)),
        (("mlflow", "mlflow"), ("mlflow",)),
        (" MLFLOW ", ("mlflow",)),
    ],
)
def test_backends_as_people_give_them(given: Any, expected: tuple[str, ...]) -> None:
    assert Options().override(backend=given).backend == expected
    assert TraceletSettings(backend=given).options().backend == expected
    assert TraceletSettings(backend=given).backend == list(expected)


def test_backends_are_those_that_can_be_delivered_to() -> None:
    assert set(options.EXPORTERS) == set(targets.KNOWN)


def test_arguments_of_the_wrong_kind() -> None:
    wrong: list[dict[str, Any]] = [
        {"project": 5},
        {"backend": 5},
        {"backend": [5]},
        {"backend": []},
        {"disabled": 2},
        {"flush_interval": True},
        {"flush_interval": 0},
        {"spool_cap_bytes": 1e9},
        {"retention_days": -1},
        {"retention_days": float("nan")},
        {"retention_days": True},
        {"retention_bytes": "20 GiB"},
        {"retention_bytes": -1},
        {"home": 5},
        {"home": "a\0b"},
        {"writer_prefix": None},
        {"pytorch": "no"},
        {"pytorch": {"patch_tensorboard": "perhaps"}},
        {"lightning": {"capture": 2}},
        {"capture_artifacts": "checkpoints,models"},
        {"capture_artifacts": 3},
        {"environment": ["A", ""]},
        {"system_every": 0.01},
        {"system_every": True},
        {"system_every": float("nan")},
    ]
    for given in wrong:
        with pytest.raises(ConfigurationError) as caught:
            TraceletSettings(**given)
        assert next(iter(given)) in str(caught.value)
        if given.get("writer_prefix", True):  # None leaves a setting as it is, there
            with pytest.raises(ConfigurationError):
                Options().override(**given)


def test_an_unknown_argument_is_an_error_that_lists_the_settings() -> None:
    with pytest.raises(ConfigurationError, match="no setting 'projct'; there are: home, project,"):
        TraceletSettings(projct="x")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"no setting 'pytorch\.patch'; there are: patch_tensorboard"):
        TraceletSettings(pytorch={"patch": True})  # type: ignore[arg-type]
    for unknown in ({"projct": "x"}, {"pytorch": {"patch": True}}):
        with pytest.raises(TypeError, match="there is no setting"):
            Options().override(**unknown)  # type: ignore[arg-type]


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TraceletSettings(project="", writer_prefix="x")  # type: ignore[arg-type]
    assert "project=''" in str(caught.value)
    assert "writer_prefix='x'" in str(caught.value)


def test_settings_do_not_change() -> None:
    settings = TraceletSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.project = "x"  # type: ignore[misc]


def test_home_as_people_write_it() -> None:
    home = Options().override(home="~/x").home
    assert home == Path(os.path.expanduser("~")) / "x"
    assert Options().override(home=Path("rel")).home == Path.cwd() / "rel"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": 1, " b ": "x y"}, {"a": "1", "b": "x y"}),
        (["quick", "final"], {"quick": "true", "final": "true"}),
        ({"quick"}, {"quick": "true"}),
        ("quick, a=b=c ,", {"quick": "true", "a": "b=c"}),
        ([], {}),
    ],
)
def test_tags_in_all_their_forms(given: Any, expected: dict[str, str]) -> None:
    assert Options().override(tags=given).tags == TraceletSettings(tags=given).tags == expected


@pytest.mark.parametrize("given", [7, [3], [["a"]], [" "], {"a\nb": 1}, {3: 4}, "=x", object], ids=repr)
def test_what_makes_no_tags(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tags=.* give a mapping, words"):
        Options().override(tags=given)
    with pytest.raises(ConfigurationError, match="tags"):
        TraceletSettings(tags=given)


def test_texts_that_are_no_unicode_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_NOTES", os.fsdecode(b"caf\xe9"))
    options = Options.load().override(tags={"host": os.fsdecode(b"\xff")})
    assert options.notes == "caf?"
    assert options.tags == {"host": "?"}


@pytest.mark.parametrize("given", ["", ".", "..", "a/b", "/abs", " a", "a\nb", "a\0", "\ud800", "é" * 65, 7, ".hidden"])
def test_what_cannot_be_a_run_id(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="makes no sense; give 1 to 128 printable characters"):
        check_run_id(given)
    assert check_run_id("Größe:7 (final)") == "Größe:7 (final)"
