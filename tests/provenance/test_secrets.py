"""What is a secret, what is none, and that none is left in what is told."""

from __future__ import annotations

import pytest

from tracelet.provenance import secrets
from tracelet.provenance.secrets import (
    KeyBlocks,
    is_secret,
    learn_surroundings,
    redacted_arguments,
    redacted_params,
    redacted_text,
    redacted_value,
)

SECRET = [
    "token",
    "hf_token",
    "HF_TOKEN",
    "token_hub",
    "api_key",
    "apiKey",
    "API-KEY",
    "apikey",
    "OPENAI_API_KEY",
    "wandb_api_key",
    "WANDB_API_KEY",
    "x-api-key",
    "api_keys",
    "AWS_SECRET_ACCESS_KEY",
    "aws_access_key_id",
    "AWS_SESSION_TOKEN",
    "access_key",
    "accesskey",
    "private_key",
    "privateKey",
    "ssh_key",
    "signing_key",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "user_pwd",
    "db_pass",
    "dbPassword",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "secret",
    "clientSecret",
    "client_secret",
    "credential",
    "credentials",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "auth",
    "oauth_token",
    "authToken",
    "accesstoken",
    "cookie",
    "session",
    "session_id",
    "sessionid",
    "session_key",
    "jwt",
    "SENTRY_DSN",
    "connection_string",
    "openai_key",
    "CLEARML_API_ACCESS_KEY",
    "CLEARML_API_SECRET_KEY",
    "GITHUB_PAT",
    "use_auth_token",
    "bearer",
    "authorization",
    "refresh_token",
    "tokenSecret",
    "sas",
]
NOT_SECRET = [
    "tokenizer",
    "tokenizer_name",
    "max_tokens",
    "num_tokens",
    "n_tokens",
    "tokens",
    "max_new_tokens",
    "tokens_per_batch",
    "tokens_per_second",
    "token_type",
    "pad_token",
    "eos_token",
    "bos_token_id",
    "mask_token",
    "cls_token",
    "unk_token",
    "special_tokens",
    "use_class_token",
    "patch_token",
    "token_dropout",
    "token_embedding_dim",
    "max_token_len",
    "token_id",
    "token_level",
    "num_register_tokens",
    "key",
    "keys",
    "key_dim",
    "num_keys",
    "query_key_value",
    "key_padding_mask",
    "sort_key",
    "primary_key",
    "keyboard",
    "monkey",
    "hockey",
    "turkey",
    "author",
    "authors",
    "authority",
    "authored",
    "num_authors",
    "passes",
    "bypass",
    "compass",
    "passthrough",
    "n_passes",
    "pass",
    "pass_through",
    "max_session_length",
    "num_sessions",
    "session_length",
    "sessions",
    "session_split",
    "password_file",
    "min_password_length",
    "cookiecutter",
    "secretary",
    "PWD",
    "OLDPWD",
    "api",
    "access",
    "private",
    "public",
    "lr",
    "optimizer",
    "hidden_size",
    "keep_prob",
    "basket",
    "risk",
    "task_id",
]


def test_names_of_secrets() -> None:
    assert [name for name in SECRET if not is_secret(name)] == []
    assert {redacted_value(name, "x") for name in SECRET} == {secrets.MARK}
    assert {redacted_value(f"trainer.{name}", "x") for name in SECRET} == {secrets.MARK}


def test_names_that_only_look_like_it() -> None:
    assert [name for name in NOT_SECRET if is_secret(name)] == []
    assert {redacted_value(name, "x") for name in NOT_SECRET} == {"x"}
    for name in NOT_SECRET:
        words = [f"--{name}", "x", f"--{name}=x", f"{name}=x"]
        assert redacted_arguments(words) == words


FORMS = [
    "sk-abcdefghijklmnop1234",
    "sk-ant-api03-AbC_dEf-123456789",
    "sk_live_abcdef1234567890",
    "ghp_" + "a1B2" * 9,
    "github_pat_11ABCDEFG0_abcdefghijklmnop",
    "glpat-abcdefghij1234567890",
    "hf_" + "AbCdEfGhIj" * 3,
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "xoxb-1234567890-abcdefghij",
    "xoxp-1234567890-abcdefghij",
    "npm_" + "a1B2" * 9,
    "gsk_" + "a1B2" * 9,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "SG.abcdefghijkl.mnopqrstuvwx",
]


