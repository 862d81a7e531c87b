"""What must not leave the machine: told by its name, by its form, or because a secret variable of this process has that value.

A name says that a value is secret (`api_key`, `--hf-token`, `db.password`), where no other word of it says that it only
counts or describes (`max_tokens`, `pad_token_id`, `key_dim`, `tokenizer`). A value says so by the forms that issuers give to
their keys (`ghp_…`, `AKIA…`, a JWT, a URL with a password in it). What is hidden is not shortened but replaced: by `REDACTED`.

Better one value too many than one too few: what is hidden by mistake costs a look at the script.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

__all__ = [
    "MARK",
    "KeyBlocks",
    "is_secret",
    "learn",
    "learn_surroundings",
    "redacted_arguments",
    "redacted_params",
    "redacted_text",
    "redacted_value",
]

MARK: Final = "REDACTED"

# -- names


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET: Final = _set(
    "token secret secrets password passwords passwd passphrase passcode pwd credential credentials creds auth oauth oauth2 "
    "authorization bearer jwt pat cookie cookies session sessionid sas dsn"
)
# With one of these before it, a key, or a pass, is one that opens something.
_KEYS: Final = _set("key keys")
_OPENS: Final = _set(
    "api access private secret ssh auth encryption encrypt signing sign account master service deploy storage license licence "
    "app application subscription admin project client "
    "wandb openai anthropic hf huggingface clearml comet neptune aws azure gcp google github gitlab slack mlflow kaggle "
    "swanlab databricks sentry"
)
_PASSES: Final = _set("db database user smtp mysql postgres pg redis login admin root ftp mail")
# What says that something is counted, described or chosen: the value is no secret.
_DESCRIBES: Final = _set(
    "max min num n count counts number len length size dim dims pad padding eos bos unk cls sep mask class special type types "
    "id ids index embedding embeddings embed dropout level per merging merge image patch batch start end vocab limit budget "
    "rate loss weight position prob ratio mixer mixing classification accuracy dataset table register registers query dropped "
    "keep timeout expiry ttl file path dir mode kind name split pooling style"
)
_DESCRIBED: Final = _set("token session cookie cookies")  # these have other senses in our field
# Written as one word, or as part of one.
_JOINED: Final = re.compile(
    r"passw(or)?d|passphrase|credential|secret(?!ar|ion)|api[_-]?key|access[_-]?key|private[_-]?key|secret[_-]?key"
    r"|(access|auth|api|bearer|refresh|session|id)token|sessionid|authorization|connection[_-]?string",
    re.IGNORECASE,
)
_NOT_SECRET: Final = frozenset({"PWD", "OLDPWD"})  # where the shell is
# Values that say whether, not what.
_PLAIN: Final = frozenset(
    ["", "none", "null", "true", "false", "yes", "no", "on", "off", "auto", "default", MARK.lower()]
)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether the name of a variable, an option or a parameter says that its value is a secret."""
    if name in _NOT_SECRET:
        return False
    if _JOINED.search(name):
        return not _is_file(name)
    words = [word.lower() for word in _WORDS.findall(name)]
    for before, word in zip(["", *words], words, strict=False):
        if word in _DESCRIBED:
            if not _DESCRIBES.intersection(words) - ({"id"} if word == "session" else set()):
                return True
        elif word in _SECRET:
            if not _is_file(name):
                return True
        elif (word in _KEYS and before in _OPENS) or (word == "pass" and before in _PASSES):
            return True
    return False


