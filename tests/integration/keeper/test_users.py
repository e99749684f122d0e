"""As whom programs run: what they are, what they hold, and what they can never become again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper

Order = Callable[..., wire.Spawn]

NOBODY = 65_534
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NONE = "0" * 16


def facts(said: wire.Spawn) -> dict[str, str]:
    """What /proc/self/status says, which the program has copied to its log."""
    lines = Path(said.stdout).read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def born(keeper: Keeper, order: Order, key: str, **fields: object) -> dict[str, str]:
    said = order(key, "/bin/cat", "/proc/self/status", cwd="/", **fields)
    assert keeper.link.run(said).status == 0, Path(said.stderr).read_text()
    return facts(said)


def as_nobody(**fields: object) -> dict[str, object]:
    return {"uid": NOBODY, "gid": NOBODY, "groups": (NOBODY, 44)} | fields


def test_a_user_has_its_groups_and_no_capability_at_all(keeper: Keeper, order: Order) -> None:
    found = born(keeper, order, "app.1#1", **as_nobody())
    assert found["Uid"].split() == found["Gid"].split() == [str(NOBODY)] * 4
    assert found["Groups"].split() == ["44", str(NOBODY)]
    assert {found[name] for name in SETS} == {NONE}
    assert found["NoNewPrivs"] == "1"


def test_with_new_privileges_setuid_programs_keep_their_worth(keeper: Keeper, order: Order) -> None:
    found = born(keeper, order, "app.1#1", **as_nobody(new_privileges=True))
    assert (found["NoNewPrivs"], found["CapEff"], found["CapPrm"]) == ("0", NONE, NONE)
    assert found["CapBnd"] != NONE


@pytest.mark.parametrize(("is_new", "shut"), [(False, "1"), (True, "0")])
def test_whoever_it_runs_as_nothing_gives_it_more(
    keeper: Keeper, order: Order, is_new: bool, shut: str
) -> None:
    found = born(keeper, order, "app.1#1", new_privileges=is_new)
    assert found["NoNewPrivs"] == shut
    assert found["CapEff"] != NONE, "root that a launch did not take from it"


def test_a_setuid_program_gives_nothing_unless_that_was_asked_for(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    for path in (*tmp_path.parents[:2], tmp_path):
        path.chmod(path.stat().st_mode | 0o011)
    program = tmp_path / "become"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    for number, (is_new, euid) in enumerate([(False, NOBODY), (True, 0)], 1):
        fields = as_nobody(new_privileges=is_new)
        said = order(f"app.{number}#1", str(program), "-u", cwd="/", **fields)
        assert keeper.link.run(said).status == 0
        assert Path(said.stdout).read_text() == f"{euid}\n"


CROWDED = 3_000_000_001  # a user that nobody else is


def crowded(order: Order, key: str, script: str, **fields: object) -> wire.Spawn:
    who: dict[str, object] = {"uid": CROWDED, "gid": CROWDED, "groups": (CROWDED,), "cwd": "/"}
    return order(key, "/bin/sh", "-c", script, **(who | fields))


def test_a_user_that_has_too_many_processes_for_a_moment_is_tried_again(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    for path in (*tmp_path.parents[:2], tmp_path):
        path.chmod(path.stat().st_mode | 0o011)
    late = crowded(order, "late.1#1", "echo ran", rlimits={"nproc": 1})
    first = f"until test -e {late.stdout}; do :; done; read -t 0.3 x < /dev/zero; exit 0"
    keeper.link.spawn(crowded(order, "first.1#1", first))
    assert keeper.link.run(late).status == 0
    assert Path(late.stdout).read_text() == "ran\n"


def test_a_user_that_goes_on_to_have_too_many_processes_is_told_so(
    keeper: Keeper, order: Order
) -> None:
    keeper.link.spawn(crowded(order, "first.1#1", "sleep 1000"))
    ended = keeper.link.run(crowded(order, "late.1#1", "echo ran", rlimits={"nproc": 1}))
    assert (ended.failed_stage, ended.failed_errno) == ("execve", errno.EAGAIN)


@pytest.mark.parametrize("field", ["uid", "gid", "groups"])
@pytest.mark.parametrize("number", [(1 << 32) - 1, 1 << 40, -1])
def test_a_number_that_would_change_nothing_starts_nothing(
    keeper: Keeper, order: Order, field: str, number: int
) -> None:
    """setresuid(2) takes -1 for leave it: the program would be root."""
    wrong: object = (number,) if field == "groups" else number
    said = order("app.1#1", "/usr/bin/id", cwd="/", **as_nobody(**{field: wrong}))
    ended = keeper.link.run(said)
    assert (ended.failed_stage, ended.failed_errno) == ("user", errno.EINVAL)
    assert not os.path.getsize(said.stdout)
