"""A keeper with rights for a worker without: what a worker that was taken over still cannot do.

The worker is `daemon` here, and the test speaks in its place.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from corps.keeper.main import command
from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper
from tests.support.opened import opened_directory

Order = Callable[..., wire.Spawn]
Make = Callable[..., wire.Spawn]

WORKER = pwd.getpwnam("daemon")
KEEPER = pwd.getpwnam("bin")
NOBODY = 65_534
SECRET = "root only\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """The worker's own directory, which all may pass through."""
    with opened_directory() as directory:
        os.chown(directory, WORKER.pw_uid, WORKER.pw_gid)
        yield directory


@pytest.fixture
def policy(place: Path, tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text("")
    path.chmod(0o644)
    return path


@pytest.fixture
def keeper(start: Callable[..., Keeper], policy: Path, tmp_path: Path) -> Keeper:
    """As its unit has it run: not root either, with five capabilities."""
    for path in (*tmp_path.parents[:2], tmp_path):
        path.chmod(path.stat().st_mode | 0o011)
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", KEEPER.pw_uid, KEEPER.pw_gid)
    (tmp_path / "state").chmod(0o711)
    held = "-all,+setuid,+setgid,+kill,+chown,+setpcap"
    prefix = ["setpriv", "--reuid=bin", "--regid=bin", "--clear-groups"]
    prefix += [f"--inh-caps={held}", f"--ambient-caps={held}", f"--bounding-set={held}"]
    return start("--worker=daemon", f"--policy={policy}", prefix=prefix)


@pytest.fixture
def make(place: Path, order: Order) -> Make:
    """As the worker would ask for it: as nobody, in a directory of its own, logs beside it."""

    def ask(key: str, path: str, /, *args: str, **fields: object) -> wire.Spawn:
        work = place / key / "work"
        for path_of in (work.parent, work):
            path_of.mkdir(mode=0o711, exist_ok=True)
            if path_of.stat().st_uid == 0:
                os.chown(path_of, WORKER.pw_uid, WORKER.pw_gid)
        usual: dict[str, object] = {"uid": NOBODY, "gid": NOBODY, "groups": (NOBODY,)}
        usual |= {"work": str(work), "cwd": str(work)}
        usual |= {name: str(work.parent / name) for name in ("stdout", "stderr")}
        return order(key, path, *args, **(usual | fields))

    return ask


def refused(keeper: Keeper, said: wire.Spawn) -> str:
    keeper.link.send(said)
    answer = keeper.link.wait(wire.Refused, said.key)
    assert answer.stage == "policy"
    assert not os.path.exists(said.stdout)
    return answer.reason


def test_a_user_runs_in_its_own_directory_and_its_logs_are_the_workers(
    keeper: Keeper, make: Make
) -> None:
    said = make("app.1#1", "/bin/sh", "-c", "id -u; touch made")
    for attempt in (1, 2):  # the second time the directory is its user's already
        assert keeper.link.run(msgspec.structs.replace(said, key=f"app.1#{attempt}")).status == 0
    assert Path(said.stdout).read_text() == f"{NOBODY}\n" * 2
    assert Path(said.work).stat().st_uid == Path(said.work, "made").stat().st_uid == NOBODY
    log = Path(said.stdout).stat()
    assert (log.st_uid, log.st_gid) == (WORKER.pw_uid, WORKER.pw_gid)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"uid": None, "gid": None, "groups": ()}, "nothing runs as this worker itself"),
        ({"uid": 0, "gid": 0, "groups": (0,)}, "allow_root"),
        ({"uid": 2, "gid": 2, "groups": (2,)}, "user 'bin' .*min_uid = 1000"),
        ({"uid": 1, "gid": 1, "groups": (1,)}, "user 'daemon' .*min_uid"),
        ({"uid": (1 << 32) - 1}, "no user has the number"),
        ({"uid": 1 << 40}, "no user has the number"),
        ({"uid": -1}, "no user has the number"),
        ({"gid": 0}, "group 0 is not one of uid 65534"),
        ({"groups": (NOBODY, 6)}, "group 6 is not one of uid 65534"),
        ({"uid": 3_000_000, "gid": NOBODY}, "group 65534 is not one of uid 3000000"),
        ({"new_privileges": True}, "allow_new_privileges"),
    ],
)
def test_what_no_policy_allows_is_refused_by_the_keeper(
    keeper: Keeper, make: Make, fields: dict[str, object], reason: str
) -> None:
    assert re.search(reason, refused(keeper, make("app.1#1", "/usr/bin/id", **fields)))


