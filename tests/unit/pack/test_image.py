"""ELF files of both sizes and both byte orders, written here field by field (elf(5))."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Invalid
from corps.pack.elf import Elf, Machine, read_elf
from corps.pack.image import Tag
from corps.pack.versions import asked_versions, defined_versions

ADDRESS = 0x10000
STRINGS = b"\0libc.so.6\0libown.so\0$ORIGIN/a:/b\0OWN_1\0GLIBC_2.4\0open\0OWN_BASE\0/lib/ld.so\0"
SHAPES = [(64, "<"), (64, ">"), (32, "<"), (32, ">")]
ASKED = {"libc.so.6": {"GLIBC_2.4": "open"}}


def at(text: str) -> int:
    return STRINGS.index(b"\0" + text.encode() + b"\0") + 1


def an_elf(bits: int, order: str) -> bytes:
    """A library that needs libc.so.6 with GLIBC_2.4, for `open`, and has OWN_1."""
    word = "Q" if bits == 64 else "I"
    header_bytes, segment_bytes = (64, 56) if bits == 64 else (52, 32)

    def pack(form: str, *values: int) -> bytes:
        return struct.pack(order + form, *values)

    symbol_form = ("IBBHQQ", (0, 0, 0, 0, 0)) if bits == 64 else ("IIIBBH", (0, 0, 0, 0, 0))
    tables = {
        Tag.STRTAB: STRINGS,
        Tag.SYMTAB: b"".join(pack(symbol_form[0], n, *symbol_form[1]) for n in (0, at("open"))),
        Tag.VERSYM: pack("HH", 0, 3),
        Tag.HASH: pack("II", 1, 2),
        Tag.VERNEED: pack("HHIII", 1, 1, at("libc.so.6"), 16, 0)
        + pack("IHHII", 0, 0, 3, at("GLIBC_2.4"), 0),
        Tag.VERDEF: pack("HHHHIII", 1, 1, 1, 1, 0, 20, 28)
        + pack("II", at("OWN_BASE"), 0)
        + pack("HHHHIII", 1, 0, 2, 1, 0, 20, 0)
        + pack("II", at("OWN_1"), 0),
    }
    start = header_bytes + 3 * segment_bytes
    body, places = b"", {}
    for tag, table in tables.items():
        places[tag] = ADDRESS + start + len(body)
        body += table
    values = [
        (Tag.NEEDED, at("libc.so.6")), (Tag.SONAME, at("libown.so")),
        (Tag.RUNPATH, at("$ORIGIN/a:/b")), (Tag.FLAGS_1, 0x800), (Tag.STRSZ, len(STRINGS)),
        (Tag.VERNEEDNUM, 1), (Tag.VERDEFNUM, 2), *places.items(), (Tag.NULL, 0), (Tag.NEEDED, 99),
    ]  # fmt: skip
    dynamic = b"".join(pack(2 * word, tag, value) for tag, value in values)
    whole = start + len(body) + len(dynamic)
    segments = b"".join(
        pack("IIQQQQQQ", kind, 0, offset, ADDRESS + offset, 0, size, size, 1)
        if bits == 64
        else pack("IIIIIIII", kind, offset, ADDRESS + offset, 0, size, size, 0, 1)
        for kind, offset, size in (
            (1, 0, whole),
            (2, start + len(body), len(dynamic)),
            (3, start + at("/lib/ld.so"), len("/lib/ld.so") + 1),
        )
    )
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    header = ident + pack("HHI" + 3 * word, 3, 22, 1, 0, header_bytes, 0)
    header += pack("IHHHHHH", 0, header_bytes, segment_bytes, 3, 0, 0, 0)
    return header + segments + body + dynamic


@pytest.mark.parametrize(("bits", "order"), SHAPES)
def test_all_shapes_are_read(tmp_path: Path, bits: int, order: str) -> None:
    path = tmp_path / "libown.so"
    path.write_bytes(an_elf(bits, order))
    assert read_elf(path) == Elf(
        machine=Machine(bits, order == "<", 22),
        interpreter="/lib/ld.so",
        soname="libown.so",
        needed=("libc.so.6",),
        runpath=("$ORIGIN/a", "/b"),
        has_default_path=False,
    )
    assert asked_versions(path) == ASKED
    assert defined_versions(path) == {"OWN_1"}


@given(
    shape=st.sampled_from(SHAPES), place=st.floats(0, 1), noise=st.binary(min_size=1, max_size=24)
)
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, str],
    place: float,
    noise: bytes,
) -> None:
    data = an_elf(*shape)
    start = int(place * len(data))
    path = tmp_path_factory.getbasetemp() / "damaged-elf"
    path.write_bytes(data[:start] + noise + data[start + len(noise) :])
    for read in (read_elf, asked_versions, defined_versions):
        try:
            read(path)
        except Invalid as error:
            assert "damaged" in error.message


@pytest.mark.parametrize(("bits", "order"), SHAPES)
def test_a_file_cut_anywhere_is_read_or_refused(tmp_path: Path, bits: int, order: str) -> None:
    data = an_elf(bits, order)
    path = tmp_path / "cut"
    for count in range(len(data)):
        path.write_bytes(data[:count])
        if count < 20:
            assert read_elf(path) is None
            continue
        with pytest.raises(Invalid, match="damaged"):
            read_elf(path)
