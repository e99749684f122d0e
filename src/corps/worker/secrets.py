"""Secrets on their way through a worker: from what a launch names to what its keeper gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from corps.model.secret import AsFd, AsFile, AsVariable, Revealed, Use, told_by
from corps.wire.keeper import GivenSecret

HIDDEN = "[secret]"
HIDDEN_MIN_BYTES = 6  # what is shorter is part of many a word


def given(uses: Iterable[Use], secrets: Iterable[Revealed]) -> tuple[GivenSecret, ...]:
    """What the keeper is told; all that is named is there."""
    values = {secret.name: secret.value for secret in secrets}
    return tuple(_given(use, values[use.name]) for use in uses)


def forms(secrets: Iterable[Revealed]) -> tuple[str, ...]:
    """How each may look in a line that an app wrote, the longest first."""
    values = {secret.value.strip() for secret in secrets}
    texts = [value.decode("utf-8", "backslashreplace") for value in values]
    lines = {line.strip() for text in texts for line in text.split("\n")}
    return tuple(sorted((line for line in lines if len(line) >= HIDDEN_MIN_BYTES), key=_longest))


def hidden(text: str, known: Sequence[str]) -> str:
    for form in known:
        text = text.replace(form, HIDDEN)
    return text


def _longest(text: str) -> tuple[int, str]:
    return -len(text), text


def _given(use: Use, value: bytes) -> GivenSecret:
    match use:
        case AsFile():
            return GivenSecret(value=value, file=use.file, variable=told_by(use.name))
        case AsFd():
            return GivenSecret(value=value, fd=use.fd)
        case AsVariable():
            return GivenSecret(value=value, variable=use.variable)
        case _:
            assert_never(use)
