"""Tokens, people and who one is, on a real master: what is printed lets in, what is listed not."""

from __future__ import annotations

import os
import pwd

import msgspec

from corps.model.token import TokenKind, base32, hash_secret, parse_token
from tests.support.cluster import Cluster
from tests.support.waiting import until


def _json(shared: Cluster, *words: str) -> list[dict[str, object]]:
    return msgspec.json.decode(
        shared.corps(*words, "-o", "json").stdout, type=list[dict[str, object]]
    )


def _names(shared: Cluster, *words: str) -> list[str]:
    return shared.corps(*words, "-o", "name").stdout.split()


def test_one_line_to_paste(shared: Cluster) -> None:
    done = shared.corps("token", "create", "--name", "w7", "--ttl", "2d")
    corps, join, at, flag, text = done.stdout.split()
    assert (corps, join, at, flag) == ("corps", "join", shared.address, "--token")
    token = parse_token(text, TokenKind.JOIN)
    assert token.pin == shared.client.trust().pin
    assert "start it with 'corps master --listen HOST:PORT'" in done.stderr
    (row,) = (one for one in shared.client.tokens() if one.id == token.id)
    assert (row.worker, row.uses_left, row.is_valid) == ("w7", 1, True)
    listed = shared.corps("token", "list", "-o", "wide").stdout
    assert token.id in listed and base32(token.secret) not in listed
    shared.corps("token", "revoke", token.id)
    assert token.id not in _names(shared, "token", "list")
    done = shared.corps("token", "revoke", token.id, check=False)
    assert (done.returncode, done.stderr) == (
        4,
        f"corps: no token {token.id!r}: see 'corps token list'\n",
    )


def test_the_master_never_has_a_secret(shared: Cluster) -> None:
    (made,) = _json(shared, "token", "create", "--uses", "3")
    secret = parse_token(str(made["token"]), TokenKind.JOIN).secret
    database = b"".join(path.read_bytes() for path in shared.settings.master_dir.glob("state.db*"))
    assert hash_secret(secret).encode() in database
    assert secret not in database
    assert base32(secret).encode() not in database
    assert base32(secret) not in shared.log("master")
    assert made["command"] == f"corps join {shared.address} --token {made['token']}"


def test_people_come_change_and_go(shared: Cluster) -> None:
    done = shared.corps("user", "add", "ann", "--role", "operator")
    assert "'corps user token ann'" in done.stderr
    done = shared.corps("user", "add", "ann", "--role", "viewer", check=False)
    assert done.returncode == 5 and "'corps user role' changes the role" in done.stderr
    token = parse_token(shared.corps("user", "token", "ann").stdout, TokenKind.PERSON)
    assert token.pin == shared.client.trust().pin
    assert token.id in _names(shared, "token", "list")
    shared.corps("user", "role", "ann", "viewer")
    (row,) = _json(shared, "user", "list")
    assert (row["name"], row["role"], row["tokens"]) == ("ann", "viewer", 1)
    shared.corps("user", "remove", "ann")
    assert _names(shared, "user", "list") == []
    assert token.id not in _names(shared, "token", "list")
    done = shared.corps("user", "role", "ann", "viewer", check=False)
    assert (done.returncode, done.stderr) == (4, "corps: no user 'ann'\n")


def test_the_ca_is_rotated_when_it_is_meant(shared: Cluster) -> None:
    (before,) = _json(shared, "ca", "status")
    assert (before["stage"], before["lagging"], before["trusted"]) == (
        "steady",
        [],
        [before["pin"]],
    )
    done = shared.corps("ca", "rotate", check=False)
    assert done.returncode == 2 and "not without -y" in done.stderr
    assert _json(shared, "ca", "status") == [before]
    assert "'corps ca status' tells how far" in shared.corps("ca", "rotate", "-y").stderr
    until(lambda: before["pin"] not in shared.client.ca().trusted)
    line = shared.corps("token", "create").stdout.split()
    assert parse_token(line[-1], TokenKind.JOIN).pin == shared.client.ca().pin


def test_on_the_socket_one_is_who_the_kernel_says(shared: Cluster) -> None:
    (row,) = _json(shared, "whoami")
    assert (row["name"], row["role"], row["token"]) == (
        pwd.getpwuid(os.getuid()).pw_name,
        "admin",
        None,
    )


def test_only_a_worker_with_a_certificate_can_lose_it(shared: Cluster) -> None:
    done = shared.corps("worker", "revoke", "w1", check=False)
    assert (done.returncode, done.stderr) == (4, "corps: no worker 'w1' has a certificate\n")
    done = shared.corps("worker", "revoke", check=False)
    assert done.returncode == 2 and "missing argument 'WORKER'" in done.stderr


def test_times_and_roles_that_are_none(shared: Cluster) -> None:
    for words, status, told in (
        (("token", "create", "--ttl", "soon"), 2, "bad time 'soon': how long, spelled 30s"),
        (("token", "create", "--ttl", "0s"), 3, "a token lives for more than 0"),
        (("token", "create", "--ttl", "400d"), 3, "a token lives for more than 0 and at most 366d"),
        (("token", "create", "--uses", "2", "--name", "w7"), 3, "one worker has one use"),
        (("token", "create", "--uses", "0"), 2, "0 is not in the range"),
        (("user", "add", "bob", "--role", "root"), 2, "'root' is not one of"),
        (("user", "add", "Bob\n", "--role", "viewer"), 3, "bad user name"),
        (("user", "token", "bob"), 4, "no user 'bob'"),
    ):
        done = shared.corps(*words, check=False)
        assert (done.returncode, done.stdout) == (status, ""), words
        assert told in done.stderr and done.stderr.count("\n") == 1
