"""Who can run what: as the workers said, and what follows for copies and launches."""

from __future__ import annotations

import msgspec

from corps.core.fitness import PROBLEMS_MAX, VERDICTS_MAX, Fitness
from corps.model.artifact import Transfer
from corps.model.command import (
    AnyCommand,
    AnyResult,
    Copied,
    Copy,
    Delete,
    Failure,
    Instances,
    Launch,
)
from corps.model.terms import Terms
from corps.model.worker import Facts
from corps.wire import worker as wire
from corps.wire.probe import Probed
from tests.support.build import DIGEST, AMaster, installed

OLD = "w2 has glibc 2.31, web needs GLIBC_2.34 (symbol __libc_start_main)"
OLDER = "w1 has glibc 2.28, web needs GLIBC_2.34 (symbol __libc_start_main)"


def unfit(*problems: str, digest: str = DIGEST) -> Probed:
    return Probed(ask=1, digest=digest, problems=problems)


def answer(master: AMaster, command: AnyCommand) -> AnyResult | None:
    id = f"order-{len(master.said):06d}"
    master.order(command, id=id)
    return next(iter(master.replies(id)), None)


def two_workers() -> tuple[AMaster, int, int]:
    master = AMaster()
    return master, master.join("w1"), master.join("w2")


# ---- users


def test_no_launch_is_placed_where_nobody_can_become_its_user() -> None:
    master = AMaster()
    web = Facts(runs_as=("web", "1001"))
    master.join("w1", artifacts=[DIGEST], facts=web)
    master.order(Copy(name="web", digest=DIGEST))
    for user in ("batch", "root", "web2", "1002", "batch:web"):
        refused = answer(master, Launch(artifact="web", terms=Terms(user=user)))
        assert isinstance(refused, Failure) and refused.code == "denied"
        assert refused.message == (
            f"w1 runs as 'web': it cannot run anything as {user!r}; nothing was launched"
        )
    for allowed in ("web", "1001", "web:video", None):
        command = Launch(artifact="web", terms=Terms(user=allowed))
        assert not isinstance(answer(master, command), Failure)


def test_a_launch_goes_to_who_can_become_its_user() -> None:
    master = AMaster()
    master.join("w1", artifacts=[DIGEST])
    master.join("w2", artifacts=[DIGEST], facts=Facts(runs_as=("web", "1001")))
    master.order(Copy(name="web", digest=DIGEST))
    command = Launch(artifact="web", terms=Terms(user="root"), on="w1,w2", count=3)
    assert not isinstance(answer(master, command), Failure)
    placed = {one.worker for one in master.core.cluster.instances.values()}
    assert placed == {"w1"}
    each = answer(master, Launch(artifact="web", terms=Terms(user="root"), on="w1,w2"))
    assert isinstance(each, Failure) and "w2 runs as 'web'" in each.message


# ---- copies


def test_a_copy_leaves_out_who_cannot_run_it_and_says_why() -> None:
    master, first, second = two_workers()
    master.hear(second, unfit(OLD))
    master.order(Copy(name="web", digest=DIGEST), id="copy")
    assert master.sent(wire.Install, first) and not master.sent(wire.Install, second)
    assert master.core.cluster.artifacts[f"web@{DIGEST}"].workers == ("w1",)
    assert "refused" in master.events("w2")
    master.hear(first, installed())
    (result,) = master.replies("copy")
    assert isinstance(result, Copied)
    assert {row.worker: row.result for row in result.workers} == {"w1": "installed", "w2": OLD}


def test_a_copy_that_nobody_could_run_changes_nothing() -> None:
    master, first, second = two_workers()
    master.hear(first, unfit(OLDER))
    master.hear(second, unfit(OLD))
    result = answer(master, Copy(name="web", digest=DIGEST))
    assert isinstance(result, Failure) and result.code == "unavailable"
    assert OLD in result.message and OLDER in result.message
    assert not master.core.cluster.artifacts and not master.sent(wire.Install)


def test_a_worker_that_was_helped_meanwhile_gets_it() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit(OLD))
    master.hear(second, unfit())
    master.order(Copy(name="web", digest=DIGEST))
    assert master.sent(wire.Install, second)


def test_a_forced_copy_goes_everywhere_and_is_launched_there() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit(OLD))
    forced = Transfer(forced=True)
    master.order(Copy(name="web", digest=DIGEST, transfer=forced))
    (install,) = master.sent(wire.Install, second)
    assert install.transfer == msgspec.structs.replace(forced, workers=2)
    assert answer(master, Launch(artifact="web", on="w2")) is None
    master.close(second)
    again = master.join("w2")  # and lost its files
    assert [sent.transfer for sent in master.sent(wire.Install, again)] == [forced]
    master.hear(again, unfit(OLD))
    master.order(Copy(name="web", digest=DIGEST, to="w1"))
    assert answer(master, Launch(artifact="web", on="w2")) is None


