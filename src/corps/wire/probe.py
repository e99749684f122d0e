"""Master <-> worker: could an artifact run there? Asked before any byte of it travels (ADR 19)."""

from __future__ import annotations

from corps.model.check import Check
from corps.model.name import Digest
from corps.wire.message import Message


class Probe(Message, frozen=True, kw_only=True):
    """Look at your machine, and say what speaks against it."""

    ask: int
    check: Check


class Probed(Message, frozen=True, kw_only=True):
    """Answer to Probe: each problem a sentence that names the worker; none: it can run there."""

    ask: int
    digest: Digest
    problems: tuple[str, ...] = ()
