"""Ed25519 keys: made and used by who signs, and believed or not by a worker."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from corps.errors import Conflict, Denied, Invalid, NotFound
from corps.model.signature import Signature, Vouched, check_key, signed_bytes

PREFIX = "ed25519:"
KEY_FILE_MAX_BYTES = 64 << 10


def make_key(path: Path) -> str:
    """Write a new private key, readable by its owner only; the public key. Raise Conflict when
    something is there already."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(f"'{path}' is there already: choose another file") from None
    except OSError as error:
        raise Invalid(f"cannot make '{path}': {error.strerror}", field="key") from error
    with os.fdopen(fd, "wb") as file:
        file.write(pem)
    return _public(key)


def sign(path: Path, vouched: Vouched) -> Signature:
    """By the private key in this file. Raise NotFound, Denied for one that others can read, or
    Invalid."""
    key = _load(path)
    return Signature(vouched=vouched, key=_public(key), value=key.sign(signed_bytes(vouched)))


def is_true(signature: Signature) -> bool:
    """Did the key it names sign what it says?"""
    raw = base64.b64decode(check_key(signature.key).removeprefix(PREFIX), validate=True)
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(
            signature.value, signed_bytes(signature.vouched)
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise Denied(f"'{path}' can be read by others (mode {mode:04o}): chmod 600 it")
            key = load_pem_private_key(file.read(KEY_FILE_MAX_BYTES), None)
    except FileNotFoundError:
        raise NotFound(f"no key '{path}': make one with 'corps sign --new-key'") from None
    except OSError as error:
        raise Invalid(f"cannot read '{path}': {error.strerror}", field="key") from error
    except (TypeError, ValueError) as error:
        raise Invalid(f"'{path}' is no private key in PEM without a password", field="key") from (
            error
        )
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(f"'{path}' is no Ed25519 key", field="key")
    return key


def _public(key: Ed25519PrivateKey) -> str:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return PREFIX + base64.b64encode(raw).decode()
