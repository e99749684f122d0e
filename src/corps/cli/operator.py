"""What every command has at hand: which master, a client of it, and a person to ask or none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from corps.cli import render
from corps.cli.vocabulary import Vocabulary
from corps.client import Client
from corps.clock import Clock
from corps.config import LOCAL, Settings, config_dir, load_settings
from corps.errors import Failed, Invalid, Malformed, Unavailable
from corps.net.endpoint import endpoint_of
from corps.net.exchange import Endpoint
from corps.trust.files import read_private
from corps.trust.logins import Logins

T = TypeVar("T")
AWAY_MAX_S = 10.0
AGAIN_S = 0.2
TOKEN_MAX_BYTES = 1_000
KEEP_UP_S = 3_600.0


class Operator:
    """One person or script at work: for one command, or as long as the shell lives."""

    def __init__(self, token: str | None = None, **flags: str | None) -> None:
        self.is_in_shell = False
        self.vocabulary = Vocabulary(lambda: self.endpoint)
        self._token = token
        self._flags = flags
        self._settings: Settings | None = None
        self._endpoint: Endpoint | None = None
        self._client: Client | None = None

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = self.load()
        return self._settings

    @property
    def endpoint(self) -> Endpoint:
        """The master that is meant, and as whom."""
        if self._endpoint is None:
            self._endpoint = endpoint_of(self.settings, self.token)
        return self._endpoint

    @cached_property
    def token(self) -> str | None:
        """A person's, as `--token-file` or the environment has it."""
        path = self._flags.get("token_file")
        return self._token if path is None else read_token(path)

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self.endpoint)
            self._keep_up(self._client)
        return self._client

    def forget(self) -> None:
        """Contexts have changed: look again at what is meant, within the shell too."""
        self.close()
        self._settings = self._endpoint = self._client = None

    def _keep_up(self, client: Client) -> None:
        """A login learns in time which CAs are trusted: one that comes, before one goes."""
        name = self.settings.context
        if name is None or name == LOCAL or self.settings.server or self.token is not None:
            return
        logins = Logins(config_dir())
        if Clock()() - logins.saved_at(name) > KEEP_UP_S:
            authorities = client.hello().authorities
            logins.save(name, msgspec.structs.replace(logins.load(name), authorities=authorities))

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
        kept = self._flags
        if "server" in flags or "context" in flags:
            kept = {name: kept[name] for name in kept if name not in ("server", "context")}
        other = Operator(self._token, **{**kept, **flags})
        other.is_in_shell = self.is_in_shell
        return other

    def load(self, **flags: str | float | None) -> Settings:
        """The settings with flags that only one command has."""
        own = {name: flag for name, flag in self._flags.items() if name != "token_file"}
        return load_settings(**own, **flags)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def read_token(path: str) -> str:
    """From a file that is nobody else's, or from stdin for `-`."""
    try:
        if path == "-":
            data = sys.stdin.buffer.readline(TOKEN_MAX_BYTES)
        else:
            data = read_private(Path(path), TOKEN_MAX_BYTES)
        return data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = "this is no token" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise Invalid(f"cannot read a token from {path!r}: {reason}", field="token_file") from error


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
