"""What every command has at hand: which master, a client of it, and a person to ask or none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import click

from corps.cli import render
from corps.cli.vocabulary import Vocabulary
from corps.client import Client
from corps.clock import Clock
from corps.config import Settings, load_settings
from corps.errors import Failed, Malformed, Unavailable

T = TypeVar("T")
AWAY_MAX_S = 10.0
AGAIN_S = 0.2


class Operator:
    """One person or script at work: for one command, or as long as the shell lives."""

    def __init__(self, **flags: str | None) -> None:
        self.is_in_shell = False
        self.vocabulary = Vocabulary(lambda: self.settings)
        self._flags = flags
        self._settings: Settings | None = None
        self._client: Client | None = None

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = load_settings(**self._flags)
        return self._settings

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self.settings)
        return self._client

    def interrupted(self) -> None:
        """Say what goes on although nobody waits for it any more."""
        if self._client is not None and self._client.under_way is not None:
            id, self._client.under_way = self._client.under_way, None
            render.error(f"command {id} goes on; 'corps events' tells what comes of it")

    def now(self) -> float:
        """What the master's clock says, which is what it shows times on."""
        return self.client.status().now

    def elsewhere(self, **flags: str | None) -> Operator:
        """The same operator with another master, for one command."""
        other = Operator(**{**self._flags, **flags})
        other.is_in_shell = self.is_in_shell
        return other

    def load(self, **flags: str | float | None) -> Settings:
        """The settings with flags that only one command has."""
        return load_settings(**self._flags, **flags)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def ask(question: str) -> None:
    """Return when a person says yes. Raise Failed for no, Malformed when nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Malformed(f"not without -y, as nobody can be asked: {question}")
    if not click.confirm(f"{question}?", err=True):
        raise Failed("nothing done")


def persist(read: Callable[[], T], away_max_s: float = AWAY_MAX_S) -> T:
    """What `read` returns, repeated while master or worker is away, no longer than that."""
    clock = Clock()
    deadline: float | None = None
    while True:
        try:
            return read()
        except Unavailable:
            deadline = deadline or clock() + away_max_s
            if clock() > deadline:
                raise
        time.sleep(AGAIN_S)
