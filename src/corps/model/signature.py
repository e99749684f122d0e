"""Who vouches for a version of an artifact: an Ed25519 key (RFC 8032) over what identifies it.

The counter only goes up, so that an older version, signed once and found to be bad, cannot be put
in the place of a newer one.
"""

from __future__ import annotations

import re

import msgspec

from corps.errors import Invalid
from corps.model.name import Digest, check_digest, check_name

CONTEXT = b"corps artifact signature 1\n"  # a key used for something else must not fit here
COUNTER_MAX = 1 << 53
_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_VALUE_BYTES = 64


class Vouched(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed. `expires_at`: Unix seconds, None for never."""

    name: str
    digest: Digest
    counter: int
    expires_at: float | None = None


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """`key` is public, as policies spell it; `value` the 64 bytes of the signature."""

    vouched: Vouched
    key: str
    value: bytes


def signed_bytes(vouched: Vouched) -> bytes:
    return CONTEXT + msgspec.json.encode(vouched)


def check_key(text: str) -> str:
    """`ed25519:` and 32 bytes in base64. Raise Invalid for anything else."""
    if not _KEY.fullmatch(text):
        raise Invalid(
            f"bad key {text[:80]!r}: spelled ed25519:..., as 'corps sign --new-key' prints it",
            field="key",
        )
    return text


def check_signature(signature: Signature) -> None:
    """Raise Invalid unless it has the form of one; whether it is true, the worker decides."""
    check_name("artifact", signature.vouched.name)
    check_digest(signature.vouched.digest)
    check_key(signature.key)
    if not 0 <= signature.vouched.counter <= COUNTER_MAX:
        raise Invalid(f"counter is {signature.vouched.counter}: from 0 on", field="counter")
    if len(signature.value) != _VALUE_BYTES:
        raise Invalid(f"a signature has {_VALUE_BYTES} bytes", field="value")
