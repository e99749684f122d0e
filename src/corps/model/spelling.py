"""How the odd names of files are spelled in manifests, messages and tables.

A control character, a backslash, a byte that is no UTF-8 stands as `\\x0a`, `\\x5c`, `\\xff`, byte
for byte; everything else stands for itself. So a path is always clean text, each name on a disk has
one spelling, and a path without a backslash is spelled as it is.
"""

from __future__ import annotations

import re

_ODD = re.compile(r"[\x00-\x1f\x7f\\\udc80-\udcff]+")
_SPELLED = re.compile(rb"\\x([0-9a-f]{2})")


def spell(path: str) -> str:
    """Of a path as Python has it from the disk, with surrogates for what is no UTF-8."""
    return _ODD.sub(_spell, path)


def on_disk(path: str) -> str:
    """The path that is spelled so, for `os`."""
    if "\\" not in path:
        return path
    data = _SPELLED.sub(lambda found: bytes((int(found[1], 16),)), path.encode())
    return data.decode("utf-8", "surrogateescape")


def is_spelled(path: str) -> bool:
    """Is it how `spell` would write it, of a path that a disk can have?"""
    try:
        raw = on_disk(path)
    except UnicodeEncodeError:
        return False
    return "\0" not in raw and spell(raw) == path


def _spell(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found[0].encode("utf-8", "surrogateescape"))