def _is_file(name: str) -> bool:
    """`password_file` is where it is, `auth_mode` which kind."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return bool(words) and words[-1] in {"file", "path", "dir", "mode", "timeout", "type", "length", "len"}


# -- values

_FORMS: Final = re.compile(
    r"""
      (?<![\w-]) (?:
        sk-(?=[\w-]*\d)[\w-]{16,}                      # OpenAI, Anthropic, …
      | [sr]k_(?:live|test)_\w{10,}                    # Stripe
      | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,} | gl[a-z]{2,4}-[\w-]{20,}
      | hf_[A-Za-z0-9]{16,} | gsk_[A-Za-z0-9]{20,} | r8_[A-Za-z0-9]{20,} | nvapi-[\w-]{20,}
      | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{30,} | ya29\.[\w-]{10,} | GOCSPX-[\w-]{10,}
      | xox[a-z]-[\w-]{8,} | xapp-[\w-]{10,}           # Slack
      | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{30,} | dop_v1_\w{20,} | dapi[0-9a-f]{32}
      | SG\.[\w-]{10,}\.[\w-]{10,}                     # SendGrid
      | eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?           # a JWT
      )
    """,
    re.VERBOSE,
)
_LOGIN: Final = re.compile(r"(wandb login\s+(?:--\S+\s+)*)[0-9a-f]{40}\b")
_BEARER: Final = re.compile(r"\b(Bearer\s+)(?=[\w.~+/-]*[\d.~+/_-]|\w{20})[\w.~+/-]{8,}=*", re.IGNORECASE)
_AUTHORIZATION: Final = re.compile(
    r"(\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?)(?:\w+[ \t]+)?[^\s\"',}]+", re.IGNORECASE
)
_COOKIE: Final = re.compile(r"(\bcookie[\"']?\s{0,4}:\s{0,4}[\"']?)(?=[^\s\"'=]{1,80}=)[^\n\"']+", re.IGNORECASE)
# In a URL: user and password before the host; a single word likewise, where it is no login name of ssh.
_USERINFO: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)([^/\s@\"'<>]+)@")
_KEY_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:(?!-----BEGIN)[\s\S]){0,20000}?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|(?:\\n|[\s+>|-]|[A-Za-z0-9/=]{16,})*)"
)
# name = value, where the value is written out: quoted, or a single word at the end of its line.
_NAME: Final = r"(?P<name>[A-Za-z_][\w.-]{0,80})"
_VALUE: Final = r"(?P<quote>\"\"\"|'''|[\"'])(?P<value>(?:\\.|(?!(?P=quote))[^\\\n])+)(?P=quote)"
_QUOTED: Final = re.compile(
    rf"(?<![\w.-]){_NAME}[\"'\]]{{0,2}}\s{{0,4}}(?::\s{{0,4}}\w[\w\[\]., |]{{0,40}}=|[:=]>?)\s{{0,4}}[rbfu]{{0,2}}{_VALUE}"
)
_CALL: Final = re.compile(
    rf"\(\s{{0,4}}[\"']{_NAME}[\"']\s{{0,4}},\s{{0,4}}[rbfu]{{0,2}}{_VALUE}"
)  # setdefault("API_KEY", "…")
_LINE: Final = re.compile(
    rf"^[ \t+>-]{{0,40}}(?:(?:export|set|ENV|ARG)\s+)?{_NAME}[\"']?\s{{0,4}}[:=]\s{{0,4}}"
    r"(?P<value>[^\s\"'(){}\[\],;#]+)(?=\s*[,;]?\s*(?:#.*)?$)",
    re.MULTILINE,
)
# A default, of an option (`add_argument("--token", default="…")`) or of a field (`token: str = Field("…")`).
_DEFAULT: Final = re.compile(
    rf"(?P<mark>[\"'])(?:--)?{_NAME}(?P=mark)(?:[^\"'\n]|[\"'][^\"'\n]{{0,80}}[\"']){{0,20}}?"
    rf",\s{{0,40}}(?:[+-]\s{{0,40}})?default\s{{0,4}}=\s{{0,4}}[rbfu]{{0,2}}{_VALUE}"
)
_FIELD: Final = re.compile(
    rf"(?<![\w.-]){_NAME}\s{{0,4}}:\s{{0,4}}\w[\w\[\]., |]{{0,40}}=\s{{0,4}}"
    rf"[\w.]{{1,40}}\(\s{{0,4}}(?:default\s{{0,4}}=\s{{0,4}})?[rbfu]{{0,2}}{_VALUE}"
)
# In front of a command of a shell's: `HF_TOKEN=… python train.py`.
_SHELL: Final = re.compile(
    r"(?<![\w.-])(?P<name>[A-Z][A-Z0-9_]{1,80})=(?P<value>[^\s\"'(){}\[\],;&|$]+)(?=[ \t]+[\w./])"
)
# In a list of words: one that has both ("token=…", "X-Api-Key: …"), or an option and the word after it ("--token", "…").
_ENTRY: Final = re.compile(
    rf"(?P<quote>[\"'])[-+~]{{0,2}}{_NAME}(?:=|:\s{{0,4}})(?![%<$])(?P<value>[^\s\"'{{}}\[\]()]+)(?P=quote)"
)
_NEXT: Final = re.compile(
    rf"(?P<mark>[\"'])--?{_NAME}(?P=mark)\s{{0,4}},\s{{0,40}}(?:[+-]\s{{0,40}})?[rbfu]{{0,2}}(?![\"']-){_VALUE}"
)
_TYPES: Final = _set("int str float bool bytes any path object")
# In a command line: anywhere, and up to the next blank.
_INLINE: Final = re.compile(rf"(?<![\w.-]){_NAME}[\"']?\s{{0,4}}[:=]\s{{0,4}}(?P<value>[^\s,;&{{}}\[\]()\"']+)")
# An option in the middle of a text: in a shell's script, or what `sh -c` is given.
_OPTION: Final = re.compile(r"(?<![\w-])--(?P<name>[A-Za-z][\w.-]{0,80})[ \t]+(?![-|&;])[\"']?(?P<value>[^\s\"';|&]+)")
_IN_TEXTS: Final = (_QUOTED, _CALL, _LINE, _OPTION, _ENTRY, _NEXT, _DEFAULT, _FIELD, _SHELL)
_HEADER: Final = re.compile(r"(?P<name>[A-Za-z][\w-]{0,60}):\s{1,4}(?P<value>\S.*)")
_QUERY: Final = re.compile(r"[?&;](?P<name>[\w.-]{1,80})=(?P<value>[^&;\s\"'#]+)")
_QUERY_NAMES: Final = re.compile(r"sig|signature|x-amz-(signature|credential|security-token)|key", re.IGNORECASE)
_MAY_NAME: Final = re.compile(r"tok|secr|pass|pwd|cred|auth|bearer|jwt|cook|sess|key|sas|dsn|conn|login", re.IGNORECASE)

_PIECE: Final = 16 * 1024  # what is searched in one go: other threads wait meanwhile
_SHORTEST: Final = 6  # a shorter value is a word that other texts have too
_LONGEST_WORD: Final = 12  # so is this
_MOST: Final = 1000
_known: dict[str, None] = {}


def learn(values: Iterable[str]) -> None:
    """Hide these values wherever they turn up from now on."""
    for value in values:
        value = value.strip()
        is_word = value.isalpha() and value.islower() and len(value) <= _LONGEST_WORD
        if len(value) >= _SHORTEST and not is_word and value.lower() not in _PLAIN and len(_known) < _MOST:
            _known[value] = None


def learn_surroundings() -> None:
    """Hide the values of this process's secret variables, and of its command line's, wherever they turn up."""
    learn(os.environ.get(name, "") for name in list(os.environ) if is_secret(name))
    redacted_arguments([str(word) for word in getattr(sys, "orig_argv", None) or ()])


def redacted_text(text: str) -> str:
    """A text without what looks like a secret.

    Args:
        text: a file, a patch, a line: names with values written out after them are seen too (`API_KEY=…`, `password: "…"`).
    """
    if "PRIVATE KEY" in text:
        text = _KEY_BLOCK.sub(MARK, text)
    if len(text) <= _PIECE:
        return _redacted(text)
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", min(start + _PIECE, len(text)), start + 64 * _PIECE) + 1 or start + 64 * _PIECE
        pieces.append(_redacted(text[start:end]))
        start = end
    return "".join(pieces)


def _redacted(text: str) -> str:
    if "://" in text:
        text = _QUERY.sub(_replaced, _USERINFO.sub(_userinfo, text))
    text = _FORMS.sub(MARK, text)
    if _MAY_NAME.search(text):
        text = _BEARER.sub(rf"\g<1>{MARK}", _LOGIN.sub(rf"\g<1>{MARK}", text))
        text = _COOKIE.sub(rf"\g<1>{MARK}", _AUTHORIZATION.sub(rf"\g<1>{MARK}", text))
        for pattern in _IN_TEXTS:
            text = pattern.sub(_replaced, text)
    for value in list(_known):
        if value in text:
            text = text.replace(value, MARK)
    return text


def redacted_value(name: str, value: Any) -> Any:
    """A value as it may be told.

    Args:
        name: whose it is; dotted, when it is one of several in groups: the groups' names count for texts only.
        value: anything. Numbers are hidden under a secret name of their own, never booleans and None.
    """
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _PLAIN):
        return value
    groups, _, own = name.replace("/", ".").rpartition(".")
    if is_secret(own) or (isinstance(value, str) and any(is_secret(group) for group in groups.split(".") if group)):
        learn([str(value)])
        return MARK
    return redacted_text(value) if isinstance(value, str) else value


def redacted_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they may be told."""
    return {name: redacted_value(name, value) for name, value in params.items()}


