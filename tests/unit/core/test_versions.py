"""Versions do not change, and neither does what a tag names."""

from __future__ import annotations

import pytest

from corps.model.command import AnyCommand, AnyResult, Copied, Copy, Delete, Failure, Tag, Tagged
from corps.wire import worker as wire
from tests.support.build import DIGEST, AMaster, installed

OTHER = "2" * 64
KEY = f"web@{DIGEST}"


class Told(AMaster):
    """A master with one worker, which answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.session = self.join()

    def answer(self, command: AnyCommand) -> AnyResult | None:
        id = f"order-{len(self.said):06d}"
        self.order(command, id=id)
        return next(iter(self.replies(id)), None)

    def has(self, digest: str, **fields: str) -> AnyResult:
        """Copied, and there."""
        id = f"order-{len(self.said):06d}"
        self.order(Copy(name="web", digest=digest, **fields), id=id)  # type: ignore[arg-type]  # fields of Copy
        self.hear(self.session, installed(digest))
        self.now += 1
        return self.replies(id)[0]

    def tags(self) -> dict[str, tuple[str, ...]]:
        return {one.digest: one.tags for one in self.core.cluster.artifacts.values()}


@pytest.fixture
def master() -> Told:
    return Told()


def test_a_tag_stays_with_its_version(master: Told) -> None:
    master.has(DIGEST)
    assert master.answer(Tag(artifact="web", tag="1.0")) == Tagged(artifact=KEY, tag="1.0")
    master.has(OTHER)
    taken = master.answer(Tag(artifact="web", tag="1.0"))
    assert isinstance(taken, Failure) and taken.code == "conflict"
    assert f"tag 'web:1.0' names version {DIGEST[:12]}, with other content" in taken.message
    again = master.answer(Tag(artifact=f"web@{DIGEST[:6]}", tag="1.0"))
    assert again == Tagged(artifact=KEY, tag="1.0")
    assert master.tags() == {DIGEST: ("1.0",), OTHER: ()}


def test_a_tag_is_moved_and_taken_away_only_when_that_is_said(master: Told) -> None:
    master.has(DIGEST, tag="stable")
    master.has(OTHER, tag="2.0")
    assert isinstance(master.answer(Tag(artifact="web", tag="stable", moves=True)), Tagged)
    assert master.tags() == {DIGEST: (), OTHER: ("2.0", "stable")}
    assert isinstance(master.answer(Tag(artifact="web:2.0")), Tagged)
    assert master.tags() == {DIGEST: (), OTHER: ("stable",)}
    assert master.events("web")[-2:] == ["tag", "untag"]


def test_a_copy_under_a_tag_that_names_other_content_changes_nothing(master: Told) -> None:
    assert isinstance(master.has(DIGEST, tag="1.0"), Copied)
    assert isinstance(master.has(DIGEST, tag="1.0"), Copied)  # the same content, again
    taken = master.answer(Copy(name="web", digest=OTHER, tag="1.0"))
    assert isinstance(taken, Failure) and taken.code == "conflict"
    assert master.tags() == {DIGEST: ("1.0",)}


def test_a_tag_goes_wherever_a_version_goes(master: Told) -> None:
    master.has(DIGEST, tag="1.0")
    master.has(OTHER)
    (instance,) = master.launch(artifact="web:1.0")
    assert (instance.launch.artifact, instance.launch.digest) == ("web", DIGEST)
    used = master.answer(Delete(artifact="web:1.0"))
    assert isinstance(used, Failure) and "in use by 'web.1'" in used.message
    master.order(Delete(artifact="web"))
    assert list(master.tags()) == [DIGEST]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (Tag(artifact="web"), "invalid", "say which tag: NAME:TAG"),
        (Tag(artifact="web:2"), "not_found", "'web' has no tag '2'"),
        (Tag(artifact="web:stabel"), "not_found", "did you mean 'stable'?"),
        (Tag(artifact="web", tag="a b"), "invalid", "bad tag 'a b'"),
        (Tag(artifact="web", tag="../x"), "invalid", "bad tag '../x'"),
        (Tag(artifact="web", tag=""), "invalid", "bad tag ''"),
        (Tag(artifact="web", tag="x" * 64), "invalid", "bad tag"),
        (Tag(artifact="wbe", tag="x"), "not_found", "did you mean 'web'?"),
        (Copy(name="web", digest=OTHER, tag="-"), "invalid", "bad tag '-'"),
        (Delete(artifact="web:stable@12"), "invalid", "bad tag 'stable@12'"),
        (Delete(artifact="web:stable", as_garbage=True), "conflict", "is no garbage: tagged"),
        (Copy(name="web", digest=OTHER, is_repair=True), "conflict", "was deleted: copy it again"),
    ],
)
def test_what_cannot_be_is_refused(
    master: Told, command: AnyCommand, code: str, message: str
) -> None:
    master.has(DIGEST, tag="stable")
    refused = master.answer(command)
    assert isinstance(refused, Failure), refused
    assert refused.code == code and message in refused.message
    assert master.tags() == {DIGEST: ("stable",)}


def test_a_repair_makes_no_version_the_newest(master: Told) -> None:
    master.has(DIGEST)
    master.has(OTHER)
    master.order(Copy(name="web", digest=DIGEST, is_repair=True))
    assert master.sent(wire.Install, master.session)[-1].digest == DIGEST
    (instance,) = master.launch(artifact="web")
    assert instance.launch.digest == OTHER
    assert master.events("web")[-1] == "repair"
