"""What the packed files do not say by themselves: who starts them, and what goes with them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """`runner` and `python` as in the manifest, `programs` beside the runner; `beside` are files
    that go along, by their path inside; `warnings` were found before."""

    runner: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    python: str | None = None
    beside: tuple[tuple[str, Path], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def all_programs(self) -> tuple[str, ...]:
        return (*self.runner[:1], *self.programs)


PLAIN = Form()


def shebang_programs(head: bytes) -> tuple[str, ...]:
    """What a script asks of the machine: its interpreter, and what `env` has to find."""
    if not head.startswith(b"#!"):
        return ()
    words = head[2:].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    if not words or not words[0].startswith("/"):
        return ()
    if os.path.basename(words[0]) != "env":
        return (words[0],)
    named = (word for word in words[1:] if not word.startswith("-") and "=" not in word)
    return (words[0], *(word for word in (next(named, ""),) if word))
