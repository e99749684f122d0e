"""The audit trail of a real cluster: who did what, durable before it was done, and provable."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.core.throttle import OF_ONE_MAX
from corps.errors import CorpsError
from corps.model.command import Kill, Launch, Ruled
from corps.model.token import base32, format_token
from corps.model.trail import Deed, TrailEntry, parse_line
from corps.model.trust import CreateToken, Role, SetUser
from tests.support.cluster import Cluster
from tests.support.people import HTTPS, Remote, a_token, add_person
from tests.support.waiting import until

SECRET = "not-for-any-trail"
HASH = "5ec4e7" * 10 + "0000"


@pytest.fixture(scope="module")
def reachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master with an HTTPS port, and no worker."""
    made = Cluster(tmp_path_factory.mktemp("reachable"))
    try:
        made.start_master(*HTTPS)
        yield made
    finally:
        made.end()


def entries(cluster: Cluster) -> list[TrailEntry]:
    """All of them, page by page."""
    found: list[TrailEntry] = []
    while lines := cluster.client.trail(found[-1].seq if found else 0).entries:
        found += [entry for line in lines if (entry := parse_line(line)) is not None]
    return found


def deeds(cluster: Cluster, act: str) -> list[tuple[str, str]]:
    return [(e.deed.subject, e.deed.outcome) for e in entries(cluster) if e.deed.act == act]


def test_what_operators_do_is_told_and_holds(shared: Cluster) -> None:
    shared.copy("/bin/sleep")
    (instance,) = shared.launch("sleep", "100", env={"PASSWORD": SECRET})
    shared.client.kill((instance.id,))
    shared.client.submit(CreateToken(id="abcdefgh", secret_hash=HASH), Ruled)
    assert shared.corps("launch", "nosuch", check=False).returncode == 4
    assert deeds(shared, "launch")[-3:] == [
        ("sleep", "accepted"),
        ("sleep", "done"),
        ("nosuch", "refused"),
    ]
    assert deeds(shared, "kill")[-2:] == [(instance.id, "accepted"), (instance.id, "done")]
    assert deeds(shared, "createtoken") == [("abcdefgh", "done")]
    shown = shared.corps("audit", "trail", "--who", "root", "--since", "1h", "-o", "wide").stdout
    assert f"{instance.id} dead on " in shown
    assert shared.corps("audit", "trail", "--who", "nobody").stdout.splitlines()[1:] == []
    assert "entries 1 to " in shared.corps("audit", "verify").stdout
    everything = shared.corps("audit", "export").stdout + shown
    assert SECRET not in everything
    assert HASH not in everything
    assert "PASSWORD" in everything


def test_an_export_is_proven_with_sha256_alone(shared: Cluster, tmp_path: Path) -> None:
    for role in (Role.VIEWER, Role.OPERATOR):
        shared.client.submit(SetUser(name="ann", role=role), Ruled)
    exported = shared.corps("audit", "export")
    export = exported.stdout
    lines = export.splitlines()
    for before, line in itertools.pairwise(lines):
        assert json.loads(line)["prev"] == hashlib.sha256(before.encode()).hexdigest()
    (tmp_path / "trail.jsonl").write_text(export)
    done = shared.corps("audit", "verify", "--file", str(tmp_path / "trail.jsonl"))
    assert f"entries 1 to {len(lines)} are as they were written" in done.stdout
    head = f"{len(lines)}:{hashlib.sha256(lines[-1].encode()).hexdigest()}"
    assert head in done.stdout
    assert head in exported.stderr
    assert shared.corps("audit", "verify", "--head", head).returncode == 0
    (tmp_path / "trail.jsonl").write_text(export.replace("viewer", "admin", 1))
    done = shared.corps("audit", "verify", "--file", str(tmp_path / "trail.jsonl"), check=False)
    assert done.returncode == 1
    assert "one of them was changed" in done.stderr


def test_a_file_under_a_running_master_that_was_touched_is_found(alone: Cluster) -> None:
    for role in Role:
        alone.client.submit(SetUser(name="ann", role=role), Ruled)
    assert alone.corps("audit", "verify").returncode == 0
    last = entries(alone)[-1].seq
    connection = sqlite3.connect(alone.settings.master_dir / "state.db", timeout=20)
    with connection:
        connection.execute("DELETE FROM trail WHERE key = ?", (f"{last:016d}",))
        connection.execute(
            "UPDATE trail_head SET body = (SELECT json_object('seq', ?, 'hash', "
            "json_extract(?, '$.prev')))",
            (last - 1, alone.client.trail(last - 1).entries[0]),
        )
    connection.close()
    done = alone.corps("audit", "verify", check=False)
    assert done.returncode == 1
    assert f"entry {last} is missing at the end" in done.stderr


def test_a_trail_holds_whenever_its_master_is_killed(alone: Cluster, tmp_path: Path) -> None:
    alone.copy("/bin/true")
    over = threading.Event()
    answered: list[str] = []

    def work() -> None:
        while not over.is_set():
            try:
                answered.append(alone.launch_one("true").id)
            except CorpsError:
                over.wait(0.05)  # its master is dead; another one comes

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(3):
            count = len(answered)
            until(lambda count=count: len(answered) > count + 3)  # type: ignore[misc]  # a loop
            alone.kill("master")
            alone.start_master()
    finally:
        over.set()
        worker.join(60)
    assert alone.corps("audit", "verify").returncode == 0
    accepted = [
        e for e in entries(alone) if e.deed.act == "launch" and e.deed.outcome == "accepted"
    ]
    told = "".join(e.deed.detail for e in entries(alone) if e.deed.act == "launch")
    assert len(accepted) >= len(answered)
    assert all(f"{id} " in told for id in answered)
    assert [e.deed.act for e in entries(alone)].count("start") == 4
    alone.signal("master", signal.SIGTERM)
    until(lambda: alone.returncode("master") is not None)
    shutil.copy(alone.settings.master_dir / "state.db", tmp_path / "copy.db")
    done = alone.corps("audit", "verify", "--file", str(tmp_path / "copy.db"))
    assert "are as they were written" in done.stdout
    alone.start_master()
    alone.wait_state(w1="ready")


