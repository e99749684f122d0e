"""How things may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Invalid
from corps.model.name import (
    HINTS_MAX,
    attempt_key,
    check_command_id,
    check_digest,
    check_name,
    did_you_mean,
    instance_id,
    split_attempt_key,
    split_instance_id,
)

GOOD = ("web", "w1", "0", "a.b", "a-b_c.d", "x" * 63)
BAD = (
    "", ".", "..", "-rf", "Web", "a b", "a/b", "a\0b", "a\n", "web.", ".web", "_a", "x" * 64, "ü",
    "а",  # noqa: RUF001 - a Cyrillic letter that looks like a Latin one
)  # fmt: skip
NAMES = st.from_regex("[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


@pytest.mark.parametrize("text", GOOD)
def test_a_name_is_made_of_plain_letters(text: str) -> None:
    assert check_name("worker", text) == text


@pytest.mark.parametrize("text", BAD)
def test_nothing_else_is_a_name(text: str) -> None:
    with pytest.raises(Invalid, match="bad worker name"):
        check_name("worker", text)


@pytest.mark.parametrize("text", ["", "1" * 63, "1" * 65, "g" * 64, "A" * 64, "1" * 64 + "\n"])
def test_a_digest_is_64_hexadecimal_digits(text: str) -> None:
    assert check_digest("0123456789abcdef" * 4)
    with pytest.raises(Invalid, match="bad digest"):
        check_digest(text)


@pytest.mark.parametrize("text", ["", "short", "x" * 65, "with space", "under_score"])
def test_a_command_id_is_8_to_64_letters_digits_or_dashes(text: str) -> None:
    assert check_command_id("0b9e3e5c-94fb-4f5e-a8c1-2d6b3a1c9e77")
    with pytest.raises(Invalid, match="bad command id"):
        check_command_id(text)


@given(NAMES, st.integers(min_value=1, max_value=10**18 - 1))
def test_an_instance_id_is_read_as_it_was_made(app: str, number: int) -> None:
    assert split_instance_id(instance_id(app, number)) == (app, number)


@given(NAMES, st.integers(1, 10**18 - 1), st.integers(1, 10**9 - 1))
def test_an_attempt_key_is_read_as_it_was_made(app: str, number: int, attempt: int) -> None:
    id = instance_id(app, number)
    assert split_attempt_key(attempt_key(id, attempt)) == (id, attempt)


@pytest.mark.parametrize("text", ["", "web", "web.", "web.0", "web.01", "web.-1", ".1", "Web.1"])
def test_what_cannot_be_an_instance_is_none(text: str) -> None:
    assert split_instance_id(text) is None


@pytest.mark.parametrize(
    "key",
    [
        "",
        "#",
        "web.1",
        "web.1#",
        "#1",
        "web#1",
        "web.1#0",
        "web.1#01",
        "web.1#x",
        "web.1#\u0661",
        "a#b#1",
    ],
)
def test_what_cannot_be_an_attempt_is_refused(key: str) -> None:
    with pytest.raises(Invalid, match="bad attempt"):
        split_attempt_key(key)


def test_a_number_of_very_many_digits_is_refused_and_not_computed() -> None:
    with pytest.raises(Invalid):
        split_attempt_key("web.1#" + "9" * 1_000_000)


@given(st.text(max_size=40))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        id, attempt = split_attempt_key(text)
    except Invalid:
        return
    assert attempt_key(id, attempt) == text


def test_a_near_name_is_a_hint_and_a_far_one_is_none() -> None:
    assert did_you_mean("wbe", ["api", "web"]) == "; did you mean 'web'?"
    assert did_you_mean("wbe", ["api"]) == did_you_mean("x", []) == ""


def test_a_hint_is_not_sought_among_very_many() -> None:
    known = [f"other.{number}" for number in range(HINTS_MAX)]
    assert did_you_mean("wbe", [*known, "web"]) == ""