def redacted_arguments(arguments: Sequence[str]) -> list[str]:
    """The words of a command line as they may be told: `--api-key X`, `--api-key=X`, `api_key=X`, `-H "Authorization: X"`."""
    told: list[str] = []
    hides_next = False
    for word in arguments:
        option = word.startswith("--")
        name, equals, value = word.partition("=")
        name = name.lstrip("-+~")
        plain = re.fullmatch(r"[\w./@-]{1,200}", name) is not None
        if hides_next and not option:
            hides_next = False
            told.append(_hidden(word))
            continue
        hides_next = word.startswith("-") and not equals and plain and len(word) > 2 and _is_secret_path(name)
        if equals and plain and _is_secret_path(name):
            told.append(f"{word[: len(word) - len(value)]}{_hidden(value)}")
        else:
            told.append(_argument(word))
    return told


def _is_secret_path(name: str) -> bool:
    return is_secret(name.rpartition(".")[2].rpartition("/")[2] or name)


def _hidden(value: str) -> str:
    if value.strip().lower() in _PLAIN:
        return value
    learn([value])
    return MARK


def _argument(word: str) -> str:
    for pattern in (_QUOTED, _INLINE, _OPTION):
        word = pattern.sub(_replaced, word)
    if (header := _HEADER.fullmatch(word)) is not None:
        word = _replaced(header)
    return redacted_text(word)