def test_what_was_forced_is_over_when_it_is_deleted_there() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit(OLD))
    master.order(Copy(name="web", digest=DIGEST, transfer=Transfer(forced=True)))
    master.order(Delete(artifact="web", workers="w2"))
    result = answer(master, Launch(artifact="web", on="w2"))
    assert isinstance(result, Failure) and OLD in result.message


# ---- launches


def test_a_launch_goes_only_where_it_can_run() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit(OLD))
    assert [instance.worker for instance in master.launch(count=3)] == ["w1"] * 3
    result = answer(master, Launch(artifact="web", on="w1,w2", count=2))
    assert result is None
    assert {instance.worker for instance in master.core.cluster.instances.values()} == {"w1"}


def test_a_launch_on_a_worker_that_cannot_run_it_is_refused_with_its_reason() -> None:
    master, _, second = two_workers()
    master.launch()
    master.hear(second, unfit(OLD))
    for command in (Launch(artifact="web", on="w2"), Launch(artifact="web", on="w1,w2")):
        result = answer(master, command)
        assert isinstance(result, Failure) and result.code == "unavailable"
        assert OLD in result.message
    assert len(master.core.cluster.instances) == 1


def test_a_launch_that_nobody_can_run_names_the_reason_of_each() -> None:
    master, first, second = two_workers()
    master.order(Copy(name="web", digest=DIGEST))
    master.hear(first, unfit(OLDER))
    master.hear(second, unfit(OLD))
    for on in (None, "all"):
        result = answer(master, Launch(artifact="web", on=on, count=1))
        assert isinstance(result, Failure) and result.code == "unavailable"
        assert OLD in result.message and OLDER in result.message
    assert not master.core.cluster.instances


def test_a_launch_moves_on_to_workers_that_have_no_copy_yet() -> None:
    """Also to one that joined after the copy."""
    master = AMaster()
    first = master.join("w1")
    master.order(Copy(name="web", digest=DIGEST))
    master.hear(first, unfit(OLDER))
    third = master.join("w3")
    (instance,) = master.launch()
    assert instance.worker == "w3" and master.sent(wire.Start, third)


def test_one_that_joined_later_and_cannot_run_it_gets_no_launch() -> None:
    master = AMaster()
    master.join("w1")
    master.order(Copy(name="web", digest=DIGEST))
    late = master.join("w2")
    master.hear(late, unfit(OLD))
    result = answer(master, Launch(artifact="web", on="w2"))
    assert isinstance(result, Failure) and OLD in result.message
    assert not isinstance(answer(master, Launch(artifact="web")), Failure | Instances)
    assert master.instance("web.1").worker == "w1"


def test_another_version_of_it_is_another_matter() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit(OLD, digest="2" * 64))
    master.launch()
    assert answer(master, Launch(artifact="web", on="w2")) is None


# ---- what is remembered


def test_a_worker_that_joins_anew_is_asked_anew() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit(OLD))
    assert master.core.fits("w2", DIGEST) is False
    master.close(second)
    master.join("w2", incarnation=2, process_id="later")
    assert master.core.fits("w2", DIGEST) is None


def test_a_lost_worker_is_forgotten() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit())
    assert master.core.fits("w2", DIGEST) is True
    master.wait(10)
    assert master.core.fits("w2", DIGEST) is None


def test_who_has_not_joined_says_nothing() -> None:
    master = AMaster()
    session = master.open()
    master.hear(session, unfit(OLD))
    assert master.closed() and master.core.fits("w2", DIGEST) is None


def test_what_is_remembered_has_an_end() -> None:
    fitness = Fitness()
    for number in range(VERDICTS_MAX + 10):
        fitness.hear("w1", f"{number:064d}", ("no",) * 1_000)
    assert fitness.fits("w1", f"{9:064d}") is None
    assert fitness.problems("w1", f"{10:064d}") == ("no",) * PROBLEMS_MAX


def test_endless_words_of_a_worker_are_cut() -> None:
    master, _, second = two_workers()
    master.hear(second, unfit("x" * 100_000))
    result = answer(master, Launch(artifact="web", on="w2"))
    assert isinstance(result, Failure)  # no artifact yet
    master.order(Copy(name="web", digest=DIGEST))
    result = answer(master, Launch(artifact="web", on="w2"))
    assert isinstance(result, Failure) and "xxx..." in result.message
    assert len(result.message) < 2_000
