"""Secrets as a program finds them: its own alone, and gone when it is."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from corps.keeper.secrets import BASES
from corps.wire import keeper as wire
from corps.wire.keeper import GivenSecret
from tests.integration.keeper.driver import Keeper, frame
from tests.support.opened import opened_directory
from tests.support.waiting import until

Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]
Start = Callable[..., Keeper]
NOBODY = 65534
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
VALUE = b"pass\0word \xff\n"
A_FILE = (GivenSecret(value=VALUE, file="db", variable="CORPS_SECRET_DB_FILE"),)


@pytest.fixture
def opened() -> Iterator[Path]:
    with opened_directory() as directory:
        yield directory


def directories(keeper: Keeper) -> list[Path]:
    """What there is now of the attempts of this keeper."""
    here = os.stat(keeper.directory)
    name = f"{here.st_dev:x}-{here.st_ino:x}"
    return [one for base in BASES for one in Path(base.format(uid=0), name).glob("*")]


def run(keeper: Keeper, message: wire.Spawn) -> list[str]:
    """The lines it wrote."""
    assert keeper.link.run(message).status == 0, Path(message.stderr).read_text()
    return Path(message.stdout).read_text().splitlines()


def test_a_file_is_its_users_alone_in_memory_and_gone_at_the_end(
    keeper: Keeper, order: Order, opened: Path
) -> None:
    script = (
        'stat -c "%a %u %g %s" "$CORPS_SECRETS" "$CORPS_SECRET_DB_FILE"; '
        'stat -f -c %T "$CORPS_SECRETS"; od -An -tx1 "$CORPS_SECRETS/db"; umask'
    )
    said = order("app.1#1", "/bin/sh", "-c", script, secrets=A_FILE, umask=0o077)
    user = {"uid": NOBODY, "gid": NOBODY, "groups": (NOBODY,), "cwd": str(opened)}
    lines = run(keeper, order("app.2#1", "/bin/sh", "-c", script, secrets=A_FILE, **user))
    assert lines[0].startswith("500 65534 65534 ")
    assert lines[1:4] == [f"400 65534 65534 {len(VALUE)}", "tmpfs", " " + VALUE.hex(" ")]
    lines = run(keeper, said)
    assert lines[0].startswith("500 0 0 ") and lines[1] == f"400 0 0 {len(VALUE)}"
    until(lambda: not directories(keeper))


def test_another_user_reads_none_of_it(
    keeper: Keeper, order: Order, built: Built, opened: Path
) -> None:
    user = {"uid": NOBODY, "gid": NOBODY, "groups": (NOBODY,), "cwd": str(opened)}
    keeper.link.spawn(order("app.1#1", "/bin/sleep", "1000", secrets=A_FILE, **user))
    (directory,) = directories(keeper)
    other = user | {"uid": 65533, "gid": 65533}
    script = f'ls {directory} || cat {directory}/db || ls {directory.parent} || echo "$?"'
    lines = run(keeper, order("app.2#1", "/bin/sh", "-c", script, **other))
    assert lines and lines[0] != "db" and lines[0].isdigit()
    keeper.link.signal("app.1#1", signal.SIGKILL)
    keeper.link.ended("app.1#1")
    assert not directories(keeper)


def test_a_descriptor_is_sealed_and_has_the_number_that_was_asked_for(
    keeper: Keeper, order: Order
) -> None:
    secrets = tuple(GivenSecret(value=b"%d" % fd * 3, fd=fd) for fd in range(3, 64))
    script = "for fd in 3 4 5 6 7 9; do cat <&$fd; done; (echo x >&9) 2>/dev/null || echo sealed"
    lines = run(keeper, order("app.1#1", "/bin/bash", "-c", script, secrets=secrets))
    assert lines == ["333444555666777999sealed"]
    script = "ls /proc/self/fd | sort -n | tail -n 2 | head -n 1; cat <&63"
    lines = run(keeper, order("app.2#1", "/bin/bash", "-c", script, secrets=secrets))
    assert lines == ["63", "636363"]
    assert not directories(keeper)


def test_a_variable_has_the_value_itself(keeper: Keeper, order: Order) -> None:
    secrets = (GivenSecret(value=b"a=b\xff\n", variable="TOKEN"),)
    script = 'printf %s "$TOKEN" | od -An -tx1; echo "${CORPS_SECRETS-none}"'
    lines = run(keeper, order("app.1#1", "/bin/sh", "-c", script, secrets=secrets))
    assert lines == [" " + b"a=b\xff\n".hex(" "), "none"]


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (GivenSecret(value=b"x", file="../db"), "one word"),
        (GivenSecret(value=b"x", file=".."), "one word"),
        (GivenSecret(value=b"x", file=""), "one word"),
        (GivenSecret(value=b"x", fd=2), "from 3 to 63"),
        (GivenSecret(value=b"x", fd=64), "from 3 to 63"),
        (GivenSecret(value=b"a\0b", variable="X"), "NUL"),
        (GivenSecret(value=b"a", variable="X=Y"), "without '='"),
    ],
)
def test_what_cannot_be_given_is_refused(
    keeper: Keeper, order: Order, secret: GivenSecret, reason: str
) -> None:
    keeper.link.send(order("app.1#1", "/bin/true", secrets=(*A_FILE, secret)))
    refused = keeper.link.wait(wire.Refused, "app.1#1")
    assert refused.stage == "secrets" and reason in refused.reason
    assert not directories(keeper)
    assert keeper.link.run(order("app.2#1", "/bin/true")).status == 0


@pytest.mark.parametrize("secret", [b"7", b"{}", b'{"value":1,"file":null,"fd":4,"variable":null}'])
def test_a_secret_of_another_shape_ends_the_connection_only(
    keeper: Keeper, order: Order, secret: bytes
) -> None:
    body = msgspec.json.encode(order("app.1#1", "/bin/true"))
    keeper.link.send_raw(frame(body.replace(b'"secrets":[]', b'"secrets":[' + secret + b"]")))
    assert keeper.link.closed()
    keeper.connect()
    assert keeper.link.run(order("app.2#1", "/bin/true")).status == 0


def test_what_a_killed_keeper_left_of_the_dead_goes_and_of_the_living_stays(
    start: Start, order: Order
) -> None:
    old = start()
    script = 'echo up; while test -e "$0"; do sleep 0.05; done'
    flags = [old.directory / "one", old.directory / "two"]
    for number, flag in enumerate(flags, 1):
        flag.touch()
        message = order(f"app.{number}#1", "/bin/sh", "-c", script, str(flag), secrets=A_FILE)
        old.link.spawn(message)
    assert {one.name for one in directories(old)} == {"app.1#1", "app.2#1"}
    dying = old.link.listing()["app.1#1"].pid
    old.kill()
    flags[0].unlink()
    until(lambda: not _is_alive(dying))
    assert {one.name for one in directories(old)} == {"app.1#1", "app.2#1"}
    new = start()
    until(lambda: [one.name for one in directories(new)] == ["app.2#1"])
    assert (directories(new)[0] / "db").read_bytes() == VALUE
    assert new.link.listing()["app.2#1"].is_live  # from here on its end is told
    flags[1].unlink()
    new.link.ended("app.2#1")
    until(lambda: not directories(new))


def test_what_an_app_made_in_its_directory_goes_as_well(
    keeper: Keeper, order: Order, opened: Path
) -> None:
    kept = opened / "kept"
    kept.mkdir()
    (kept / "file").touch()
    script = f'cd "$CORPS_SECRETS" && chmod 700 . && mkdir -p a/b && touch a/c && ln -s {kept} a/l'
    user = {"uid": NOBODY, "gid": NOBODY, "groups": (NOBODY,), "cwd": str(opened)}
    run(keeper, order("app.1#1", "/bin/sh", "-c", script, secrets=A_FILE, **user))
    until(lambda: not directories(keeper))
    assert (kept / "file").exists()


def test_no_value_is_in_what_a_keeper_writes(keeper: Keeper, order: Order) -> None:
    value = b"5f4dcc3b5aa765d61d8327deb882cf99"
    secrets = (GivenSecret(value=value, file="x"), GivenSecret(value=value, variable="X"))
    keeper.link.run(order("app.1#1", "/bin/true", secrets=secrets))
    keeper.link.run(order("app.2#1", "/nowhere", secrets=secrets))
    keeper.link.listing()
    said = b"".join(keeper.link.raw)
    for text in (said, *(one.read_bytes() for one in keeper.directory.iterdir() if one.is_file())):
        assert value not in text and b"NWY0ZGNjM2I1YWE3NjVk" not in text


@pytest.fixture
def state(opened: Path) -> Path:
    """Where a keeper of another user may be."""
    directory = opened / "state"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    return directory


def test_a_keeper_is_no_ones_to_look_into_and_its_programs_are(
    state: Path, start: Start, order: Order
) -> None:
    """Of what may be dumped /proc/PID belongs to its user, of the rest to root (proc(5))."""
    keeper = start(at=str(state), prefix=AS_NOBODY)
    message = order("app.1#1", "/bin/sleep", "1000", cwd="/", secrets=A_FILE)
    out = {"stdout": str(state / "out"), "stderr": str(state / "err")}
    pid = keeper.link.spawn(msgspec.structs.replace(message, **out)).pid
    assert os.stat(f"/proc/{keeper.pid}/mem").st_uid == 0
    assert os.stat(f"/proc/{pid}/mem").st_uid == NOBODY
    place = Path(BASES[2].format(uid=NOBODY))
    assert [one.read_bytes() for one in place.glob("*/app.1#1/db")] == [VALUE]
    keeper.end()
    assert not place.exists()


def test_a_keeper_with_a_few_rights_gives_them_to_another_user_and_takes_them_back(
    state: Path, start: Start, order: Order
) -> None:
    rights = "+chown,+setuid,+setgid,+kill"
    caps = (f"--inh-caps={rights}", f"--ambient-caps={rights}")
    keeper = start(at=str(state), prefix=(*AS_NOBODY, *caps))
    script = 'stat -c "%a %u" "$CORPS_SECRETS" && cat "$CORPS_SECRETS/db"; echo kept > "$0"'
    message = order("app.1#1", "/bin/sh", "-c", f"{script}; sleep 1000", "/dev/null", cwd="/")
    fields = {
        "secrets": (GivenSecret(value=b"db\n", file="db"),),
        "uid": 65533,
        "gid": 65533,
        "groups": (65533,),
        "stdout": str(state / "out"),
        "stderr": str(state / "err"),
    }
    keeper.link.spawn(msgspec.structs.replace(message, **fields))
    until(lambda: (state / "out").read_text() == "500 65533\ndb\n")
    keeper.link.signal("app.1#1", signal.SIGKILL)
    keeper.link.ended("app.1#1")
    until(lambda: not Path(BASES[2].format(uid=NOBODY)).exists())


def elsewhere(*mounts: str) -> tuple[str, ...]:
    """A machine that differs by these mounts."""
    script = " && ".join((*mounts, 'exec "$@"'))
    return ("unshare", "--mount", "sh", "-c", script, "sh")


def test_where_nothing_is_in_memory_a_launch_with_files_is_refused(
    start: Start, order: Order, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o777)
    prefix = elsewhere(f"mount --bind {disk} /dev/shm", f"mount --bind {disk} /run")
    keeper = start(prefix=prefix)
    keeper.link.send(order("app.1#1", "/bin/true", secrets=A_FILE))
    refused = keeper.link.wait(wire.Refused, "app.1#1")
    assert refused.stage == "secrets"
    assert refused.reason.startswith("there is no place for its secrets: tried /run/corps (")
    assert not list(disk.iterdir()), "nothing was put on a disk"
    sealed = (GivenSecret(value=VALUE, fd=3),)
    assert keeper.link.run(order("app.2#1", "/bin/true", secrets=sealed)).status == 0


def test_where_memory_is_full_a_launch_fails_and_leaves_nothing(
    start: Start, order: Order, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    full = "mount -t tmpfs -o size=8k,nr_inodes=20,mode=1777 full /dev/shm"
    keeper = start(prefix=elsewhere(f"mount --bind {disk} /run", full))
    secrets = (*A_FILE, GivenSecret(value=b"x" * (48 << 10), file="large"))
    ended = keeper.link.run(order("app.1#1", "/bin/true", secrets=secrets))
    assert (ended.failed_stage, ended.failed_errno) == ("secrets", errno.ENOSPC)
    shm = Path(f"/proc/{keeper.pid}/root/dev/shm")
    until(lambda: not list(shm.iterdir()))
    assert keeper.link.run(order("app.2#1", "/bin/true", secrets=A_FILE)).status == 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