def test_the_policy_of_the_machine_counts_from_the_next_launch_on(
    keeper: Keeper, make: Make, policy: Path
) -> None:
    games = {"uid": 5, "gid": 60, "groups": (60,)}
    assert "min_uid" in refused(keeper, make("app.1#1", "/usr/bin/id", **games))
    policy.write_text('allow_users = ["games"]\nallow_groups = ["video"]')
    said = make("app.1#1", "/usr/bin/id", "-G", **games | {"groups": (60, 44)})
    assert keeper.link.run(said).status == 0
    assert Path(said.stdout).read_text().split() == ["60", "44"]
    assert "allow_users" in refused(keeper, make("app.2#1", "/usr/bin/id"))
    policy.write_text('default_user = "games"\nallow_root = true\nmax_pids = 5')
    assert keeper.link.run(make("app.3#1", "/usr/bin/id", **games)).status == 0
    root = make("app.4#1", "/usr/bin/id", "-u", uid=0, gid=0, groups=(0,), cwd="/", work="")
    assert keeper.link.run(root).status == 0
    policy.write_text('allow_users = ["daemon"]')
    own = {"uid": 1, "gid": 1, "groups": (1,)}
    assert keeper.link.run(make("app.5#1", "/usr/bin/id", **own)).status == 0


@pytest.mark.parametrize(
    "text",
    ["min_uid = '0'", "allow_root = 1", "allow_users = 'root'", "allow_users = [0]", "x", "\xff"],
)
def test_a_policy_in_doubt_starts_nothing(
    keeper: Keeper, make: Make, policy: Path, text: str
) -> None:
    policy.write_bytes(text.encode("latin-1"))
    assert "cannot be applied" in refused(keeper, make("app.1#1", "/usr/bin/id"))


def test_a_policy_that_the_worker_could_write_starts_nothing(
    keeper: Keeper, make: Make, policy: Path
) -> None:
    os.chown(policy, WORKER.pw_uid, 0)
    assert "root's own file" in refused(keeper, make("app.1#1", "/usr/bin/id"))
    os.chown(policy, 0, 0)
    policy.chmod(0o664)
    assert "root's own file" in refused(keeper, make("app.2#1", "/usr/bin/id"))
    policy.unlink()
    assert keeper.link.run(make("app.3#1", "/usr/bin/id")).status == 0


def test_no_log_is_opened_that_the_worker_could_not_open(
    keeper: Keeper, make: Make, tmp_path: Path, place: Path
) -> None:
    """Neither by its name nor through links to directories of root."""
    for path in (*tmp_path.parents[:2], tmp_path):
        path.chmod(path.stat().st_mode | 0o011)
    target = tmp_path / "root" / "1.stdout"
    target.parent.mkdir(mode=0o755)
    target.write_text(SECRET)
    (place / "link").symlink_to(target.parent)
    wanted = (target, place / "link" / "1.stdout", place / "link" / "2.stdout", target.parent / "2")
    for number, path in enumerate(wanted, 1):
        ended = keeper.link.run(make(f"app.{number}#1", "/bin/echo", "evil", stdout=str(path)))
        assert (ended.failed_stage, ended.failed_errno) == ("log", errno.EACCES)
    assert os.listdir(target.parent) == ["1.stdout"]
    assert target.read_text() == SECRET


def test_no_directory_is_given_away_that_is_not_the_workers(
    keeper: Keeper, make: Make, tmp_path: Path, place: Path
) -> None:
    for path in (*tmp_path.parents[:2], tmp_path):
        path.chmod(path.stat().st_mode | 0o011)
    target = tmp_path / "root"
    target.mkdir(mode=0o755)
    (place / "link").symlink_to(target)
    (place / "inner").symlink_to(tmp_path)
    wanted = {
        str(target): errno.EPERM,
        f"{place}/inner/root": errno.EPERM,
        str(place / "link"): errno.ENOTDIR,
    }
    for number, (given, expected) in enumerate(wanted.items(), 1):
        ended = keeper.link.run(make(f"app.{number}#1", "/usr/bin/id", work=given, cwd="/"))
        assert (ended.failed_stage, ended.failed_errno) == ("work", expected)
    assert target.stat().st_uid == 0


