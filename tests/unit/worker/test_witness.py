"""What a worker sees of a death when its keeper first tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from corps.clock import Clock
from corps.core import believe
from corps.core.worker import REPORTS_A_PART
from corps.model.instance import Delivered, Evidence, LogLine, Machine, SpawnFailed, Survivor
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from corps.wire import keeper as kw
from corps.wire.codec import FRAME_MAX_BYTES, encode_frame
from corps.wire.worker import Changed, Totals
from corps.worker.layout import Layout
from corps.worker.tail import CHARS_MAX, LINES_MAX
from corps.worker.witness import ARGV_CHARS_MAX, Witness
from tests.support.artifacts import a_manifest, put_artifact
from tests.support.build import NOW, a_death_report, kept, kept_dead

KEY = "web.1#1"
KILLED = 9


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.make(KEY)
    return made


@pytest.fixture
def witness(tmp_path: Path, layout: Layout) -> Iterator[Witness]:
    made = Witness(layout, Trees(tmp_path, BlobStore(tmp_path, durable=True)), Clock())
    yield made
    made.close()


def a_spawn(layout: Layout, *args: str, path: str = "/bin/true") -> kw.Spawn:
    return kw.Spawn(
        key=KEY,
        path=path,
        argv=(path, *args),
        env={},
        cwd="/",
        stdout=layout.log(KEY, "stdout"),
        stderr=layout.log(KEY, "stderr"),
    )


def see(witness: Witness, *messages: kw.FromKeeper, known: bool = False) -> dict[str, Evidence]:
    return dict(witness.testify(messages, lambda key: known).evidence)


def test_a_death_is_seen_with_argv_output_and_the_state_of_the_machine(
    witness: Witness, layout: Layout
) -> None:
    witness.spawns(a_spawn(layout, "a b"))
    Path(layout.log(KEY, "stderr")).write_bytes(b"no config\n")
    seen = see(witness, kw.Ended(attempt=kept_dead(KEY)))[KEY]
    assert seen.argv == ("/bin/true", "a b")
    assert seen.last_lines == (LogLine(stream="stderr", text="no config"),)
    assert seen.machine is not None and seen.machine.memory_total_bytes > 0
    assert (seen.oom, seen.proves_oom) == (None, False)


def test_of_a_restarted_worker_argv_is_unknown_and_the_rest_is_seen(
    witness: Witness, layout: Layout
) -> None:
    Path(layout.log(KEY, "stdout")).write_bytes(b"bye")
    seen = see(witness, a_listing(kept_dead(KEY), kept("web.2#1")))
    assert list(seen) == [KEY], "the living have no evidence"
    assert (seen[KEY].argv, seen[KEY].last_lines[0].text) == ((), "bye")


def test_a_death_is_seen_once(witness: Witness, layout: Layout) -> None:
    assert see(witness, a_listing(kept_dead(KEY)), known=True) == {}


def test_what_did_not_start_has_a_reason_if_anybody_can_still_look(
    witness: Witness, layout: Layout
) -> None:
    witness.spawns(a_spawn(layout, path="/no/such"))
    failed = kept_dead(KEY, None, failed_stage="execve", failed_errno=2, executed=False)
    said = witness.testify((kw.Ended(attempt=failed),), lambda key: False)
    assert dict(said.reasons)[KEY].startswith("cannot execute 'such': '/no' is missing")
    again = witness.testify((kw.Ended(attempt=failed),), lambda key: False)
    assert again.reasons == (), "nobody knows any more what its path was"
    refused = see(witness, kw.Refused(key=KEY, reason="full"), kw.Refused(key=None, reason=""))
    assert refused[KEY].machine is not None


def test_only_a_strangers_sigkill_is_held_against_the_oom_killer(witness: Witness) -> None:
    """This machine's own counter and log: nobody was killed."""
    ours = msgspec.structs.replace(
        kept_dead(KEY, KILLED), signals=(kw.KeptSignal(signal=9, at=NOW),)
    )
    for attempt in (kept_dead(KEY, KILLED), ours, kept_dead(KEY, KILLED, deadline_s=30.0)):
        assert not see(witness, kw.Ended(attempt=attempt))[KEY].proves_oom


def test_long_argv_is_cut_and_counted(witness: Witness, layout: Layout) -> None:
    witness.spawns(a_spawn(layout, *map(str, range(100))))
    seen = see(witness, kw.Ended(attempt=kept_dead(KEY)))[KEY]
    assert seen.argv[:3] == ("/bin/true", "0", "1") and seen.argv[-1] == "[and 82 more]"
    witness.spawns(a_spawn(layout, "x" * (ARGV_CHARS_MAX + 1)))
    seen = see(witness, kw.Ended(attempt=kept_dead(KEY)))[KEY]
    assert seen.argv == ("/bin/true", "[and 1 more]")


def test_as_many_reports_as_travel_together_fit_into_a_frame() -> None:
    wide = "\U0001f600"
    evidence = Evidence(
        seen_at=NOW,
        argv=(wide * ARGV_CHARS_MAX,),
        last_lines=(LogLine(stream="stdout", text=wide * (CHARS_MAX // LINES_MAX)),) * LINES_MAX,
        machine=Machine(load_1m=0.1, memory_total_bytes=1 << 40, memory_available_bytes=1 << 39),
        oom=wide * 320,
        limit=wide * believe.TEXT_MAX,
        lingering=1 << 20,
        survivors=(Survivor(pid=1 << 22, command=wide * 200),) * believe.LIST_MAX,
    )
    report = a_death_report(
        KEY,
        SpawnFailed(stage="execve", errno=2, message=wide * believe.TEXT_MAX),
        evidence=evidence,
        delivered=tuple(Delivered(signal=64, at=NOW) for _ in range(20)),
    )
    frame = encode_frame(Changed(reports=(report,) * REPORTS_A_PART))
    assert len(frame) < FRAME_MAX_BYTES


def a_listing(*attempts: kw.KeptAttempt) -> kw.Listing:
    return kw.Listing(attempts=attempts, totals=Totals(), keeper_pid=1, is_last=True)


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (("/no/such/java", "-jar"), "cannot execute 'java': '/no' is missing"),
        ((), "cannot execute 'prog': it is neither ELF nor begins with"),
        (("no-such-java", "-jar"), None),  # it had a PATH that nobody knows any more
    ],
)
def test_a_restarted_worker_knows_what_was_to_be_executed(
    tmp_path: Path, layout: Layout, runner: tuple[str, ...], reason: str | None
) -> None:
    blobs = BlobStore(tmp_path, durable=False)
    trees = Trees(tmp_path, blobs)
    files = {"prog": b"text"}
    manifest = msgspec.structs.replace(a_manifest(files), runner=runner)
    digest = put_artifact(blobs, files, manifest)
    trees.build(digest)
    witness = Witness(layout, trees, Clock())
    failed = kept_dead(KEY, None, failed_stage="execve", failed_errno=8, executed=False)
    failed = msgspec.structs.replace(failed, note=digest)
    said = dict(witness.testify((kw.Ended(attempt=failed),), lambda key: False).reasons)
    witness.close()
    assert said.get(KEY, "").startswith(reason or "") and (KEY in said) == (reason is not None)
