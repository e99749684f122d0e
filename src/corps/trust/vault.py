"""Seals secrets and opens them: AES-256-GCM with a key in a file beside the store.

Name and version are bound to the box, so that nobody who can write the store puts one secret in
the place of another, or an old version in the place of the new one.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from corps.core.events import Reveal
from corps.errors import Conflict, CorpsError, Unavailable
from corps.model.secret import Revealed, Sealed
from corps.trust.files import check_private, write_private
from corps.wire.secret import Secrets

KEY_BYTES = 32
NONCE_BYTES = 12  # random: 2^32 boxes of one key are far from a repetition (NIST SP 800-38D 8.3)
_log = logging.getLogger("corps.master")
MARKS = "corps: marks of commands with secrets"


class Vault:
    """`path`: its key, made when the first secret is sealed. What it cannot do it raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: bytes | None = None

    def seal(self, name: str, version: int, value: bytes, *, is_first: bool) -> Sealed:
        """`is_first`: there is no secret yet, so there may be no key yet."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        key = self._load(may_make=is_first)
        box = AESGCM(key).encrypt(nonce, value, _bound(name, version))
        return Sealed(version=version, nonce=nonce, box=box)

    def open(self, name: str, sealed: Sealed) -> bytes:
        cipher = AESGCM(self._load(may_make=False))
        try:
            return cipher.decrypt(sealed.nonce, sealed.box, _bound(name, sealed.version))
        except (InvalidTag, ValueError):
            raise Conflict(
                f"secret {name!r} cannot be opened: the master has another '{self._path.name}' "
                "than it was sealed with, or its record was changed: set it again",
                secret=name,
            ) from None

    def reveal(self, effect: Reveal) -> Secrets:
        """What the worker is told: all that it wants, or why it gets nothing."""
        try:
            secrets = tuple(
                Revealed(
                    name=secret.name,
                    version=secret.sealed.version,
                    value=self.open(secret.name, secret.sealed),
                )
                for secret in effect.secrets
            )
        except CorpsError as error:
            _log.error("no secrets for %s: %s", effect.key, error.message)
            return Secrets(key=effect.key, problem=error.message)
        return Secrets(key=effect.key, secrets=secrets)

    def mark(self, data: bytes) -> str:
        """Tells two commands apart, and nobody without the key what is in them."""
        key = blake3.blake3(self._load(may_make=False), derive_key_context=MARKS).digest()
        return blake3.blake3(data, key=key).hexdigest()

    def _load(self, *, may_make: bool) -> bytes:
        if self._key is None:
            try:
                if may_make and not self._path.exists():
                    write_private(self._path, secrets.token_bytes(KEY_BYTES))
                    _settle(self._path.parent)
                check_private(self._path)
                key = self._path.read_bytes()
            except FileNotFoundError:
                raise Conflict(
                    f"the key of all secrets is gone: put '{self._path}' back, or delete every "
                    "secret and set it again"
                ) from None
            except OSError as error:
                raise Unavailable(f"cannot use '{self._path}': {error.strerror}") from error
            if len(key) != KEY_BYTES:
                raise Conflict(f"'{self._path}' is no key of {KEY_BYTES} bytes: put the right back")
            self._key = key
        return self._key


def _settle(directory: Path) -> None:
    """The name of the key lasts before anything that was sealed with it does."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bound(name: str, version: int) -> bytes:
    return f"corps-secret-1\0{name}\0{version}".encode()
