"""Executables and the files they need: what is copied to workers.

A manifest is itself a blob: `NAME@DIGEST` is the digest of the manifest's bytes, so one digest
proves every byte of every file.
"""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum

import msgspec

from corps.errors import Invalid
from corps.model.name import Digest, check_digest, check_name
from corps.model.needs import Needs
from corps.model.signature import Signature
from corps.model.spelling import is_spelled, on_disk

FILES_MAX = 100_000
PATH_MAX_BYTES = 1_024
BLOB_MAX_BYTES = 8 << 30
MANIFEST_MAX_BYTES = 64 << 20
RATE_MIN_BYTES_S = 1 << 10
LIBRARY_DIR = "lib"
NAME_MAX_BYTES = 255
RUNNER_WORDS_MAX = 64
RUNNER_MAX_CHARS = 4_096
_NOT_NAMES = frozenset(("", ".", ".."))
_TAG = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")
_NOT_RUNNER = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class FileKind(StrEnum):
    EXECUTABLE = "executable"
    LIBRARY = "library"
    DATA = "data"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One regular file of an artifact. `path` is relative to the tree, with `/`."""

    path: str
    size_bytes: int = msgspec.field(name="bytes")
    digest: Digest
    kind: FileKind
    executable: bool = False


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One symbolic link of an artifact; `target` stays inside the tree."""

    path: str
    target: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one launch needs: `entry` is executed, `library_dirs` hold its libraries.

    With a `runner` that program is executed instead, and gets the path of `entry` behind its own
    arguments: `("java", "-jar")`; a name without a slash is looked for in the PATH of the launch.
    `needs`: what the machine must have by itself. `directories` are those that hold nothing.
    """

    entry: str
    files: tuple[FileEntry, ...]
    links: tuple[LinkEntry, ...] = ()
    directories: tuple[str, ...] = ()
    library_dirs: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    needs: Needs = Needs()


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact should travel: from other workers as well, or from the master alone; and at
    most so many bytes in a second to each worker (None: as fast as it goes). `forced`: also to
    workers that say they could not run it. `workers`: to how many at once; 0: nobody counted."""

    swarm: bool = True
    rate_bytes_s: int | None = None
    forced: bool = False
    workers: int = 0


def check_transfer(transfer: Transfer) -> Transfer:
    rate_bytes_s = transfer.rate_bytes_s
    if rate_bytes_s is not None and rate_bytes_s < RATE_MIN_BYTES_S:
        raise Invalid(
            f"a rate of {rate_bytes_s} bytes in a second: at least {RATE_MIN_BYTES_S}", field="rate"
        )
    return transfer


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A named manifest, as the master records it. `workers`: where it should be; `signature`: who
    vouched for it last; `forced`: the workers that have it although they cannot run it."""

    name: str
    digest: Digest
    size_bytes: int
    file_count: int
    created_at: float
    created_by: str
    workers: tuple[str, ...] = ()
    signature: Signature | None = None
    forced: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes whose digest names the artifact. The same files give the same bytes."""
    return msgspec.json.encode(
        msgspec.structs.replace(
            manifest,
            files=tuple(sorted(manifest.files, key=lambda entry: entry.path)),
            links=tuple(sorted(manifest.links, key=lambda entry: entry.path)),
            directories=tuple(sorted(manifest.directories)),
        )
    )


def decode_manifest(data: bytes) -> Manifest:
    """Decode and check; raise Invalid when it is not a manifest that may be unpacked."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not a manifest: {error}", field="manifest") from error
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Raise Invalid unless every path stays inside the tree and means one thing."""
    paths = [file.path for file in manifest.files] + [link.path for link in manifest.links]
    if len(paths) + len(manifest.directories) > FILES_MAX:
        raise Invalid(f"more than {FILES_MAX} files in one artifact", field="files")
    _check_tree([*paths, *manifest.directories])
    for entry in manifest.files:
        _check_file(entry)
    for link in manifest.links:
        check_path(link.path)
        check_link(link)
    if manifest.entry not in paths:
        raise Invalid(f"entry {manifest.entry!r} is not among the files", field="entry")
    _check_plain(manifest.entry)
    for directory in manifest.library_dirs:
        _check_plain(check_path(directory))
        if ":" in directory:
            raise Invalid(f"library directory {directory!r} has a colon", field="library_dirs")
    check_runner(manifest.runner)


