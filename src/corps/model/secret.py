"""Secrets: what an app must know and nobody else may read, by name and version.

The value travels from who sets it to the master, which keeps it sealed, and from there to the
worker of an attempt that names it; nothing that is stored, shown or told has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from corps.errors import Invalid
from corps.model.name import check_name
from corps.model.trust import TrustCommand

SECRET_MAX_BYTES = 48 << 10
SECRETS_MAX = 10_000
USES_MAX = 16  # of one launch: all their values fit into one frame
FD_MIN, FD_MAX = 3, 63
_FILE = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]{0,99}")
_NO_VARIABLE = re.compile("CORPS_.*|LD_(PRELOAD|AUDIT)")


# ---- what is in it


class Clear(msgspec.Struct, frozen=True, kw_only=True, tag="clear", tag_field="type"):
    """The value itself, on its way to the master."""

    value: bytes

    def __repr__(self) -> str:
        return "Clear()"  # in no traceback and no log


class Sealed(msgspec.Struct, frozen=True, kw_only=True, tag="sealed", tag_field="type"):
    """The value as the master keeps it: AES-256-GCM, for one name and version only."""

    version: int
    nonce: bytes
    box: bytes


class Revealed(msgspec.Struct, frozen=True, kw_only=True):
    """The value on its way to the worker of an attempt."""

    name: str
    version: int
    value: bytes

    def __repr__(self) -> str:
        return f"Revealed({self.name}, version {self.version})"  # as above


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What the master stores."""

    name: str
    sealed: Sealed
    created_at: float
    created_by: str
    changed_at: float
    changed_by: str


# ---- what operators ask


class SetSecret(TrustCommand, frozen=True, kw_only=True):
    """A new secret, or a new version of a known one. It comes `Clear`, its master seals it before
    it is decided upon, and what is kept of the command has no content."""

    name: str
    content: Clear | Sealed | None


class DeleteSecret(TrustCommand, frozen=True, kw_only=True):
    """Refused while an instance that lives, or is to be started again, names it."""

    name: str


AnySecret: TypeAlias = SetSecret | DeleteSecret


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """All that is ever shown of a secret. Times RFC 3339; `used_by`: instances that name it."""

    name: str
    version: int
    created_at: str
    created_by: str
    changed_at: str
    changed_by: str
    used_by: tuple[str, ...]


# ---- how a launch names them


class AsFile(msgspec.Struct, frozen=True, kw_only=True, tag="file", tag_field="type"):
    """A file of this name, on a tmpfs, that its user alone may read."""

    name: str
    file: str


class AsFd(msgspec.Struct, frozen=True, kw_only=True, tag="fd", tag_field="type"):
    """An open descriptor of this number, of memory that nobody can change."""

    name: str
    fd: int


class AsVariable(msgspec.Struct, frozen=True, kw_only=True, tag="variable", tag_field="type"):
    """A variable of the environment, which all that it starts has as well."""

    name: str
    variable: str


Use: TypeAlias = AsFile | AsFd | AsVariable


def names_of(uses: Iterable[Use]) -> tuple[str, ...]:
    """Each secret once, in the order in which they are named."""
    return tuple(dict.fromkeys(use.name for use in uses))


def variables_of(uses: Iterable[Use]) -> tuple[str, ...]:
    """The variables whose values are secrets."""
    return tuple(use.variable for use in uses if isinstance(use, AsVariable))


def told_by(name: str) -> str:
    """The variable that says in which file a secret is."""
    return f"CORPS_SECRET_{re.sub('[^A-Z0-9]', '_', name.upper())}_FILE"


def check_content(name: str, value: bytes) -> None:
    """Raise Invalid, without a word of the value."""
    check_name("secret", name)
    if not 0 < len(value) <= SECRET_MAX_BYTES:
        raise Invalid(
            f"secret {name!r} has {len(value)} bytes: from 1 to {SECRET_MAX_BYTES}", field="value"
        )


def check_uses(uses: Iterable[Use]) -> None:
    """Raise Invalid for what cannot be given, or would be given in the same place twice."""
    places: dict[str, None] = {}
    count = 0
    for use in uses:
        check_name("secret", use.name)
        for place in _places(use):
            if place in places:
                raise Invalid(f"two secrets would be in {place}", field="secrets")
            places[place] = None
        count += 1
    if count > USES_MAX:
        raise Invalid(f"{count} secrets: at most {USES_MAX}", field="secrets")


def parse_uses(
    files: Iterable[str], fds: Iterable[str], variables: Iterable[str]
) -> tuple[Use, ...]:
    """`NAME` or `NAME=FILE`, `NAME=N`, `VARIABLE=NAME` -> what a launch names."""
    uses: list[Use] = []
    for text in files:
        name, equals, file = text.partition("=")
        uses.append(AsFile(name=name, file=file if equals else name))
    for text in fds:
        name, _, number = text.partition("=")
        if not number.isascii() or not number.isdigit() or len(number) > 4:
            raise Invalid(f"bad --secret-fd {text[:80]!r}: spelled NAME=N", field="secrets")
        uses.append(AsFd(name=name, fd=int(number)))
    for text in variables:
        variable, equals, name = text.partition("=")
        if not equals:
            raise Invalid(f"bad --secret-env {text[:80]!r}: spelled VARIABLE=NAME", field="secrets")
        uses.append(AsVariable(name=name, variable=variable))
    return tuple(uses)


def _places(use: Use) -> tuple[str, ...]:
    match use:
        case AsFile():
            if _FILE.fullmatch(use.file) is None:
                raise Invalid(
                    f"bad file name {use.file[:80]!r} for a secret: up to 100 of A-Z a-z 0-9 . _ "
                    "-, and no dot or dash first",
                    field="secrets",
                )
            return f"file {use.file!r}", f"variable {told_by(use.name)}"
        case AsFd():
            if not FD_MIN <= use.fd <= FD_MAX:
                raise Invalid(
                    f"descriptor {use.fd} for a secret: from {FD_MIN} to {FD_MAX}", field="secrets"
                )
            return (f"descriptor {use.fd}",)
        case AsVariable():
            if _VARIABLE.fullmatch(use.variable) is None:
                raise Invalid(f"bad variable name {use.variable[:80]!r}", field="secrets")
            if _NO_VARIABLE.fullmatch(use.variable) is not None:
                raise Invalid(f"variable {use.variable!r} may be no secret", field="secrets")
            return (f"variable {use.variable}",)
