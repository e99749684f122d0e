"""What workers are asked before an artifact travels."""

from __future__ import annotations

import msgspec
import pytest

from corps.errors import Invalid
from corps.model.check import BLOBS_MAX, CHECK_MAX_BYTES, Check, check_check, check_of
from corps.model.needs import LibraryNeed, Needs
from corps.wire.codec import FRAME_MAX_BYTES
from corps.wire.probe import Probe
from tests.support.artifacts import a_manifest

DIGEST = "1" * 64


def test_each_content_is_asked_for_once_and_only_the_largest_when_there_are_many() -> None:
    files = {f"file{number}": b"x" * (number % 7_000) for number in range(BLOBS_MAX + 3_000)}
    check = check_of("web", DIGEST, a_manifest({"prog": b"x", **files}))
    sizes = [size for _, size in check.blobs]
    assert len(sizes) == BLOBS_MAX == len(dict(check.blobs))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 6_999
    assert len(msgspec.msgpack.encode(Probe(ask=1, check=check))) < FRAME_MAX_BYTES


def test_what_a_runner_only_reads_may_lie_on_a_filesystem_that_executes_nothing() -> None:
    plain = a_manifest({"prog": b"x"})
    jar = msgspec.structs.replace(plain, runner=("java", "-jar"))
    native = msgspec.structs.replace(jar, library_dirs=("lib",))
    modules = msgspec.structs.replace(jar, needs=Needs(python="3.11"))
    asked = [check_of("web", DIGEST, one).is_mapped for one in (plain, jar, native, modules)]
    assert asked == [True, False, True, True]


def test_a_launch_brings_its_search_paths() -> None:
    check = check_of("web", DIGEST, a_manifest({"prog": b"x"}), {"PATH": "/a", "X": "y"})
    assert (check.path, check.library_path) == ("/a", None)


@pytest.mark.parametrize(
    ("wrong", "about"),
    [
        ({"name": "a b"}, "artifact name"),
        ({"digest": "A" * 64}, "digest"),
        ({"blobs": (("xyz", 1),)}, "digest"),
        ({"blobs": ((DIGEST, -1),)}, "-1 bytes"),
        ({"blobs": ((DIGEST, 1 << 60),)}, "at most"),
        ({"needs": Needs(programs=("p" * CHECK_MAX_BYTES,))}, "needs more than"),
    ],
)
def test_a_check_that_no_worker_could_take_is_refused(wrong: dict[str, object], about: str) -> None:
    good = Check(name="web", digest=DIGEST, needs=Needs(libraries=(LibraryNeed(name="libm.so.6"),)))
    assert check_check(good) is good
    with pytest.raises(Invalid, match=about):
        check_check(msgspec.structs.replace(good, **wrong))
