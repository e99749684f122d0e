"""Contexts: what `corps login` keeps of each cluster.

`contexts/NAME.json` in the user's directory of configuration, 0600, as it holds the token. What
others could read, or is somebody else's, is refused.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from corps.errors import Denied, Invalid, NotFound, Unavailable
from corps.model.name import check_name, did_you_mean
from corps.trust.files import read_private, write_private

DIRECTORY = "contexts"
FILE_MAX_BYTES = 1 << 20


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a cluster, and as whom. `server` is `https://HOST:PORT`, `authorities` the CAs
    in PEM that alone may speak for it."""

    server: str
    cluster: str
    user: str
    authorities: str
    token: str

    def __repr__(self) -> str:
        return f"Login({self.server!r}, {self.user!r})"  # never the token, in no traceback either


class Logins:
    """Those in `directory`, that of corps in the configuration of one user."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / DIRECTORY

    def names(self) -> list[str]:
        try:
            return sorted(path.stem for path in self._directory.glob("*.json"))
        except OSError:
            return []

    def load(self, name: str) -> Login:
        """Raise NotFound, or Denied for a file that others may read or have written."""
        path = self._path(name)
        try:
            data = read_private(path, FILE_MAX_BYTES)
            return msgspec.json.decode(data, type=Login)
        except FileNotFoundError:
            near = did_you_mean(name, self.names())
            raise NotFound(
                f"no context {name!r}{near or '; make it with corps login'}", context=name
            ) from None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(
                f"cannot read {path}: {_reason(error)}; log in again", field="context"
            ) from error

    def saved_at(self, name: str) -> float:
        """Unix seconds."""
        return self._path(name).stat().st_mtime

    def save(self, name: str, login: Login) -> None:
        """Whole or not at all."""
        path = self._path(name)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, msgspec.json.encode(login))
        except OSError as error:
            raise Unavailable(f"cannot write {path}: {_reason(error)}") from error

    def delete(self, name: str) -> Login | None:
        """What it was, if that could still be read."""
        path = self._path(name)
        try:
            login = self.load(name)
        except (Denied, Invalid):
            login = None
        path.unlink()
        return login

    def _path(self, name: str) -> Path:
        return self._directory / f"{check_name('context', name)}.json"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
