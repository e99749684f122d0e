"""Tokens: what is pasted is understood whole, or refused without repeating the secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Invalid
from corps.model.token import (
    ID_BYTES,
    PIN_BYTES,
    SECRET_BYTES,
    Token,
    TokenKind,
    base32,
    format_token,
    hash_secret,
    is_secret,
    parse_token,
)

SECRET = bytes(range(SECRET_BYTES))
TOKEN = Token(kind=TokenKind.JOIN, id=base32(b"abcde"), secret=SECRET, pin=base32(bytes(PIN_BYTES)))


@given(
    st.sampled_from(TokenKind),
    st.binary(min_size=ID_BYTES, max_size=ID_BYTES),
    st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
    st.binary(min_size=PIN_BYTES, max_size=PIN_BYTES),
)
def test_a_token_is_read_as_it_was_written(
    kind: TokenKind, id: bytes, secret: bytes, pin: bytes
) -> None:
    token = Token(kind=kind, id=base32(id), secret=secret, pin=base32(pin))
    assert parse_token(f" {format_token(token)}\n", kind) == token


def test_a_slip_of_the_hand_is_found() -> None:
    """Two characters of a hash: one slip in 1,024 passes, and then the proof fails."""
    text, passed, tried = format_token(TOKEN), 0, 0
    for at, right in enumerate(text):
        for wrong in "abcdefghijklmnopqrstuvwxyz234567.":
            if wrong == right:
                continue
            tried += 1
            try:
                parse_token(text[:at] + wrong + text[at + 1 :], TokenKind.JOIN)
                passed += 1
            except Invalid as error:
                assert base32(SECRET) not in error.message
    assert passed < tried / 200


def test_a_token_of_the_other_kind_says_so() -> None:
    with pytest.raises(Invalid, match="lets workers join: here goes one that starts with P1"):
        parse_token(format_token(TOKEN), TokenKind.PERSON)


def test_no_secret_is_shown_by_accident() -> None:
    assert base32(SECRET) not in repr(TOKEN)
    assert str(SECRET) not in f"{TOKEN}"


def test_the_master_knows_a_secret_by_its_hash() -> None:
    assert is_secret(SECRET, hash_secret(SECRET))
    assert not is_secret(SECRET[::-1], hash_secret(SECRET))
