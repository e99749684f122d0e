"""Archives of friends and strangers: what is unpacked, and what is refused."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from corps.errors import CorpsError, Invalid, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES, LinkEntry
from corps.pack import nest
from corps.pack.archive import CHUNK_BYTES, is_archive, unpack
from corps.pack.build import pack
from corps.pack.kinds import Kind, Wish, kind_of, name_of, prepared
from corps.pack.parcel import Packed
from tests.support.disks import tmpfs

SCRIPT = b"#!/bin/sh\necho hello\n"


def pack_it(path: Path, entry: str | None = "bin/run") -> Packed:
    with prepared(path, Wish(entry=entry)) as what:
        packed = pack(
            what.source, entry=what.entry, libraries=(), with_libraries=True, form=what.form
        )
        assert all(source.exists() for source in packed.sources.values())
    assert not any(source.exists() for source in packed.sources.values()), "nothing is left"
    return packed


def a_member(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def a_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def a_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def an_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A tar with what a tree may have."""
    return a_tar(
        tmp_path / "App-1.0.tar",
        a_member("./", tarfile.DIRTYPE),
        a_member("./bin", tarfile.DIRTYPE),
        (a_member("./bin/run"), SCRIPT),
        a_member("./bin/again", tarfile.LNKTYPE, linkname="./bin/run"),
        a_member("./current", tarfile.SYMTYPE, linkname="bin"),
        (a_member("etc/empty", mode=0o644), b""),
        (a_member("etc/" + "long" * 30 + "/" + "name" * 40, mode=0o644), b"x"),
    )


def check(packed: Packed) -> None:
    assert {file.path: (file.size_bytes, file.executable) for file in packed.manifest.files} == {
        "bin/run": (21, True),
        "bin/again": (21, True),
        "etc/empty": (0, False),
        "etc/" + "long" * 30 + "/" + "name" * 40: (1, False),
    }
    assert packed.manifest.links == (LinkEntry(path="current", target="bin"),)
    assert packed.warnings == ()


