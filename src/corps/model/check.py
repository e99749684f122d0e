"""What is asked of a worker before an artifact travels, or is launched: could it run there?"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from corps.errors import Invalid
from corps.model.artifact import BLOB_MAX_BYTES, Manifest
from corps.model.name import Digest, check_digest, check_name
from corps.model.needs import Needs
from corps.model.view import View

BLOBS_MAX = 4_000
CHECK_MAX_BYTES = 900_000  # less than a frame


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is how sentences call it, `digest` its manifest's.

    `blobs` are the largest of its contents: what a worker lacks of them must fit on its disk.
    `is_mapped`: something of it is executed, or mapped to be, and not only read by a runner.
    `path` and `library_path` are PATH and LD_LIBRARY_PATH, when a launch sets them.
    """

    name: str
    digest: Digest
    needs: Needs = Needs()
    blobs: tuple[tuple[Digest, int], ...] = ()
    is_mapped: bool = True
    path: str | None = None
    library_path: str | None = None


class CheckView(View, frozen=True, kw_only=True):
    """`fits` is null for a worker that cannot be asked now; `problems` says why it is not true."""

    worker: str
    artifact: str
    digest: str
    fits: bool | None
    problems: tuple[str, ...]


def check_of(
    name: str, digest: Digest, manifest: Manifest, env: Mapping[str, str] | None = None
) -> Check:
    """Of an artifact; `env` is what a launch adds to its environment."""
    sizes = {file.digest: file.size_bytes for file in manifest.files}
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:BLOBS_MAX]
    is_only_read = bool(manifest.runner) and not manifest.library_dirs
    return Check(
        name=name,
        digest=digest,
        needs=manifest.needs,
        blobs=tuple(largest),
        is_mapped=not is_only_read or manifest.needs.python is not None,
        path=(env or {}).get("PATH"),
        library_path=(env or {}).get("LD_LIBRARY_PATH"),
    )


def check_check(check: Check) -> Check:
    """Return it, if it can be sent to a worker; raise Invalid otherwise."""
    check_name("artifact", check.name)
    check_digest(check.digest)
    for digest, size_bytes in check.blobs:
        check_digest(digest)
        if not 0 <= size_bytes <= BLOB_MAX_BYTES:
            raise Invalid(f"a file of {size_bytes} bytes: at most {BLOB_MAX_BYTES}", field="blobs")
    size_bytes = len(msgspec.msgpack.encode(check))
    if size_bytes > CHECK_MAX_BYTES:
        raise Invalid(
            f"{check.name!r} needs more than workers can be asked for: {size_bytes} bytes of "
            f"needs, at most {CHECK_MAX_BYTES}",
            field="needs",
        )
    return check