def clear(keeper: Keeper, directory: Path) -> int:
    keeper.link.send(wire.Clear(directory=str(directory)))
    said = keeper.link.wait(wire.Cleared)
    assert said.directory == str(directory)
    return said.errno


def test_what_a_user_left_is_deleted_as_that_user(keeper: Keeper, make: Make) -> None:
    script = "mkdir -p a/b/c; touch a/b/f x; chmod 0 a/b; ln -s /etc link; mkfifo a/fifo"
    said = make("app.1#1", "/bin/sh", "-c", script)
    assert keeper.link.run(said).status == 0
    before = keeper.link.totals().children_dead
    assert clear(keeper, Path(said.work)) == 0
    assert os.listdir(said.work) == []
    assert clear(keeper, Path(said.work, "nowhere")) == 0
    assert keeper.link.totals().children_dead == before, "no app was that"
    assert os.listdir("/etc")


def test_nothing_is_deleted_that_is_roots_or_that_no_launch_may_be(
    keeper: Keeper, make: Make, tmp_path: Path, place: Path, policy: Path
) -> None:
    for path in (*tmp_path.parents[:2], tmp_path):
        path.chmod(path.stat().st_mode | 0o011)
    target = tmp_path / "root"
    target.mkdir(mode=0o755)
    (target / "kept").touch()
    (place / "link").symlink_to(target)
    assert clear(keeper, target) == errno.EPERM
    assert clear(keeper, place / "link") == errno.ENOTDIR
    assert clear(keeper, place) == errno.EPERM, "what is its own it deletes itself"
    said = make("app.1#1", "/bin/sh", "-c", "touch kept")
    assert keeper.link.run(said).status == 0
    policy.write_text("allow_users = []")
    assert clear(keeper, Path(said.work)) == errno.EPERM
    assert (target / "kept").exists()
    assert Path(said.work, "kept").exists()


def test_a_keeper_without_rules_deletes_nothing(start: Callable[..., Keeper], place: Path) -> None:
    (place / "kept").touch()
    assert clear(start(at="plain"), place) == errno.EPERM
    assert (place / "kept").exists()


def test_only_root_and_the_worker_may_speak_to_it(keeper: Keeper, tmp_path: Path) -> None:
    for path in (*tmp_path.parents[:2], tmp_path, keeper.directory):
        path.chmod(path.stat().st_mode | 0o011)
    found = (keeper.directory / "keeper.sock").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (WORKER.pw_uid, 0o600)
    assert said_to(keeper.directory, WORKER.pw_uid) == b"listing"
    assert said_to(keeper.directory, NOBODY) == b"PermissionError"
    (keeper.directory / "keeper.sock").chmod(0o666)  # and by its peer's credentials as well
    assert said_to(keeper.directory, NOBODY) == b""
    keeper.connect()


def said_to(directory: Path, uid: int) -> bytes:
    """What a process of this user hears when it asks for a listing."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"?"
        try:
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(20)
                link.connect(str(directory / "keeper.sock"))
                link.sendall(b'\x00\x00\x00\x0f{"type":"list"}')
                said = b"listing" if b'"listing"' in link.recv(1 << 16) else b""
        except ConnectionError:
            said = b""
        except OSError as error:
            said = type(error).__name__.encode()
        finally:
            os.write(writer, said)
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()


@pytest.mark.parametrize(
    ("option", "words"),
    [("root", "only a worker without rights"), ("no-such-user", "no user 'no-such-user' here")],
)
def test_it_does_not_start_for_whom_it_cannot_serve(
    tmp_path: Path, option: str, words: str
) -> None:
    done = begun(tmp_path, f"--worker={option}")
    assert done.returncode == 1
    assert words in done.stderr


def test_it_does_not_start_where_others_may_write(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, WORKER.pw_uid, 0)
    assert "whoever may write here" in begun(state, "--worker=daemon").stderr
    os.chown(state, 0, 0)
    state.chmod(0o775)
    assert "whoever may write here" in begun(state, "--worker=daemon").stderr


def begun(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(sys.executable, str(directory)), *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
