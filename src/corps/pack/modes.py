"""What a copy does not keep of a file's rights, told once for all files.

A worker has two kinds of files: 0555 what has an x bit here, 0444 the rest, owned by its own user.
They are shared between artifacts, so nobody writes to them; and whoever an app runs as reads them.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

NAMED_MAX = 3
CAPABILITY = "security.capability"
_KEPT_BY_NOBODY = ("user.", "system.posix_acl")


class Modes:
    """Collects what is odd, file by file."""

    def __init__(self) -> None:
        self._set_id: list[str] = []
        self._open: list[str] = []
        self._private: list[str] = []
        self._capable: list[str] = []
        self._attributed: list[str] = []

    def note(self, path: str, mode: int, attributes: tuple[str, ...]) -> None:
        if mode & (stat.S_ISUID | stat.S_ISGID):
            self._set_id.append(path)
        if mode & stat.S_IWOTH:
            self._open.append(path)
        if not mode & stat.S_IROTH:
            self._private.append(path)
        if CAPABILITY in attributes:
            self._capable.append(path)
        if any(name.startswith(_KEPT_BY_NOBODY) for name in attributes):
            self._attributed.append(path)

    def warnings(self) -> Iterator[str]:
        for path in self._set_id:
            yield f"'{path}' is setuid or setgid; its copy is not, and runs as who launches it"
        for path in self._capable:
            yield f"'{path}' has file capabilities; its copy has not"
        if self._open:
            yield f"everybody may write to {_named(self._open)}; nobody may write to a copy"
        if self._private:
            yield (
                f"not everybody may read {_named(self._private)}; every user of a worker may read "
                "a copy: keep secrets out of artifacts"
            )
        if self._attributed:
            yield f"extended attributes and ACLs are not copied: of {_named(self._attributed)}"


def _named(paths: list[str]) -> str:
    names = ", ".join(f"'{path}'" for path in paths[:NAMED_MAX])
    more = len(paths) - NAMED_MAX
    return f"{names} and {more} more" if more > 0 else names
