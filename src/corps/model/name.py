"""Names and ids: what an operator may call a thing, and how corps spells what it counts.

An instance is `APP.N` (`web.3`), an attempt is `APP.N#K` (`web.3#1`). N and K count up and are
never used again.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable
from typing import TypeAlias

from corps.errors import Invalid

InstanceId: TypeAlias = str
AttemptKey: TypeAlias = str
WorkerName: TypeAlias = str
Digest: TypeAlias = str
CommandId: TypeAlias = str

NAME_RULE = "[a-z0-9][a-z0-9._-]{0,62}"
_NAME = re.compile(NAME_RULE)
_DIGEST = re.compile("[0-9a-f]{64}")
_COMMAND_ID = re.compile("[0-9a-zA-Z-]{8,64}")
_INSTANCE = re.compile(f"({NAME_RULE})\\.([1-9][0-9]{{0,17}})")
_ATTEMPT = re.compile("[1-9][0-9]{0,8}")
HINTS_MAX = 1_000


def check_name(noun: str, text: str) -> str:
    """Return `text` if it may be the name of a `noun`; raise Invalid otherwise."""
    if _NAME.fullmatch(text) is None or text.endswith("."):
        raise Invalid(
            f"bad {noun} name {text[:80]!r}: a name is 1 to 63 of a-z 0-9 . _ -, "
            "starts with a letter or digit and does not end in a dot",
            field="name",
        )
    return text


def check_digest(text: str) -> Digest:
    """Return `text` if it is a BLAKE3 digest, 64 lower-case hexadecimal digits."""
    if _DIGEST.fullmatch(text) is None:
        raise Invalid(f"bad digest {text[:80]!r}: 64 lower-case hexadecimal digits", field="digest")
    return text


def check_command_id(text: str) -> CommandId:
    """Return `text` if it can be a command id: 8 to 64 letters, digits or dashes."""
    if _COMMAND_ID.fullmatch(text) is None:
        raise Invalid(
            f"bad command id {text[:80]!r}: 8 to 64 letters, digits or dashes", field="id"
        )
    return text


def instance_id(app: str, number: int) -> InstanceId:
    return f"{app}.{number}"


def split_instance_id(text: str) -> tuple[str, int] | None:
    """`web.3` -> ("web", 3); None if `text` cannot be an instance id."""
    match = _INSTANCE.fullmatch(text)
    return (match[1], int(match[2])) if match else None


def attempt_key(instance: InstanceId, attempt: int) -> AttemptKey:
    return f"{instance}#{attempt}"


def split_attempt_key(key: AttemptKey) -> tuple[InstanceId, int]:
    """`web.3#1` -> ("web.3", 1). Raise Invalid for anything else."""
    instance, _, attempt = key.rpartition("#")
    if split_instance_id(instance) is None or _ATTEMPT.fullmatch(attempt) is None:
        raise Invalid(f"bad attempt {key[:80]!r}: spelled APP.N#K", field="key")
    return instance, int(attempt)


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """`; did you mean 'web'?` when a known name is near, else the empty string."""
    names = sorted(itertools.islice(known, HINTS_MAX))  # comparing is slow: 10 us and more each
    near = difflib.get_close_matches(text[:80], names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
