"""Tokens as they are pasted: `C1.` lets a worker join, `P1.` is a person at the API.

`KIND.ID.SECRET.PIN.CHECK`, base32 in small letters without padding: 8, 26, 32 and 2 characters.
PIN is the first 160 bits of SHA-256 of the CA's public key, so that the holder knows the right
master before it says anything; CHECK finds a slip of the hand. The master keeps only a hash of the
secret: 128 random bits need no slow one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from enum import StrEnum

import msgspec

from corps.errors import Invalid

ID_BYTES = 5
SECRET_BYTES = 16
PIN_BYTES = 20
CHECK_CHARS = 2
_TOKEN = re.compile(r"(C1|P1)\.([a-z2-7]{8})\.([a-z2-7]{26})\.([a-z2-7]{32})\.([a-z2-7]{2})")
_ID = re.compile("[a-z2-7]{8}")
_HASH = re.compile("[0-9a-f]{64}")


class TokenKind(StrEnum):
    JOIN = "C1"
    PERSON = "P1"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as its holder has it."""

    kind: TokenKind
    id: str
    secret: bytes
    pin: str

    def __repr__(self) -> str:
        return f"Token({self.kind.value}.{self.id})"  # never the secret, in no traceback either


def base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def pin_of(public_key_der: bytes) -> str:
    """Of a CA's SubjectPublicKeyInfo."""
    return base32(hashlib.sha256(public_key_der).digest()[:PIN_BYTES])


def hash_secret(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def is_secret(secret: bytes, hashed: str) -> bool:
    return hmac.compare_digest(hash_secret(secret), hashed)


def format_token(token: Token) -> str:
    text = f"{token.kind.value}.{token.id}.{base32(token.secret)}.{token.pin}"
    return f"{text}.{_check(text)}"


def parse_token(text: str, kind: TokenKind) -> Token:
    """Raise Invalid, without repeating what may be a secret."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None or match[5] != _check(text.strip()[: -CHECK_CHARS - 1]):
        raise Invalid("this is no token, or not all of it: paste it again", field="token")
    if match[1] != kind.value:
        other = "lets workers join" if match[1] == TokenKind.JOIN else "is a person's"
        raise Invalid(
            f"this token {other}: here goes one that starts with {kind.value}.", field="token"
        )
    secret = base64.b32decode(match[3].upper() + "=" * 6)
    return Token(kind=kind, id=match[2], secret=secret, pin=match[4])


def check_token_id(text: str) -> str:
    if _ID.fullmatch(text) is None:
        raise Invalid(f"bad token id {text[:80]!r}: 8 of a-z 2-7", field="id")
    return text


def check_hash(text: str) -> str:
    if _HASH.fullmatch(text) is None:
        raise Invalid(
            "a secret comes as its SHA-256, 64 lower-case hexadecimal digits", field="hash"
        )
    return text


def _check(text: str) -> str:
    return base32(hashlib.sha256(text.encode()).digest())[:CHECK_CHARS]