def check_path(path: str) -> str:
    """Return `path` if it is relative, clean and stays inside the tree; raise Invalid otherwise.

    A backslash is clean only as part of a spelling (model/spelling.py).
    """
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        raise Invalid(f"path {path!r} is not UTF-8", field="path") from None
    parts = path.split("/")
    if "\\" in path:
        parts = on_disk(path).split("/")
        size_bytes = len("/".join(parts).encode("utf-8", "surrogateescape"))
    if (
        size_bytes > PATH_MAX_BYTES
        or not _NOT_NAMES.isdisjoint(parts)
        or (size_bytes > NAME_MAX_BYTES and _has_long_name(parts))
        or (_ODD.search(path) and not is_spelled(path))
    ):
        raise Invalid(
            f"bad path {path[:80]!r}: relative, without '..', control characters or backslash",
            field="path",
        )
    return path


def check_link(link: LinkEntry) -> LinkEntry:
    """Return `link` if it leads to a place inside the tree, whatever its other links are.

    `..` only at the start of a target: behind a name it would leave from where that name, itself
    a link, leads to. So each link alone stays inside, and so does any chain of them.
    """
    parts = link.target.split("/")
    depth = link.path.count("/")
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    names = [part for part in parts[ups:] if part not in ("", ".")]
    if not link.target or link.target.startswith("/") or ups > depth or ".." in names:
        raise Invalid(
            f"link {link.path[:80]!r} points outside of the tree: {link.target[:80]!r}",
            field="links",
        )
    if names:
        check_path("/".join(names))
    if len(link.target) > PATH_MAX_BYTES:
        raise Invalid(f"link {link.path[:80]!r} has a target that is too long", field="links")
    return link


def check_runner(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return `words` if they can start a program: its full path or its name, and arguments."""
    if len(words) > RUNNER_WORDS_MAX or sum(map(len, words)) > RUNNER_MAX_CHARS:
        raise Invalid(
            f"the runner has more than {RUNNER_WORDS_MAX} words or {RUNNER_MAX_CHARS} characters",
            field="runner",
        )
    if any(_NOT_RUNNER.search(word) for word in words):
        raise Invalid("the runner has control characters, or is not UTF-8", field="runner")
    if words and not words[0].startswith("/") and ("/" in words[0] or words[0] in _NOT_NAMES):
        raise Invalid(
            f"bad runner {words[0][:80]!r}: the name of a program, or its full path", field="runner"
        )
    return words


def split_artifact(text: str) -> tuple[str, Digest | None]:
    """`web` -> ("web", None); `web@3f2a` -> ("web", "3f2a"): a digest may be cut to 4 digits."""
    name, at, digest = text.partition("@")
    check_name("artifact", name)
    if not at:
        return name, None
    if not (4 <= len(digest) <= 64 and all(c in "0123456789abcdef" for c in digest)):
        raise Invalid(
            f"bad digest {digest[:80]!r}: 4 to 64 lower-case hexadecimal digits", field="digest"
        )
    return name, digest


def split_tag(text: str) -> tuple[str, str | None]:
    """`web:1.2` -> ("web", "1.2"); what has no colon is what it was. Raise Invalid."""
    name, colon, tag = text.partition(":")
    return (name, check_tag(tag)) if colon else (name, None)


def check_tag(text: str) -> str:
    """Return `text` if it may be the tag of a version; raise Invalid otherwise."""
    if _TAG.fullmatch(text) is None:
        raise Invalid(
            f"bad tag {text[:80]!r}: 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit",
            field="tag",
        )
    return text


def _has_long_name(parts: list[str]) -> bool:
    return any(len(part.encode("utf-8", "surrogateescape")) > NAME_MAX_BYTES for part in parts)


def _check_plain(path: str) -> None:
    """What is executed, or put into an environment."""
    if "\\" in path:
        raise Invalid(f"{path[:80]!r} has an odd name: rename it, then copy again", field="path")


def _check_tree(paths: list[str]) -> None:
    known = set(paths)
    if len(known) != len(paths):
        raise Invalid("two entries have the same path", field="files")
    for path in paths:
        check_path(path)
        parent = posixpath.dirname(path)
        while parent:
            if parent in known:
                raise Invalid(
                    f"{path!r} lies below {parent!r}, which is no directory", field="files"
                )
            parent = posixpath.dirname(parent)


def _check_file(entry: FileEntry) -> None:
    check_digest(entry.digest)
    if not 0 <= entry.size_bytes <= BLOB_MAX_BYTES:
        raise Invalid(
            f"{entry.path!r} has {entry.size_bytes} bytes: at most {BLOB_MAX_BYTES}", field="files"
        )