def test_a_tar_becomes_a_tree(plain: Path) -> None:
    check(pack_it(plain))
    kind = kind_of(plain, Wish())
    assert kind is Kind.ARCHIVE
    assert name_of(plain, kind) == "app-1.0"


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.compress),
        (".unnamed", gzip.compress),
    ],
)
def test_a_compressed_tar_is_known_by_its_first_bytes(
    plain: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = plain.with_name(plain.name + suffix)
    packed.write_bytes(compress(plain.read_bytes()))
    check(pack_it(packed))
    whole = packed.read_bytes()
    for count in (len(whole) // 2, len(whole) - 5):
        packed.write_bytes(whole[:count])
        with pytest.raises(Invalid, match="damaged or incomplete"):
            unpack(packed, new_directory(plain.parent, f"cut-{count}"))


def new_directory(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path


def test_what_gnu_tar_makes_is_read(tmp_path: Path) -> None:
    """Sparse, hard-linked, long and odd: in each of its formats."""
    source = tmp_path / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "run").write_bytes(SCRIPT)
    (source / "bin" / "run").chmod(0o755)
    os.link(source / "bin" / "run", source / "bin" / "same")
    with (source / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
        file.truncate(9 << 20)
    deep = source.joinpath(*["d" * 90] * 8)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    digests = set()
    for flags in (["--format=gnu", "-S"], ["--format=posix", "-S"], ["--format=posix"]):
        archive = tmp_path / "app.tar"
        subprocess.run(["tar", "-C", source, *flags, "-cf", archive, "."], check=True)
        digests.add(pack_it(archive).digest)
    with prepared(source, Wish(entry="bin/run")) as what:
        direct = pack(what.source, entry=what.entry, libraries=(), with_libraries=True)
    assert digests == {direct.digest}


def test_a_zip_becomes_a_tree(tmp_path: Path) -> None:
    path = a_zip(
        tmp_path / "app.zip",
        (an_info("bin/", 0o040755), b""),
        (an_info("bin/run", 0o100755), SCRIPT),
        (an_info("bin/data", 0o100644), b"x" * 3 * CHUNK_BYTES),
        (an_info("current", 0o120777), b"bin/run"),
    )
    packed = pack_it(path)
    files = {file.path: (file.size_bytes, file.executable) for file in packed.manifest.files}
    assert files == {"bin/run": (21, True), "bin/data": (3 * CHUNK_BYTES, False)}
    assert packed.manifest.links == (LinkEntry(path="current", target="bin/run"),)


def test_in_a_zip_without_modes_programs_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "app.zip"
    members = []
    for name, data in (("bin/run", SCRIPT), ("readme", b"text")):
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 0, 0
        members.append((info, data))
    packed = pack_it(a_zip(path, *members))
    assert {file.path: file.executable for file in packed.manifest.files} == {
        "bin/run": True,
        "readme": False,
    }


def test_the_programs_of_an_archive_are_named_when_none_is(plain: Path) -> None:
    with pytest.raises(Invalid, match=r"with --entry \(bin/again, bin/run\)"):
        pack_it(plain, None)


def test_modes_that_are_not_kept_are_told(tmp_path: Path) -> None:
    path = a_tar(
        tmp_path / "app.tar",
        (a_member("bin/run", mode=0o4755), SCRIPT),
        (a_member("key", mode=0o600), b"secret"),
        (a_member("open", mode=0o666), b""),
    )
    assert pack_it(path).warnings == (
        "'bin/run' is setuid or setgid; its copy is not, and runs as who launches it",
        "everybody may write to 'open'; nobody may write to a copy",
        "not everybody may read 'key'; every user of a worker may read a copy: keep secrets out of "
        "artifacts",
    )


def test_no_setuid_file_of_a_stranger_is_ever_made(tmp_path: Path) -> None:
    path = a_tar(tmp_path / "app.tar", (a_member("run", mode=0o6777), SCRIPT))
    root = new_directory(tmp_path, "root")
    assert unpack(path, root) == {"run": 0o6777}
    assert (root / "run").stat().st_mode & 0o7777 == 0o700


# ---- strangers

SLIPS = ["../evil", "/tmp/evil", "a/../../evil", "a//../evil", "..", "./../evil", "a/./b"]


@pytest.mark.parametrize("name", [*SLIPS, "new\nline", "back\\slash", "x" * 256])
def test_a_path_that_leads_out_or_is_odd_is_refused(tmp_path: Path, name: str) -> None:
    outside = sorted(tmp_path.parent.iterdir())
    tar = a_tar(tmp_path / "app.tar", (a_member(name), b"evil"))
    archive = a_zip(tmp_path / "app.zip", (an_info(name, 0o100755), b"evil"))
    for at, path in enumerate((tar, archive)):
        root = new_directory(tmp_path, f"root-{at}")
        with pytest.raises(Invalid, match="is not unpacked"):
            unpack(path, root)
        assert list(root.rglob("*")) == []
    assert sorted(tmp_path.parent.iterdir()) == outside


LINK = tarfile.SYMTYPE
HARD = tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([a_member("x", LINK, linkname="/etc/passwd")], "points outside"),
        ([a_member("x", LINK, linkname="../x")], "points outside"),
        ([a_member("x", LINK, linkname="")], "points outside"),
        ([a_member("d", LINK, linkname="."), (a_member("d/x"), b"evil")], "no directory"),
        ([a_member("d", LINK, linkname="e"), a_member("d", tarfile.DIRTYPE)], "no directory"),
        ([(a_member("d/x"), b""), a_member("d", LINK, linkname="..")], "is in it twice"),
        ([a_member("x", HARD, linkname="/etc/passwd")], "bad path '/etc/passwd'"),
        ([a_member("x", HARD, linkname="later"), a_member("later")], "no file before it"),
        ([a_member("d", LINK, linkname="e"), a_member("x", HARD, linkname="d")], "no file before"),
        ([a_member("x"), a_member("x")], "'x' is in it twice"),
        ([a_member("x"), a_member("./x")], "'x' is in it twice"),
        ([a_member("x"), a_member("x/y")], "lies below 'x'"),
        ([a_member("x/y"), a_member("x")], "is in it twice"),
        ([a_member("null", tarfile.CHRTYPE)], "'null' is a device"),
        ([a_member("sda", tarfile.BLKTYPE)], "'sda' is a device"),
        ([a_member("pipe", tarfile.FIFOTYPE)], "'pipe' is a pipe"),
        ([a_member("what", b"Z")], "of an unknown kind"),
    ],
)
def test_a_hostile_tar_is_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], complaint: str
) -> None:
    path = a_tar(tmp_path / "app.tar", *members)
    root = new_directory(tmp_path, "root")
    with pytest.raises(Invalid, match=complaint):
        unpack(path, root)
    assert not any(path.is_symlink() for path in root.rglob("*")), "links are made last"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_zip_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[list[tuple[str | zipfile.ZipInfo, bytes]], str]] = [
        ([(an_info("x", 0o120777), b"/etc/passwd")], "points outside"),
        ([(an_info("x", 0o120777), b"y" * 5000)], "too long"),
        ([(an_info("d", 0o120777), b"."), ("d/x", b"")], "no directory"),
        ([("x", b""), ("x", b"")], "is in it twice"),
        ([(an_info("x", 0o020644), b"")], "a device, a pipe or a socket"),
        ([(an_info("x", 0o010644), b"")], "a device, a pipe or a socket"),
    ]
    for number, (members, complaint) in enumerate(cases):
        with pytest.raises(Invalid, match=complaint):
            unpack(
                a_zip(tmp_path / f"{number}.zip", *members), new_directory(tmp_path, str(number))
            )