def _userinfo(found: re.Match[str]) -> str:
    user, colon, _ = found[2].partition(":")
    if colon or (len(user) >= 16 or found[1].lower().startswith("http")):
        return f"{found[1]}{MARK}@"
    return found[0]


def _replaced(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    secret = _is_secret_path(name) or (found.re is _QUERY and _QUERY_NAMES.fullmatch(name) is not None)
    if not secret:
        told = found.re.sub(_replaced, value)  # a value may have names and values in it
    elif value.strip().lower() in _PLAIN or (found.re is _LINE and value.lower() in _TYPES):
        told = value
    else:
        told = MARK
        if found.re is _INLINE or (found.re is _OPTION and any(letter.isdigit() for letter in value)):
            learn([value])
    at = found.start()
    return found[0][: found.start("value") - at] + told + found[0][found.end("value") - at :]


class KeyBlocks:
    """Private keys in a text that comes line by line: the lines between BEGIN and END are left out."""

    _LONGEST = 400  # lines; what goes on longer is no key

    def __init__(self) -> None:
        self._inside = 0

    @property
    def inside(self) -> bool:
        """A key has begun, and not ended."""
        return self._inside > 0

    def hides(self, line: str) -> bool:
        """Whether a line is part of a key."""
        if "-----BEGIN " in line and "PRIVATE KEY" in line and "-----END " not in line:
            self._inside = self._LONGEST
            return True
        if not self._inside:
            return False
        self._inside = 0 if "-----END " in line else self._inside - 1
        return True
