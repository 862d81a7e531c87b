"""Names that MLflow takes, by MLflow's own validators."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name
from tracelet_collector.exporters.names import KeyBook, sanitise

_pieces = st.sampled_from(
    ["/", "//", ".", "..", "./", "../", "#", "=", "é", "e\u0301", "日本", "a", " ", ":", "~", "\n", "\0", "🙂", "-"]
)
_names = st.text(max_size=400) | st.lists(_pieces, max_size=30).map("".join)


@given(_names, st.sampled_from([200, 220, 250]))
@example("..", 250)
@example("..loss", 250)
@example("/", 250)
@example("loss\n", 250)
@example("../" * 100, 200)
@example("x/" * 200, 200)
@settings(max_examples=500, deadline=None)
def test_mlflow_takes_every_sanitised_name(name: str, limit: int) -> None:
    key = sanitise(name, limit)
    assert 0 < len(key) <= limit
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(key)
        check(f"tracelet.metric.{key}.type")
        check(f"{key}.meta/field")
        check(f"param.{key}")


@given(_names)
@settings(max_examples=200, deadline=None)
def test_sanitising_twice_is_sanitising_once(name: str) -> None:
    assert sanitise(sanitise(name, 250), 250) == sanitise(name, 250)


@pytest.mark.parametrize("name", ["loss", "train/loss", "päö/日本 1", "a.b-c:d", ".hidden", "a/.b", "x" * 250])
def test_good_names_stay(name: str) -> None:
    assert sanitise(name, 250) == name


@given(st.lists(_names, unique=True, max_size=60))
@settings(max_examples=200, deadline=None)
def test_every_name_has_a_key_of_its_own_and_keeps_it(names: list[str]) -> None:
    book = KeyBook({}, 200)
    keys = [book.key(name) for name in names]
    assert len(set(keys)) == len(names)
    for key in keys:
        _validate_metric_name(key)
        assert len(key) <= 200
    # Decided again from what was kept, in whatever order.
    again = KeyBook(dict(book.decided), 200)
    assert [again.key(name) for name in reversed(names)] == keys[::-1]


def test_a_thousand_names_that_sanitise_to_one() -> None:
    book = KeyBook({}, 200)
    names = [f"loss{chr(0x1F300 + i)}" for i in range(700)]
    assert len({book.key(name) for name in names}) == 700
    assert book.decided[names[0]] == "loss_"


def test_the_first_name_has_the_plain_key() -> None:
    book = KeyBook({}, 200)
    assert book.key("loss#1") == "loss_1"
    later = book.key("loss_1")
    assert later.startswith("loss_1-")
    assert len(later) == len("loss_1-") + 4