def test_a_zip_that_lies_is_refused(tmp_path: Path) -> None:
    """Its CRC, its size, its name, its list, its encryption: wrong."""
    path = a_zip(tmp_path / "app.zip", ("name", b"content " * 100))
    whole = path.read_bytes()
    central = whole.index(b"PK\1\2")
    end = whole.index(b"PK\5\6")
    changes = [
        (central + 16, b"\0\0\0\1", "damaged"),  # CRC
        (central + 24, struct.pack("<I", 100_000), "damaged"),  # size
        (central + 24, struct.pack("<I", 10), "damaged"),
        (central + 8, b"\1\0", "encrypted"),
        (central + 10, b"\x63\0", "damaged"),  # method
        (central + 46, b"n\0me", "NUL|damaged"),
        (end + 12, struct.pack("<I", 1 << 30), "damaged"),  # size of the list
    ]
    for number, (at, new, complaint) in enumerate(changes):
        path.write_bytes(whole[:at] + new + whole[at + len(new) :])
        with pytest.raises(Invalid, match=complaint):
            unpack(path, new_directory(tmp_path, str(number)))
    for count in range(10, len(whole), 17):
        path.write_bytes(whole[:count])
        with pytest.raises(Invalid, match="damaged"):
            unpack(path, new_directory(tmp_path, f"cut-{count}"))


def test_a_tar_cut_anywhere_is_refused(plain: Path, tmp_path: Path) -> None:
    whole = plain.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for count in range(512, end + 1, 256):
        plain.write_bytes(whole[:count])
        with pytest.raises(Invalid, match="damaged or incomplete"):
            unpack(plain, new_directory(tmp_path, f"cut-{count}"))


def test_any_flipped_byte_of_an_archive_is_no_crash(plain: Path, tmp_path: Path) -> None:
    archive = a_zip(tmp_path / "app.zip", ("bin/run", SCRIPT), ("data", b"x" * 100))
    for path, step in ((plain, 13), (archive, 1)):
        whole = path.read_bytes().rstrip(b"\0")
        for at in range(0, len(whole), step):
            damaged = bytearray(whole + bytes(10_240))
            damaged[at] ^= 0xFF
            path.write_bytes(damaged if path is plain else damaged[: len(whole)])
            root = new_directory(tmp_path, f"{path.name}-{at}")
            with contextlib.suppress(Invalid):
                unpack(path, root)


def test_a_header_that_claims_much_allocates_nothing(tmp_path: Path) -> None:
    """A pax header of 8 GiB, and a name of 8 GiB: read by tarfile in one piece."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = a_member("x", kind)
        info.size = 8 << 30
        path = tmp_path / "app.tar"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        with pytest.raises(Invalid, match="a header claims"):
            unpack(path, new_directory(tmp_path, f"root-{kind!r}"))


def test_sizes_have_limits(tmp_path: Path) -> None:
    info = a_member("x")
    path = tmp_path / "app.tar"
    info.size = BLOB_MAX_BYTES + 1
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(Invalid, match="at most 8589934592"):
        unpack(path, new_directory(tmp_path, "one"))
    info.size = -512
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(Invalid):
        unpack(path, new_directory(tmp_path, "two"))


def test_files_that_are_small_alone_and_large_together_are_refused(tmp_path: Path) -> None:
    root = new_directory(tmp_path, "root")
    nested = nest.Nest(root, tmp_path / "bomb.tar")
    with pytest.raises(Invalid, match="bytes unpacked"):
        for number in range(9):
            nested.add_file(f"zeros-{number}", 0o644, BLOB_MAX_BYTES, ())
    assert sum(file.stat().st_blocks for file in root.iterdir()) == 0, "zeros are holes"


def test_a_full_disk_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_tar(tmp_path / "app.tar", (a_member("bin/run"), os.urandom(4 << 20)))
    with tmpfs(tmp_path / "disk", 2) as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        with pytest.raises(Unavailable, match="no space left on device; name a directory"):
            pack_it(path)
        assert [file.name for file in disk.iterdir() if file.name.startswith("corps-")] == []


def test_what_is_no_archive_is_a_file(tmp_path: Path) -> None:
    for number, data in enumerate((b"", SCRIPT, gzip.compress(SCRIPT), b"\x7fELF", bytes(512))):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert not is_archive(path)
    assert not is_archive(tmp_path / "nothing.tar")
    named = tmp_path / "text.tar.gz"
    named.write_bytes(b"no tar")
    with pytest.raises(CorpsError, match="damaged or incomplete"):
        pack_it(named)


def test_an_archive_may_be_copied_as_the_file_it_is(plain: Path) -> None:
    plain.chmod(0o755)
    with prepared(plain, Wish(kind=Kind.FILE)) as what:
        assert what == (plain, None, what.form)
    assert kind_of(plain, Wish(runner=("reader",))) is Kind.FILE
