"""A tree is whole or not there, at whatever instant its builder dies."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.errors import Conflict, Invalid, NotFound
from corps.model.artifact import FILES_MAX, Manifest, encode_manifest
from corps.model.name import Digest
from corps.model.spelling import spell
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from tests.support.artifacts import a_manifest, digest_of, leftovers, put_artifact
from tests.support.crashes import crash_everywhere

FILES = {"prog": b"#!/bin/sh\n", "lib/a.so": b"a", "lib/deep/er/b.so": b"", "data": b"data"}
LINKS = {"latest": "prog", "lib/deep/up": "../a.so", "to-lib": "lib"}
MANIFEST = a_manifest(FILES, links=LINKS, library_dirs=("lib", "lib/deep"))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, durable=False)


@pytest.fixture
def trees(tmp_path: Path, blobs: BlobStore) -> Trees:
    return Trees(tmp_path, blobs)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)


def is_faithful(tree: Path) -> bool:
    return all((tree / path).read_bytes() == data for path, data in FILES.items()) and all(
        os.readlink(tree / path) == target for path, target in LINKS.items()
    )


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("durable", [True, False])
def test_a_tree_is_what_its_manifest_says(tmp_path: Path, umask: int, durable: bool) -> None:
    before = os.umask(umask)
    try:
        blobs = BlobStore(tmp_path, durable=durable)
        trees = Trees(tmp_path, blobs)
        digest = put_artifact(blobs, FILES, MANIFEST)
        trees.build(digest)
    finally:
        os.umask(before)
    tree = tmp_path / "trees" / digest
    assert is_faithful(tree)
    assert mode_of(tree / "prog") == 0o555
    assert mode_of(tree / "data") == mode_of(tree / "lib" / "a.so") == 0o444
    for directory in (tree.parent, tree, tree / "lib", tree / "lib" / "deep" / "er"):
        assert mode_of(directory) == 0o755
    assert trees.installed() == (digest,)
    assert leftovers(tmp_path) == []


def test_a_tree_costs_no_second_copy(tmp_path: Path, blobs: BlobStore, trees: Trees) -> None:
    digest = put_artifact(blobs, FILES, MANIFEST)
    trees.build(digest)
    for path, data in FILES.items():
        placed = tmp_path / "trees" / digest / path
        assert placed.stat().st_ino == blobs.path(digest_of(data)).stat().st_ino


def test_a_launch_gets_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blobs: BlobStore
) -> None:
    monkeypatch.chdir(tmp_path)
    trees = Trees(Path("."), blobs)
    digest = put_artifact(blobs, FILES, MANIFEST)
    with pytest.raises(NotFound, match="copy it again"):
        trees.launch_paths(digest)
    trees.build(digest)
    tree = f"{tmp_path}/trees/{digest}"
    for _ in range(2):
        assert trees.launch_paths(digest) == (f"{tree}/prog", f"{tree}/lib:{tree}/lib/deep")
    trees.remove(digest)
    with pytest.raises(NotFound):
        trees.launch_paths(digest)


def test_without_libraries_there_is_no_library_path(blobs: BlobStore, trees: Trees) -> None:
    files = {"prog": b"x"}
    digest = put_artifact(blobs, files, a_manifest(files))
    trees.build(digest)
    assert trees.launch_paths(digest).library_path == ""


def test_a_blob_that_two_modes_want_is_copied_once(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    data = os.urandom(70_000)
    one = {"prog": data, "same-but-data": data}
    other = {"prog": b"other", "data": data}
    manifests = (a_manifest(one), a_manifest(other))
    first, second = (
        put_artifact(blobs, *pair) for pair in zip((one, other), manifests, strict=True)
    )
    for digest in (first, second):
        trees.build(digest)
    top = tmp_path / "trees"
    assert mode_of(top / first / "prog") == 0o555
    for copy in (top / first / "same-but-data", top / second / "data"):
        assert mode_of(copy) == 0o444
        assert copy.read_bytes() == data
        assert copy.stat().st_nlink == 1


def test_empty_directories_and_odd_names_are_as_they_were(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    odd = [b"new\nline", b"d\xe9j\xe0/vu", b"back\\slash"]
    names = [spell(os.fsdecode(name)) for name in odd]
    files = {"prog": b"x", **dict.fromkeys(names, b"odd")}
    manifest = a_manifest(
        files, links={"to\\x0a": names[0]}, directories=("var/cache", "var/\\xff", "run")
    )
    digest = put_artifact(blobs, files, manifest)
    trees.build(digest)
    tree = os.fsencode(tmp_path / "trees" / digest)
    for name in odd:
        with open(os.path.join(tree, name), "rb") as file:
            assert file.read() == b"odd"
    assert os.readlink(os.path.join(tree, b"to\n")) == odd[0]
    for directory in (b"var/cache", b"var/\xff", b"run"):
        assert os.listdir(os.path.join(tree, directory)) == []
        assert mode_of(Path(os.fsdecode(os.path.join(tree, directory)))) == 0o755
    assert leftovers(tmp_path) == []
    trees.remove(digest)
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_hundred_thousand_files_are_unpacked(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    """Of a few contents, so that an inode gets more names than some file systems let it have."""
    contents = [b"%d" % number for number in range(2)]
    files = {f"{at // 1_000}/{at % 1_000}": contents[at % 2] for at in range(FILES_MAX - 1)}
    files["prog"] = b"#!/bin/sh\n"
    for data in (*contents, files["prog"]):
        blobs.put_bytes(data)
    digest = blobs.put_bytes(encode_manifest(a_manifest(files)))
    trees.build(digest)
    tree = tmp_path / "trees" / digest
    for at in (0, 1, 50_000, 99_998):
        assert (tree / f"{at // 1_000}/{at % 1_000}").read_bytes() == contents[at % 2]
    assert sum(len(names) for _, _, names in os.walk(tree)) == FILES_MAX
    trees.remove(digest)


def test_building_again_changes_nothing(tmp_path: Path, blobs: BlobStore, trees: Trees) -> None:
    digest = put_artifact(blobs, FILES, MANIFEST)
    trees.build(digest)
    inode = (tmp_path / "trees" / digest).stat().st_ino
    trees.build(digest)
    assert (tmp_path / "trees" / digest).stat().st_ino == inode


def test_a_missing_blob_is_named_and_nothing_is_left(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    digest = put_artifact(blobs, FILES, MANIFEST)
    blobs.remove(digest_of(b"data"))
    with pytest.raises(NotFound, match="for 'data'"):
        trees.build(digest)
    assert trees.installed() == ()
    assert leftovers(tmp_path) == []


def test_a_manifest_that_lies_about_a_size_is_refused(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    liar = a_manifest({"prog": b"12345678"})
    blob = blobs.path(digest_of(b"12345678"))
    digest = put_artifact(blobs, {"prog": b"12345678"}, liar)
    blob.chmod(0o644)
    blob.write_bytes(b"123")
    with pytest.raises(Invalid, match="should have 8 bytes"):
        trees.build(digest)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "manifest",
    [
        a_manifest({"prog": b"x", "../evil": b"x"}),
        a_manifest({"prog": b"x", "/tmp/evil": b"x"}),
        a_manifest({"prog": b"x"}, links={"evil": "/etc/passwd"}),
        a_manifest({"prog": b"x", "d/evil": b"x"}, links={"d": ".."}),
        a_manifest({"prog": b"x", "d/evil": b"x"}, links={"d": "."}),
    ],
    ids=["up", "absolute", "link out", "write through a link out", "write through a link"],
)
def test_a_hostile_manifest_is_not_unpacked(
    tmp_path: Path, blobs: BlobStore, trees: Trees, manifest: Manifest
) -> None:
    blobs.put_bytes(b"x")
    digest = blobs.put_bytes(encode_manifest(manifest))
    with pytest.raises(Invalid):
        trees.build(digest)
    assert trees.installed() == ()
    assert not (tmp_path / "trees" / "evil").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "x", "AB" * 32])
def test_only_a_digest_names_a_tree(trees: Trees, name: str) -> None:
    for use in (trees.build, trees.remove, trees.launch_paths, trees.is_installed, trees.manifest):
        with pytest.raises(Invalid):
            use(name)


def test_removing_keeps_the_blobs_that_others_need(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    other_files = {"prog": b"other", "lib/same.so": b"a"}
    first = put_artifact(blobs, FILES, MANIFEST)
    second = put_artifact(blobs, other_files, a_manifest(other_files))
    trees.build(first)
    trees.build(second)
    trees.remove(first)
    assert trees.installed() == (second,)
    assert set(blobs.digests()) == {second, digest_of(b"other"), digest_of(b"a")}
    assert (tmp_path / "trees" / second / "lib" / "same.so").read_bytes() == b"a"
    trees.remove(second)
    assert blobs.digests() == ()
    assert leftovers(tmp_path) == []


def test_two_libraries_of_one_name_do_not_clash(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    for data in (b"one", b"two"):
        files = {"prog": b"x", "lib/same.so": data}
        digest = put_artifact(blobs, files, a_manifest(files))
        trees.build(digest)
        assert (tmp_path / "trees" / digest / "lib" / "same.so").read_bytes() == data


def test_removing_what_is_not_there_is_fine(trees: Trees) -> None:
    trees.remove(digest_of(b"nothing"))


def test_removing_forgets_what_an_install_had_fetched(blobs: BlobStore, trees: Trees) -> None:
    digest = put_artifact(blobs, FILES, MANIFEST)
    trees.remove(digest)
    assert blobs.digests() == ()


def test_blobs_that_an_install_counts_on_are_kept(blobs: BlobStore, trees: Trees) -> None:
    coming = a_manifest({"prog": b"coming", "lib/a.so": b"a"})
    first = put_artifact(blobs, FILES, MANIFEST)
    second = blobs.put_bytes(encode_manifest(coming))
    trees.build(first)
    with trees.keeping(second, coming):
        trees.remove(first)
        trees.collect()
        assert set(blobs.digests()) == {second, digest_of(b"a")}
        with pytest.raises(Conflict, match="being copied"):
            trees.remove(second)
    trees.remove(second)
    assert blobs.digests() == ()


def test_collecting_removes_what_nothing_needs(blobs: BlobStore, trees: Trees) -> None:
    digest = put_artifact(blobs, FILES, MANIFEST)
    trees.build(digest)
    orphan = blobs.put_bytes(b"12345")
    needed = set(blobs.digests()) - {orphan}
    assert trees.collect() == 5
    assert set(blobs.digests()) == needed


def test_what_an_app_put_into_its_tree_goes_with_it(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    digest = put_artifact(blobs, FILES, MANIFEST)
    trees.build(digest)
    cache = tmp_path / "trees" / digest / "cache"
    (cache / "locked").mkdir(parents=True)
    (cache / "out").symlink_to(outside)
    (cache / "locked" / "file").write_text("")
    (cache / "locked").chmod(0)
    trees.remove(digest)
    assert list((tmp_path / "trees").iterdir()) == []
    assert (outside / "precious").exists()


def test_a_directory_without_its_manifest_is_not_installed(
    tmp_path: Path, blobs: BlobStore, trees: Trees
) -> None:
    digest = put_artifact(blobs, FILES, MANIFEST)
    trees.build(digest)
    blobs.remove(digest)
    (tmp_path / "trees" / "README").write_text("")
    assert trees.installed() == ()


# ---- dying at any instant


def test_a_build_that_dies_leaves_nothing_or_a_whole_tree(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, durable=False)
    digest = put_artifact(blobs, FILES, MANIFEST)

    def check() -> None:
        again = Trees(tmp_path, BlobStore(tmp_path, durable=False))
        assert leftovers(tmp_path) == []
        assert again.installed() in ((), (digest,))
        again.build(digest)
        assert is_faithful(tmp_path / "trees" / digest)
        again.remove(digest)
        put_artifact(blobs, FILES, MANIFEST)

    assert crash_everywhere(lambda: lambda: Trees(tmp_path, blobs).build(digest), check) > 20


def test_a_removal_that_dies_leaves_a_whole_tree_or_is_finished_by_the_next_start(
    tmp_path: Path,
) -> None:
    blobs = BlobStore(tmp_path, durable=False)
    other_files = {"prog": b"other", "lib/same.so": b"a"}
    other = put_artifact(blobs, other_files, a_manifest(other_files))
    Trees(tmp_path, blobs).build(other)
    others = set(blobs.digests())

    def install() -> Digest:
        digest = put_artifact(blobs, FILES, MANIFEST)
        Trees(tmp_path, blobs).build(digest)
        return digest

    def prepare() -> Callable[[], object]:
        digest = install()
        return lambda: Trees(tmp_path, blobs).remove(digest)

    def check() -> None:
        digest = digest_of(encode_manifest(MANIFEST))
        again = Trees(tmp_path, BlobStore(tmp_path, durable=False))
        assert leftovers(tmp_path) == []
        if again.is_installed(digest):
            assert is_faithful(tmp_path / "trees" / digest)
        else:
            assert set(blobs.digests()) == others, "nothing of it is left"
        assert again.is_installed(other)

    assert crash_everywhere(prepare, check) > 20


# ---- after a power loss


def test_trees_that_a_power_loss_cut_short_are_dropped(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, durable=False)
    trees = Trees(tmp_path, blobs)
    broken = put_artifact(blobs, FILES, MANIFEST)
    whole_files = {"prog": b"whole", "lib/a.so": b"a"}
    whole = put_artifact(blobs, whole_files, a_manifest(whole_files))
    unreadable_files = {"prog": b"third"}
    unreadable = put_artifact(blobs, unreadable_files, a_manifest(unreadable_files))
    for digest in (broken, whole, unreadable):
        trees.build(digest)
    fetched = blobs.put_bytes(b"for a tree that was not built yet")
    for damaged in (digest_of(b"data"), unreadable, fetched):
        os.chmod(blobs.path(damaged), 0o644)
        os.truncate(blobs.path(damaged), 1)
    assert len(Trees(tmp_path, blobs).installed()) == 3, "the same boot: nobody looks"
    (tmp_path / "boot_id").write_text("another")
    again = Trees(tmp_path, blobs)
    assert again.installed() == (whole,)
    assert set(blobs.digests()) == {whole, digest_of(b"whole"), digest_of(b"a")}
    put_artifact(blobs, FILES, MANIFEST)
    again.build(broken)
    assert is_faithful(tmp_path / "trees" / broken)
