"""What every command has at hand: which master, a client of it, and a person to ask or none."""

from __future__ import annotations

import sys

import click

from corps.cli.vocabulary import Vocabulary
from corps.client import Client
from corps.config import Settings, load_settings
from corps.errors import Failed, Malformed


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

    @property
    def under_way(self) -> str | None:
        """The id of the command that is being waited for."""
        return self._client.under_way if self._client else None

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
