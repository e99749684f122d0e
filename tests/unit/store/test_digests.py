"""Only a digest names a blob or a tree: nothing a peer or an operator says becomes another path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corps.errors import Invalid
from corps.store.blobs import BlobStore
from corps.store.quarantine import Quarantine
from corps.store.soundness import Soundness
from corps.store.trees import Trees
from tests.support.artifacts import digest_of

EMPTY = digest_of(b"")
SHA256_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
BAD = (
    "",
    "1" * 63,
    "1" * 65,
    "A" * 64,
    "1" * 64 + "\n",
    "../" * 21 + "x",
    "/" + "1" * 63,
    "1" * 62 + "/x",
    f"blake3:{EMPTY}",
    f"sha256:{SHA256_OF_NOTHING}",
)


@pytest.fixture
def uses(tmp_path: Path) -> dict[str, Callable[[str], object]]:
    """Everything that takes a digest."""
    blobs = BlobStore(tmp_path / "store", durable=False)
    trees = Trees(tmp_path / "store", blobs)
    soundness = Soundness(trees, blobs)
    victim = tmp_path / "victim"
    victim.write_text("not to be moved")
    return {
        "path": blobs.path,
        "has": blobs.has,
        "missing": lambda digest: blobs.missing([digest]),
        "size": blobs.size_bytes,
        "open": blobs.open_blob,
        "read": lambda digest: blobs.read_bytes(digest, 1),
        "write": lambda digest: blobs.writer(digest, 1),
        "resume": blobs.resume,
        "pieces": lambda digest: blobs.pieces(digest, 1, b"1" * 32),
        "open pieces": blobs.open_pieces,
        "piece list": blobs.piece_list,
        "remove": blobs.remove,
        "stands": trees.stands,
        "tree": trees.path,
        "build": trees.build,
        "uninstall": trees.remove,
        "launch": trees.launch_paths,
        "verify": soundness.verify,
        "repair": soundness.repair,
        "quarantine": lambda digest: Quarantine(tmp_path).take(str(victim), digest),
        "keep": lambda digest: Quarantine(tmp_path).keep(str(victim), digest),
    }


@pytest.mark.parametrize("digest", BAD)
def test_nothing_else_is_a_path(
    tmp_path: Path, uses: dict[str, Callable[[str], object]], digest: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    for name, use in uses.items():
        with pytest.raises(Invalid, match="bad digest"):
            pytest.fail(f"{name} took it: {use(digest)!r}")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_digest_of_nothing_is_of_no_bytes_and_of_no_other_algorithm(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, durable=False)
    assert blobs.put_bytes(b"") == EMPTY
    assert blobs.read_bytes(EMPTY, 0) == b""
    for digest, data in ((EMPTY, b"x"), (SHA256_OF_NOTHING, b"")):
        blobs.remove(digest)
        with blobs.writer(digest, len(data)) as writer:
            writer.write(data)
            with pytest.raises(Invalid, match="arrived with other bytes"):
                writer.commit()
        assert not blobs.has(digest)
