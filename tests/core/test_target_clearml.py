"""Where a run is delivered to in ClearML: what its own SDK would take, from variables and `clearml.conf`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracelet.core import target_clearml, targets
from tracelet.core.hocon import read_hocon
from tracelet.core.links import Link
from tracelet.errors import ConfigurationError

# As clearml-init writes it, and as people change it.
CONF = """
# ClearML SDK configuration file
api {
    # Notice: 'host' is the api server (default port 8008), not the web server.
    api_server: https://api.mine.example
    web_server: https://app.mine.example  // a comment
    files_server: "https://files.mine.example"
    # Credentials are generated using the webapp
    credentials {"access_key": "AC//ESS#1", "secret_key"  :  "sec\\"ret"}
    verify_certificate = false
}
sdk {
    # ClearML - default SDK configuration
    storage {
        cache {
            default_base_dir: "~/my cache"
        }
        direct_access: [
            # Objects matching are considered
            { url: "file://*" }
        ]
    }
    aws { s3 { credentials: [ { bucket: "a", key: "]" }, ] }, boto3 { pool = 512, max: 10 } }
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory and the home; no variable of ClearML's is set."""
    import os

    for name in list(os.environ):
        if name.startswith(("CLEARML_", "TRAINS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_file_says() -> None:
    said = read_hocon(CONF)
    assert said == {
        "api.api_server": "https://api.mine.example",
        "api.web_server": "https://app.mine.example",
        "api.files_server": "https://files.mine.example",
        "api.credentials.access_key": "AC//ESS#1",
        "api.credentials.secret_key": 'sec"ret',
        "api.verify_certificate": "false",
        "sdk.storage.cache.default_base_dir": "~/my cache",
        "sdk.aws.boto3.pool": "512",
        "sdk.aws.boto3.max": "10",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", {}),
        ("{a: 1}", {"a": "1"}),
        ("a.b.c = x\na { b { d = y } }", {"a.b.c": "x", "a.b.d": "y"}),
        ('"a": "x y"\n', {"a": "x y"}),
        ("a: ${HERE}/x", {"a": "there/x"}),
        ('a: "http://"${?HERE}":80"', {"a": "http://there:80"}),
        ("a: ${?NOWHERE}", {"a": ""}),
        ("b: 1\na: ${b}", {"b": "1", "a": "1"}),
        ('a: """x\ny"""', {"a": "x\ny"}),
        ("a: x # y\n//b: 1\nc: 2", {"a": "x", "c": "2"}),
        ("a: http://x//y", {"a": "http://x//y"}),
        ("a: 1\na: 2", {"a": "2"}),
        ('a: "not closed\nb: 1', {"a": "not closed", "b": "1"}),
        ("a: [1, 2\n, {b: 3}]\nc: 4", {"c": "4"}),
        ("a += 1", {"a": "1"}),
        ('include "x.conf"\na: 1', {"a": "1"}),
    ],
)
def test_a_file(text: str, said: dict[str, str]) -> None:
    assert {
        name: value for name, value in read_hocon(text, {"HERE": "there"}).items() if name != "include x.conf"
    } == said


@pytest.mark.parametrize(
    "text", ["{{{{", "}}}}", "a: {", "[[[", ":::", "a", '"', "${", "a: ${", "\\", "a:\n\n\n", "=" * 50]
)
def test_a_file_that_is_none_ends(text: str) -> None:
    assert isinstance(read_hocon(text), dict)


@pytest.mark.filterwarnings("ignore")  # of clearml's own parser
def test_it_reads_what_clearml_reads(folder: Path) -> None:
    """Where clearml's own reader and ours have the same word, they agree."""
    import clearml.backend_api.config
    from clearml.utilities.pyhocon import ConfigFactory

    shipped = Path(clearml.backend_api.config.__file__).parents[2] / "config/default/sdk.conf"
    for text in (CONF, shipped.read_text()):
        theirs = ConfigFactory.parse_string(text)
        said = read_hocon(text)
        assert said
        for name, value in said.items():
            word = theirs.get(name)
            told = "null" if word is None else str(word).lower()
            assert value.lower() == told, name


def test_without_anything_it_is_the_service_of_clearml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert target_clearml.resolve(None) == ("https://api.clear.ml", {})


def test_what_clearml_conf_says(folder: Path) -> None:
    (folder / "clearml.conf").write_text(CONF)
    assert target_clearml.resolve(None) == (
        "https://api.mine.example",
        {
            "CLEARML_CONFIG_FILE": str(folder / "clearml.conf"),
            "CLEARML_API_ACCESS_KEY": "AC//ESS#1",
            "CLEARML_API_SECRET_KEY": 'sec"ret',
            "CLEARML_WEB_HOST": "https://app.mine.example",
            "CLEARML_FILES_HOST": "https://files.mine.example",
            "CLEARML_API_HOST_VERIFY_CERT": "false",
        },
    )


def test_variables_go_before_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.conf").write_text(CONF)
    monkeypatch.setenv("CLEARML_CONFIG_FILE", "other.conf")
    monkeypatch.setenv("CLEARML_API_HOST", "http://host:8008/")
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "A")
    monkeypatch.setenv("TRAINS_API_SECRET_KEY", "S")
    target, secrets = target_clearml.resolve(None)
    assert target == "http://host:8008"
    assert secrets["CLEARML_CONFIG_FILE"] == str(folder / "other.conf")
    assert (secrets["CLEARML_API_ACCESS_KEY"], secrets["CLEARML_API_SECRET_KEY"]) == ("A", "S")


def test_another_server_has_other_neighbours(folder: Path) -> None:
    (folder / "clearml.conf").write_text(CONF)
    target, secrets = target_clearml.resolve("https://api.other.example")
    assert target == "https://api.other.example"
    assert "CLEARML_FILES_HOST" not in secrets
    assert secrets["CLEARML_API_ACCESS_KEY"] == "AC//ESS#1"


@pytest.mark.parametrize(
    ("asked", "mode", "target"),
    [
        ("offline", "", "offline:{home}/.clearml/cache/offline"),
        (None, "1", "offline:{home}/.clearml/cache/offline"),
        (None, "True", "offline:{home}/.clearml/cache/offline"),
        (None, "2.20", "offline:{home}/.clearml/cache/offline"),
        (None, "0", "https://api.clear.ml"),
        (None, "false", "https://api.clear.ml"),
        ("offline:/a/b", "", "offline:/a/b"),
        ("offline:b/c d", "1", "offline:{home}/b/c d"),
        ("http://host:8008", "1", "http://host:8008"),
    ],
)
def test_offline(folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, mode: str, target: str) -> None:
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", mode)
    assert target_clearml.resolve(asked)[0] == target.replace("{home}", str(folder))


def test_the_folder_of_offline_sessions_is_clearmls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "clearml.conf").write_text(CONF)
    assert target_clearml.resolve("offline")[0] == f"offline:{folder}/my cache/offline"
    monkeypatch.setenv("CLEARML_CACHE_DIR", "cache")
    assert target_clearml.resolve("offline")[0] == f"offline:{folder}/cache/offline"


@pytest.mark.parametrize(
    "asked", ["api.clear.ml", "ftp://host", "offline:", "http://", "http://[", "/a/folder", "http:x"]
)
def test_what_is_no_server(asked: str) -> None:
    with pytest.raises(ConfigurationError, match="offline"):
        target_clearml.resolve(asked)


def test_keys_do_not_go_into_an_address() -> None:
    with pytest.raises(ConfigurationError, match="CLEARML_API_ACCESS_KEY") as caught:
        target_clearml.resolve("https://user:s3cret@host")
    assert "s3cret" not in str(caught.value)


def credentials(home: Path, name: str) -> dict[str, str]:
    path = home / "credentials" / f"{name}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    read: dict[str, str] = json.loads(path.read_text())["env"]
    return read


def test_keys_are_kept_apart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "OLD")
    monkeypatch.setenv("CLEARML_TASK_ID", "of this process")
    (target,) = targets.resolve(["clearml"], home, "https://host", "ACCESS:s3:cret")
    assert "s3:cret" not in repr(target)
    kept = credentials(home, target.credentials)
    assert (kept["CLEARML_API_ACCESS_KEY"], kept["CLEARML_API_SECRET_KEY"]) == ("ACCESS", "s3:cret")
    assert "CLEARML_TASK_ID" not in kept


@pytest.mark.parametrize("key", ["only", ":secret", "access:", " : "])
def test_a_key_that_is_none(home: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match="access key"):
        targets.resolve(["clearml"], home, "https://host", key)


def test_a_server_without_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"clearml-init.*CLEARML_API_ACCESS_KEY.*CLEARML_OFFLINE_MODE"):
        targets.resolve(["clearml"], home)
    assert targets.resolve(["clearml"], home, "offline")
    monkeypatch.setenv("CLEARML_AUTH_TOKEN", "token")
    assert targets.resolve(["clearml"], home)


def test_how_a_session_is_shown() -> None:
    link = Link.read("clearml", "offline:/a/#b/it's#offline-12ab")
    assert (link.target, link.run, link.url) == ("offline:/a/#b/it's", "offline-12ab", None)
    assert link.command is not None
    assert "import_offline_session" in str(link)
    import shlex

    python, flag, line = shlex.split(link.command)
    assert (python, flag) == ("python", "-c")
    compile(line, "line", "exec")
    assert "/a/#b/it's/offline-12ab" in line
    page = Link.read("clearml", "https://app.clear.ml/projects/1/experiments/2")
    assert (page.url, page.run) == ("https://app.clear.ml/projects/1/experiments/2", "2")
