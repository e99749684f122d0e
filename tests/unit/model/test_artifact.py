"""What may be a manifest: paths that stay inside and mean one thing (FAULTS B133 to B160)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Invalid
from corps.model.artifact import (
    BLOB_MAX_BYTES,
    FileEntry,
    FileKind,
    LinkEntry,
    Manifest,
    check_link,
    check_path,
    decode_manifest,
    encode_manifest,
    split_artifact,
)

DIGEST = "ab" * 32


def a_file(path: str, *, size_bytes: int = 1, digest: str = DIGEST) -> FileEntry:
    return FileEntry(path=path, size_bytes=size_bytes, digest=digest, kind=FileKind.DATA)


def a_manifest(*files: FileEntry, links: tuple[LinkEntry, ...] = ()) -> Manifest:
    return Manifest(entry="prog", files=(a_file("prog"), *files), links=links)


def check(manifest: Manifest) -> Manifest:
    """As a worker sees it: from bytes."""
    return decode_manifest(msgspec.json.encode(manifest))


def test_a_manifest_survives_its_encoding() -> None:
    manifest = a_manifest(
        a_file("lib/b.so"), a_file("lib/a.so"), links=(LinkEntry(path="x", target="prog"),)
    )
    decoded = check(manifest)
    assert decoded == manifest
    assert encode_manifest(decoded) == encode_manifest(manifest)


def test_the_order_of_files_does_not_change_the_digest() -> None:
    one = Manifest(entry="a", files=(a_file("a"), a_file("b")))
    other = Manifest(entry="a", files=(a_file("b"), a_file("a")))
    assert encode_manifest(one) == encode_manifest(other)


BAD_PATHS = [
    "",
    ".",
    "..",
    "/etc/passwd",
    "../x",
    "a/../../b",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\x1bb",
    "a\x7fb",
    "a\\b",
    "x" * 256,
    "/".join(["a" * 200] * 6),
    "a\ud800",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_out_of_the_tree_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        check_path(path)


@pytest.mark.parametrize("path", [path for path in BAD_PATHS if path.isascii()])
def test_a_manifest_with_such_a_path_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        check(a_manifest(a_file(path)))
    with pytest.raises(Invalid):
        check(a_manifest(links=(LinkEntry(path=path, target="prog"),)))
    with pytest.raises(Invalid):
        check(msgspec.structs.replace(a_manifest(), library_dirs=(path,)))


@pytest.mark.parametrize("path", ["prog", "a/b/c", "~", "$HOME", "a b", "ü", "..a", "a..", "-rf"])
def test_an_odd_but_honest_path_passes(path: str) -> None:
    assert check_path(path) == path


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_inside(path: str) -> None:
    try:
        check_path(path)
    except Invalid:
        return
    parts = path.split("/")
    assert parts and not set(parts) & {"", ".", ".."}


@pytest.mark.parametrize("other", ["prog", "prog/x"])
def test_two_entries_that_clash_are_refused(other: str) -> None:
    with pytest.raises(Invalid):
        check(a_manifest(a_file(other)))
    with pytest.raises(Invalid):
        check(a_manifest(links=(LinkEntry(path=other, target="x"),)))


def test_a_file_below_a_link_is_refused() -> None:
    with pytest.raises(Invalid, match="no directory"):
        check(a_manifest(a_file("d/x"), links=(LinkEntry(path="d", target="e"),)))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("x", "/etc/passwd"),
        ("x", "../../x"),
        ("x", ".."),
        ("a/x", "../../y"),
        ("a/x", "b/../../../y"),
        ("x", ""),
        ("x", "a\0b"),
        ("x", "a\nb"),
        ("x", "a" * 300),
        ("x", "a/" * 600 + "a"),
        ("x", "./" * 600 + "a"),
        # `d` is a link to the top: behind it `..` would be outside although it looks inside
        ("a/b/x", "d/.."),
    ],
)
def test_a_link_that_leads_out_is_refused(path: str, target: str) -> None:
    with pytest.raises(Invalid):
        check_link(LinkEntry(path=path, target=target))
    with pytest.raises(Invalid):
        check(a_manifest(links=(LinkEntry(path=path, target=target),)))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("x", "prog"),
        ("a/x", "../prog"),
        ("a/b/x", "../.."),
        ("x", "x"),
        ("x", "./a//b"),
        ("x", "."),
    ],
)
def test_a_link_that_stays_inside_passes(path: str, target: str) -> None:
    check(a_manifest(links=(LinkEntry(path=path, target=target),)))


@pytest.mark.parametrize(
    "digest",
    ["", "AB" * 32, "ab" * 31, "ab" * 33, "sha256:" + "ab" * 32, "../" * 21 + "a", "g" * 64],
)
def test_a_digest_is_64_lower_case_digits(digest: str) -> None:
    with pytest.raises(Invalid):
        check(a_manifest(a_file("x", digest=digest)))


@pytest.mark.parametrize("size_bytes", [-1, BLOB_MAX_BYTES + 1, 2**63])
def test_a_size_no_blob_has_is_refused(size_bytes: int) -> None:
    with pytest.raises(Invalid):
        check(a_manifest(a_file("x", size_bytes=size_bytes)))


def test_the_entry_is_one_of_the_files() -> None:
    with pytest.raises(Invalid, match="entry"):
        check(Manifest(entry="other", files=(a_file("prog"),)))


def test_a_library_directory_with_a_colon_is_refused() -> None:
    with pytest.raises(Invalid):
        check(msgspec.structs.replace(a_manifest(), library_dirs=("a:b",)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode_manifest(data)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"entry":' * 50_000, b'{"entry":"a","files":[{}]}', b"null", b"\xff\xfe"],
)
def test_deep_or_wrong_json_is_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode_manifest(data)


def test_a_name_may_carry_a_digest() -> None:
    assert split_artifact("web") == ("web", None)
    assert split_artifact("web@3f2a") == ("web", "3f2a")
    for bad in ("web@", "web@3f2", "web@xyzw", "@3f2a", "Web@3f2a", f"web@{'a' * 65}"):
        with pytest.raises(Invalid):
            split_artifact(bad)