@pytest.mark.parametrize("value", FORMS)
def test_values_that_say_what_they_are(value: str) -> None:
    for text in (value, f"it is {value}.", f"x={value}", f'"{value}"', f"({value})", f"a\n{value}\nb"):
        assert value[:12] not in redacted_text(text), text
        assert redacted_text(text).replace(secrets.MARK, value) == text, "and nothing else is gone"
    assert redacted_value("note", value) == secrets.MARK


TEXTS = {
    "https://bob:hunter2@host/a.git": "https://REDACTED@host/a.git",
    "https://0123456789@github.com/a": "https://REDACTED@github.com/a",
    "postgresql://me:pw@db:5432/x": "postgresql://REDACTED@db:5432/x",
    "https://h/x?lr=1&api_key=abc&b=2#c": "https://h/x?lr=1&api_key=REDACTED&b=2#c",
    "https://b.s3.aws.com/k?X-Amz-Signature=abc": "https://b.s3.aws.com/k?X-Amz-Signature=REDACTED",
    "Authorization: Basic YWJjOmRlZg==": "Authorization: REDACTED",
    "curl -H 'Authorization: Bearer abc.def-1'": "curl -H 'Authorization: REDACTED'",
    "Bearer abcdefgh12345678": "Bearer REDACTED",
    "wandb login " + "0a" * 20: "wandb login REDACTED",
    "+API_KEY = 'abc'": "+API_KEY = 'REDACTED'",
    "-  password: hunter2": "-  password: REDACTED",
    " export HF_TOKEN=abc # mine": " export HF_TOKEN=REDACTED # mine",
    'os.environ["API_KEY"] = "abc"': 'os.environ["API_KEY"] = "REDACTED"',
    'os.environ.setdefault("API_KEY", "abc")': 'os.environ.setdefault("API_KEY", "REDACTED")',
    'login(token="abc", lr=0.1)': 'login(token="REDACTED", lr=0.1)',
    'secret: str = "a b c"': 'secret: str = "REDACTED"',
    '{"lr": 1, "apiKey": "a\\"b"}': '{"lr": 1, "apiKey": "REDACTED"}',
    "+python train.py --api-key abc --lr 3": "+python train.py --api-key REDACTED --lr 3",
    '["token=abc", "lr=1"]': '["token=REDACTED", "lr=1"]',
    "Namespace(header=['X-Api-Key: abc'])": "Namespace(header=['X-Api-Key: REDACTED'])",
    'run(["a.py", "--api-key", "abc", "--lr", "1"])': 'run(["a.py", "--api-key", "REDACTED", "--lr", "1"])',
    'add_argument("-k", "--api-key", type=str, default="abc")': 'add_argument("-k", "--api-key", type=str, default="REDACTED")',
    'option("--token",\n+       default="abc")': 'option("--token",\n+       default="REDACTED")',
    'token: str = Field("abc")': 'token: str = Field("REDACTED")',
    'key: str = 1\ntoken: str | None = field(default="abc")': 'key: str = 1\ntoken: str | None = field(default="REDACTED")',
    'f(password="""abc""")': 'f(password="""REDACTED""")',
    "+LR=1 HF_TOKEN=abc python train.py": "+LR=1 HF_TOKEN=REDACTED python train.py",
    "Set-Cookie: sid=abc; Path=/": "Set-Cookie: REDACTED",
    "+    '--token',\n+    'abc',\n": "+    '--token',\n+    'REDACTED',\n",
    "x = 1\npassword=hunter2\ny = 2": "x = 1\npassword=REDACTED\ny = 2",
}
KEPT = [
    "ssh://git@github.com/a/b.git",
    "git@github.com:a/b.git",
    "https://github.com/a/b.git",
    "commit " + "0a" * 20,
    "token = tokenizer(text)",
    "def f(token: int, password: str = None):",
    "auth=None",
    "use_auth_token: true",
    "max_tokens: 3",
    'choices=["token", "cls"]',
    'add_argument("--token", "-t", help="your token")',
    'add_argument("--token", type=str, default="")',
    'add_argument("--token", help="yours")\nadd_argument("--lr", default="x")',
    'tokenizer: str = Field("gpt2")',
    "MAX_TOKENS=3 python train.py",
    'log("token: %s", "token={}", f"token={token}")',
    '"use: password=<password>"',
    "Bearer authentication is used",
    "token embedding_dim-2 of a basic training-loop",
    "sklearn sk-learn scikit-learn",
    "https://h/x?epoch=3&lr=1",
    "2024-01-01 12:00:00 INFO loss: 0.3",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_with_secrets(text: str) -> None:
    assert redacted_text(text) == TEXTS[text]
    assert redacted_text(TEXTS[text]) == TEXTS[text]


@pytest.mark.parametrize("text", KEPT)
def test_texts_without(text: str) -> None:
    assert redacted_text(text) == text


def test_a_private_key_is_hidden_whole() -> None:
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"] * 20)
    for kind in ("", "RSA ", "OPENSSH ", "EC "):
        key = f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"
        assert redacted_text(f"a\n{key}\nb\n") == "a\nREDACTED\nb\n"
        assert "MIIEv" not in redacted_text(f"a\n{key[:600]}")  # its end is missing
        patch = "".join(f"+{line}\n" for line in key.splitlines())
        assert redacted_text(f"{patch}+x = 1\n") == "+REDACTED\n+x = 1\n"
    assert (
        redacted_text('if "-----BEGIN PRIVATE KEY" in text:\n    y()')
        == 'if "-----BEGIN PRIVATE KEY" in text:\n    y()'
    )
    blocks = KeyBlocks()
    assert [blocks.hides(line) for line in ["a", *key.splitlines(), "b"]] == [False, *[True] * 22, False]


def test_arguments() -> None:
    words = [
        "train.py",
        "--api-key",
        "k",
        "--api-key=k",
        "model.api_key=k",
        "+auth.token=k",
        "-H",
        "Authorization: Bearer k",
    ]
    hidden = [
        "train.py",
        "--api-key",
        "REDACTED",
        "--api-key=REDACTED",
        "model.api_key=REDACTED",
        "+auth.token=REDACTED",
    ]
    assert redacted_arguments(words) == [*hidden, "-H", "Authorization: REDACTED"]
    assert redacted_arguments(["--password", "-k-", "--lr", "0.1"]) == ["--password", "REDACTED", "--lr", "0.1"]
    assert redacted_arguments(["--token", "--verbose", "x"]) == ["--token", "--verbose", "x"], "a switch"
    assert redacted_arguments(["--use-auth-token=true"]) == ["--use-auth-token=true"]
    assert redacted_arguments(["model={api_key: k1, lr: 1}"]) == ["model={api_key: REDACTED, lr: 1}"]
    assert redacted_arguments(['{"lr": 1, "password": "k"}']) == ['{"lr": 1, "password": "REDACTED"}']
    assert redacted_arguments(["-c", "login(token='k')"]) == ["-c", "login(token='REDACTED')"]
    assert redacted_arguments(["env", "API_KEY=k", "python"]) == ["env", "API_KEY=REDACTED", "python"]
    assert redacted_arguments(["-c", "python a.py --hf-token k --lr 1; true"]) == [
        "-c",
        "python a.py --hf-token REDACTED --lr 1; true",
    ]
    assert redacted_arguments(["-c", 'a --api-key "k1" --token; b']) == ["-c", 'a --api-key "REDACTED" --token; b']
    assert redacted_arguments([]) == []


def test_parameters() -> None:
    given = {
        "lr": 0.1,
        "password": 1234,
        "use_auth": True,
        "token": None,
        "auth.timeout": 30,
        "secrets.user": "bob",
        "n": 1,
    }
    hidden = {**given, "password": "REDACTED", "secrets.user": "REDACTED"}
    assert redacted_params(given) == hidden
    assert redacted_params({"url": "https://a:b@h/"}) == {"url": "https://REDACTED@h/"}


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "squirrel-7")
    monkeypatch.setenv("OTHER_TOKEN", "adam")  # a word that other texts have too
    monkeypatch.setenv("HARMLESS", "squirrel-8")
    learn_surroundings()
    assert redacted_text("printed: squirrel-7 squirrel-8 adam") == "printed: REDACTED squirrel-8 adam"
    assert redacted_arguments(["squirrel-7"]) == ["REDACTED"]


def test_a_secret_of_the_command_line_is_hidden_wherever_it_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["python", "train.py", "--api-key", "squirrel-7"])
    learn_surroundings()
    assert redacted_text("printed: squirrel-7") == "printed: REDACTED"


def test_a_long_text_is_searched_to_its_end() -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    assert redacted_text(text) == text
    assert redacted_text(text + FORMS[0]) == text + "REDACTED"
    assert redacted_text("x" * 3_000_000) == "x" * 3_000_000
