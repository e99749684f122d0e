"""A manifest stays inside its tree, and the same files have the same name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corps.errors import Invalid
from corps.model.artifact import (
    BLOB_MAX_BYTES,
    FileEntry,
    FileKind,
    LinkEntry,
    Manifest,
    check_manifest,
    check_path,
    decode_manifest,
    encode_manifest,
    split_artifact,
)
from tests.support.build import DIGEST


def a_file(path: str = "web", **facts: Any) -> FileEntry:
    entry = FileEntry(path=path, size_bytes=10, digest=DIGEST, kind=FileKind.EXECUTABLE)
    return msgspec.structs.replace(entry, **facts)


def a_manifest(*files: FileEntry, links: tuple[LinkEntry, ...] = (), **facts: Any) -> Manifest:
    manifest = Manifest(entry="web", files=(a_file(), *files), links=links)
    return msgspec.structs.replace(manifest, **facts)


def test_a_manifest_is_read_as_it_was_written_whatever_the_order_of_its_files() -> None:
    one, two = a_file("lib/a.so"), a_file("lib/b.so")
    assert encode_manifest(a_manifest(one, two)) == encode_manifest(a_manifest(two, one))
    links = (LinkEntry(path="lib/c.so", target="../web"),)
    manifest = a_manifest(links=links, runner=("/usr/bin/java", "-jar"))
    assert decode_manifest(encode_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb", "a\\b",
     "\x7f", "x" * 256, "x/" * 600 + "x", "\ud800"],
)  # fmt: skip
def test_a_path_is_relative_clean_and_inside(path: str) -> None:
    with pytest.raises(Invalid):
        check_path(path)


@pytest.mark.parametrize("path", ["web", "lib/libc.so.6", "a b/ü", "..a", "a..", "-x"])
def test_a_plain_path_is_fine(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (a_manifest(a_file()), "same path"),
        (a_manifest(a_file("web/x")), "lies below 'web'"),
        (a_manifest(a_file("x", digest="1")), "bad digest"),
        (a_manifest(a_file("x", size_bytes=-1)), "has -1 bytes"),
        (a_manifest(a_file("x", size_bytes=BLOB_MAX_BYTES + 1)), "at most"),
        (a_manifest(links=(LinkEntry(path="x", target="/etc"),)), "outside"),
        (a_manifest(links=(LinkEntry(path="x", target="../x"),)), "outside"),
        (a_manifest(links=(LinkEntry(path="a/x", target="../../x"),)), "outside"),
        (a_manifest(links=(LinkEntry(path="x", target=""),)), "outside"),
        (a_manifest(links=(LinkEntry(path="x", target="a\0"),)), "bad path"),
        (a_manifest(links=(LinkEntry(path="web", target="x"),)), "same path"),
        (a_manifest(entry="api"), "entry 'api' is not among the files"),
        (a_manifest(library_dirs=("../lib",)), "bad path"),
        (a_manifest(library_dirs=("a:b",)), "has a colon"),
        (a_manifest(runner=("bin/java",)), "bad runner 'bin/java'"),
        (a_manifest(runner=("..", "-jar")), "bad runner"),
        (a_manifest(runner=("", "-jar")), "bad runner"),
        (a_manifest(runner=("java", "a\0b")), "control characters"),
        (a_manifest(runner=("java\n",)), "control characters"),
        (a_manifest(runner=("java",) * 65), "more than 64 words"),
        (a_manifest(runner=("java", "x" * 5_000)), "or 4096 characters"),
    ],
)
def test_a_manifest_that_could_not_be_unpacked_is_refused(manifest: Manifest, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        check_manifest(manifest)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[" * 100_000, b'{"entry":1}', b"\xff"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="not a manifest"):
        decode_manifest(data)


def test_an_artifact_is_a_name_and_perhaps_a_digest() -> None:
    assert split_artifact("web") == ("web", None)
    assert split_artifact("web@3f2a") == ("web", "3f2a")
    for text in ("", "Web", "web@", "web@3f2", "web@3F2A", "web@" + "1" * 65, "@3f2a"):
        with pytest.raises(Invalid):
            split_artifact(text)