def test_what_comes_is_followed_and_the_end_is_told_before_it_comes(alone: Cluster) -> None:
    following = alone.begin("audit", "trail", "-f", "-o", "jsonl")
    assert following.stdout is not None
    assert json.loads(following.stdout.readline())["act"] == "start"
    alone.client.submit(SetUser(name="ann", role=Role.ADMIN), Ruled)
    assert json.loads(following.stdout.readline())["subject"] == "ann"
    alone.client.shutdown(["w1"])
    told = json.loads(following.stdout.readline())
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=20)
    assert (told["act"], told["outcome"]) == ("shutdown", "accepted")
    assert told["detail"] == "with the workers w1"
    until(lambda: alone.returncode("master") is not None)


def test_an_app_of_that_name_is_no_trail(shared: Cluster, tmp_path: Path) -> None:
    shutil.copy("/bin/true", tmp_path / "trail")
    shared.copy(tmp_path / "trail")
    instance = shared.launch_one("trail")
    shared.wait_dead(instance.id)
    rows = json.loads(shared.corps("audit", "-o", "json", "--", "trail").stdout)
    assert {row["subject"] for row in rows} >= {instance.id}
    done = shared.corps("audit", "verify", "--head", "x", check=False)
    assert (done.returncode, "bad head" in done.stderr) == (2, True)


def test_a_refused_kill_is_told(shared: Cluster) -> None:
    try:
        shared.client.submit(Kill(targets=("nosuch",)), Ruled)
    except CorpsError as error:
        assert error.code == "not_found"
    assert deeds(shared, "kill")[-1] == ("nosuch", "refused")
    try:
        shared.client.submit(Launch(artifact="nosuch"), Ruled)
    except CorpsError as error:
        assert error.code == "not_found"
    assert deeds(shared, "launch")[-1] == ("nosuch", "refused")


# ---- from elsewhere


def last(cluster: Cluster) -> Deed:
    return entries(cluster)[-1].deed


def test_who_comes_without_a_token_is_told(reachable: Cluster) -> None:
    with Remote(reachable).person() as nobody:
        assert nobody.ask("GET", "/v1/users")[0] == 401
    deed = last(reachable)
    assert (deed.who, deed.source, deed.outcome) == ("?", "127.0.0.1", "denied")
    assert (deed.act, deed.subject) == ("denied", "GET /v1/users")
    assert "no token" in deed.detail


def test_of_a_wrong_token_the_id_is_told_and_nothing_else(reachable: Cluster) -> None:
    token = a_token()
    with Remote(reachable).bearer(token) as stranger:
        assert stranger.ask("GET", "/v1/status")[0] == 401
    deed = last(reachable)
    assert deed.who == token.id
    assert "opens nothing here" in deed.detail
    assert base32(token.secret) not in repr(deed)
    assert format_token(token)[-10:] not in repr(deed)


def test_who_may_not_is_told_with_what_is_missing(reachable: Cluster) -> None:
    token = add_person(reachable, "vera", Role.VIEWER)
    body = b'{"id": "vera-0001", "command": {"type": "kill", "targets": ["web"]}}'
    with Remote(reachable).bearer(token) as viewer:
        assert viewer.ask("POST", "/v1/commands", body)[0] == 403
    deed = last(reachable)
    source = f"127.0.0.1, token {token.id}"
    assert (deed.who, deed.source, deed.outcome) == ("vera", source, "denied")
    assert "may not kill" in deed.detail
    assert "'end'" in deed.detail


def test_who_may_is_told_by_name_and_address(reachable: Cluster) -> None:
    token = add_person(reachable, "oscar", Role.OPERATOR)
    body = b'{"id": "oscar-0001", "command": {"type": "kill", "targets": ["web"]}}'
    with Remote(reachable).bearer(token) as operator:
        assert operator.ask("POST", "/v1/commands", body)[0] == 404
    deed = last(reachable)
    source = f"127.0.0.1, token {token.id}"
    assert (deed.who, deed.source, deed.act) == ("oscar", source, "kill")
    assert (deed.subject, deed.outcome, deed.command) == ("web", "refused", "oscar-0001")


def test_the_trail_itself_is_for_admins(reachable: Cluster) -> None:
    token = add_person(reachable, "dora", Role.DEPLOYER)
    with Remote(reachable).bearer(token) as deployer:
        assert deployer.ask("GET", "/v1/audit/trail")[0] == 403
    assert last(reachable).subject == "GET /v1/audit/trail"


def test_a_local_operator_is_told_by_user_and_process(reachable: Cluster) -> None:
    reachable.client.submit(SetUser(name="ann", role=Role.VIEWER), Ruled)
    assert last(reachable).source.startswith("uid 0, pid ")


def test_many_knocks_are_few_entries(reachable: Cluster) -> None:
    before = entries(reachable)[-1].seq
    with Remote(reachable).person("P1.nonsense") as nobody:
        for _ in range(20 * OF_ONE_MAX):
            assert nobody.ask("GET", "/v1/users")[0] == 401
    assert entries(reachable)[-1].seq - before <= OF_ONE_MAX + 1
    assert reachable.corps("audit", "verify").returncode == 0
