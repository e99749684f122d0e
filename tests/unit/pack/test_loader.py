"""The cache of ld.so, read as it is written."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.pack.loader import CACHE, read_cache

NEW_MAGIC = b"glibc-ld.so.cache1.1"
OLD_MAGIC = b"ld.so-1.7.0\0"
V3 = 1 << 62


def a_cache(entries: list[tuple[str, str, int]], *, old_count: int | None = None) -> bytes:
    """As ldconfig writes it; with `old_count` the old format stands before the new one."""
    header_bytes, entry_bytes = 48, 24
    strings, table = b"", b""
    for name, path, hwcap in entries:
        start = header_bytes + len(entries) * entry_bytes + len(strings)
        table += struct.pack("=iIIIQ", 0x0303, start, start + len(name) + 1, 0, hwcap)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
    new = NEW_MAGIC + struct.pack("=II20x", len(entries), len(strings)) + table + strings
    if old_count is None:
        return new
    old = OLD_MAGIC + struct.pack("=I", old_count) + b"\0" * 12 * old_count
    return old + b"\0" * (-len(old) % 8) + new


ENTRIES = [
    ("libz.so.1", "/usr/lib/libz.so.1", 0),
    ("libz.so.1", "/usr/lib/glibc-hwcaps/x86-64-v3/libz.so.1", V3),
    ("libz.so.1", "/usr/lib/haswell/libz.so.1", 1 << 2),
    ("libz.so.1", "/lib32/libz.so.1", 0),
    ("liba.so", "/a/liba.so", 0),
]
EXPECTED = {
    "libz.so.1": [
        "/usr/lib/libz.so.1",
        "/usr/lib/glibc-hwcaps/x86-64-v3/libz.so.1",
        "/lib32/libz.so.1",
    ],
    "liba.so": ["/a/liba.so"],
}


@pytest.mark.parametrize("old_count", [None, 0, 1, 2, 3])
def test_a_cache_gives_the_paths_of_each_name(tmp_path: Path, old_count: int | None) -> None:
    path = tmp_path / "cache"
    path.write_bytes(a_cache(ENTRIES, old_count=old_count))
    assert read_cache(path) == EXPECTED


def test_no_cache_or_another_format_gives_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    assert read_cache(path) == {}
    for data in (b"", b"hello", NEW_MAGIC, OLD_MAGIC, OLD_MAGIC + b"\xff" * 4, b"\0" * 100):
        path.write_bytes(data)
        assert read_cache(path) == {}


@given(st.integers(0, 400), st.binary(min_size=1, max_size=30))
def test_a_damaged_cache_never_fails(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged-cache"
    data = a_cache(ENTRIES, old_count=1)
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    assert isinstance(read_cache(path), dict)


@pytest.mark.skipif(not CACHE.exists(), reason="no ld.so.cache here (musl)")
def test_the_cache_of_this_machine_leads_to_files() -> None:
    cache = read_cache()
    assert any(Path(path).exists() for path in cache["libc.so.6"])
