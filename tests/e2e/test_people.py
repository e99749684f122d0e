"""People at the HTTPS port: every route and every command with every token that there could be."""

from __future__ import annotations

import enum
import http.client
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from corps.master.permissions import COMMANDS, ROUTES, Access
from corps.model.command import AnyCommand, Submission
from corps.model.token import format_token, pin_of
from corps.model.trust import MAY, Permission, RemoveUser, RevokeToken, Role, SetUser
from tests.support.cluster import Cluster
from tests.support.people import (
    HTTPS,
    Remote,
    a_token,
    add_join_token,
    add_person,
    add_token,
    rule,
)

STRANGERS = (
    "nothing",
    "no words",
    "basic",
    "malformed",
    "join token",
    "unknown",
    "wrong secret",
    "expired",
    "revoked",
    "removed",
)
FORGOTTEN = [kind for kind in get_args(AnyCommand) if kind not in COMMANDS]


class Case(typing.NamedTuple):
    cluster: Cluster
    remote: Remote
    headers: dict[str, dict[str, str]]  # what each sort of stranger and each role shows


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    made = Cluster(tmp_path_factory.mktemp("people"))
    try:
        made.start_master(*HTTPS)
        yield Case(made, Remote(made), _headers(made))
    finally:
        made.end()


def _headers(cluster: Cluster) -> dict[str, dict[str, str]]:
    shown = {role.value: format_token(add_person(cluster, role.value, role)) for role in Role}
    shown["expired"] = format_token(add_token(cluster, "admin", ttl_s=0.001))
    revoked, wrong = add_token(cluster, "admin"), add_token(cluster, "admin")
    rule(cluster, RevokeToken(id=revoked.id))
    removed = add_person(cluster, "gone", Role.ADMIN)
    rule(cluster, RemoveUser(name="gone"))
    shown["revoked"], shown["removed"] = format_token(revoked), format_token(removed)
    shown["wrong secret"] = format_token(a_token(id=wrong.id))
    shown["unknown"] = format_token(a_token())
    shown["join token"] = format_token(add_join_token(cluster))
    shown["malformed"] = shown["admin"][:-1]
    headers = {name: {"Authorization": f"Bearer {text}"} for name, text in shown.items()}
    headers["nothing"] = {}
    headers["no words"] = {"Authorization": "Bearer"}
    headers["basic"] = {"Authorization": f"Basic {shown['admin']}"}
    return headers


def sample(kind: Any) -> Any:
    """Some value of a type, by what msgspec must be given of it: none of it is anywhere."""
    origin = get_origin(kind)
    if origin is typing.Annotated:
        return sample(get_args(kind)[0])
    if origin in (tuple, list):
        return [sample(get_args(kind)[0])]
    if origin in (typing.Union, types.UnionType):
        return sample(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind)).value
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = [one for one in msgspec.structs.fields(kind) if one.required]
        made = {one.encode_name: sample(hints[one.name]) for one in fields}
        config = kind.__struct_config__
        return made if config.tag is None else {config.tag_field: config.tag, **made}
    return {int: 1, float: 1.0, bool: False, bytes: "", str: "nobody"}[kind]


def body_of(kind: type[AnyCommand]) -> bytes:
    body = {"id": f"sample-{kind.__name__}", "command": sample(kind)}
    data = json.dumps(body).encode()
    msgspec.json.decode(data, type=Submission)  # it is none that fails for its form
    return data


def every_question() -> Iterator[tuple[str, str, bytes | None, Permission | Access]]:
    """Method, path, body and what it takes. No body of a POST is one that would be carried out."""
    for (method, path), access in ROUTES.items():
        body = b"[]" if method == "POST" else None
        if access is Access.COMMAND:
            for kind, permission in COMMANDS.items():
                yield method, path, body_of(kind), permission
        else:
            yield method, path.replace("{id}", "nobody.1"), body, access


def test_every_command_takes_a_permission() -> None:
    assert not FORGOTTEN
    assert len(COMMANDS) == len(get_args(AnyCommand))


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_gets_nothing_but_hello(case: Case, stranger: str) -> None:
    with case.remote.person() as person:
        for method, path, body, access in every_question():
            status, answer = person.ask(method, path, body, case.headers[stranger])
            assert status == (200 if access is Access.ANYONE else 401), (method, path, answer)
            assert "secret" not in str(answer)
        assert person.ask("GET", "/v1/nothing", None, case.headers[stranger])[0] == 401
        assert person.ask("GET", "/v1/hello/", None, case.headers[stranger])[0] == 401


@pytest.mark.parametrize("role", Role)
def test_a_role_may_do_what_it_may_and_hears_what_is_missing(case: Case, role: Role) -> None:
    with case.remote.person() as person:
        for method, path, body, access in every_question():
            status, answer = person.ask(method, path, body, case.headers[role.value])
            if isinstance(access, Access) or access in MAY[role]:
                assert status not in (401, 403, 405, 500), (method, path, answer)
                continue
            assert (status, answer["code"]) == (403, "denied"), (method, path, answer)
            assert answer["details"] == {"permission": access.value, "role": role.value}
            assert f"'{access.value}'" in answer["message"]
            assert "admin" in answer["message"]


def test_roles_are_what_the_design_says(case: Case) -> None:
    """Not from the tables of the product."""

    def allowed(role: str, method: str, path: str, body: bytes | None = None) -> bool:
        with case.remote.person() as person:
            return person.ask(method, path, body, case.headers[role])[0] != 403

    def command(type: str, **fields: object) -> bytes:
        body = {"id": f"by-{type}-order", "command": {"type": type, **fields}}
        return json.dumps(body).encode()

    launch = command("launch", artifact="nobody")
    kill = command("kill", targets=["nobody"])
    delete = command("delete", artifact="nobody")
    promote = command("setuser", name="viewer", role="admin")
    ladder = ["viewer", "operator", "deployer", "admin"]
    for least, method, path, body in (
        ("viewer", "GET", "/v1/instances", None),
        ("viewer", "GET", "/v1/instances/nobody.1/log", None),
        ("operator", "POST", "/v1/commands", launch),
        ("operator", "POST", "/v1/commands", kill),
        ("deployer", "POST", "/v1/commands", delete),
        ("deployer", "POST", "/v1/plan", b"[]"),
        ("deployer", "POST", "/v1/check", b"[]"),
        ("admin", "GET", "/v1/users", None),
        ("admin", "POST", "/v1/shutdown", b"[]"),
    ):
        may = [role for role in ladder if allowed(role, method, path, body)]
        assert may == ladder[ladder.index(least) :], (method, path)
    for role in ladder[:-1]:
        assert not allowed(role, "POST", "/v1/commands", promote)


def test_who_asks_is_who_the_token_says(case: Case) -> None:
    with case.remote.person() as person:
        status, answer = person.ask("GET", "/v1/whoami", None, case.headers["operator"])
    assert status == 200
    assert (answer["name"], answer["role"]) == ("operator", "operator")
    assert answer["permissions"] == [one.value for one in MAY[Role.OPERATOR]]
    assert answer["source"].startswith("127.0.0.1")
    assert answer["token_expires_at"] is not None
    body = json.dumps({"id": "by-operator-kill", "command": sample_kill()}).encode()
    with case.remote.person() as person:
        assert person.ask("POST", "/v1/commands", body, case.headers["operator"])[0] == 404


def sample_kill() -> dict[str, object]:
    return {"type": "kill", "targets": ["nobody"]}


def test_a_role_holds_from_one_request_to_the_next(case: Case) -> None:
    token = add_person(case.cluster, "bea", Role.ADMIN)
    with case.remote.bearer(token) as bea:
        assert bea.ask("GET", "/v1/users")[0] == 200
        rule(case.cluster, SetUser(name="bea", role=Role.VIEWER))
        assert bea.ask("GET", "/v1/users")[0] == 403
        rule(case.cluster, RevokeToken(id=token.id))
        assert bea.ask("GET", "/v1/status")[0] == 401


@pytest.mark.parametrize("loss", ["role", "token"])
def test_who_loses_a_right_while_they_send_a_command_has_lost_it(case: Case, loss: str) -> None:
    token = add_person(case.cluster, "carl", Role.ADMIN)
    body = json.dumps(
        {
            "id": f"slow-order-{loss}",
            "command": {"type": "setuser", "name": "evil", "role": "admin"},
        }
    ).encode()
    head = (
        "POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Expect: 100-continue\r\n"
        f"Authorization: Bearer {format_token(token)}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with case.remote.connect() as sock:
        sock.sendall(head)
        assert b"100 Continue" in sock.recv(65536)  # they were admin when the body was asked for
        if loss == "token":
            rule(case.cluster, RevokeToken(id=token.id))
        else:
            rule(case.cluster, SetUser(name="carl", role=Role.VIEWER))
        sock.sendall(body)
        answer = sock.recv(65536)
    assert answer.split()[1] == (b"401" if loss == "token" else b"403"), answer
    assert "evil" not in [user["name"] for user in _rows(case, "/v1/users")]


def test_who_waits_for_news_without_a_token_gets_none(case: Case) -> None:
    token = add_person(case.cluster, "ida", Role.ADMIN)
    head = (
        f"GET /v1/audit/trail?after=100000&wait_s=60 HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {format_token(token)}\r\n\r\n"
    )
    with case.remote.connect() as sock, case.remote.bearer(token) as ida:
        sock.sendall(head.encode())
        assert ida.ask("GET", "/v1/status")[0] == 200
        rule(case.cluster, RevokeToken(id=token.id))  # which is news
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 401
        assert b"entries" not in answer.read()


def test_hello_has_the_ca_that_tokens_pin(case: Case) -> None:
    with case.remote.person() as person:
        status, hello = person.ask("GET", "/v1/hello")
        assert status == 200
        _, trust = person.ask("GET", "/v1/trust", None, case.headers["admin"])
    known = x509.load_pem_x509_certificates(hello["authorities"].encode())  # two in a rotation
    (authority,) = [one for one in known if pin_of(_key_der(one)) == trust["pin"]]
    with case.remote.connect() as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    x509.load_der_x509_certificate(der).verify_directly_issued_by(authority)
    assert trust["cluster"] == hello["cluster"]
    assert trust["workers_at"] == case.cluster.address
    assert trust["api_at"] == f"127.0.0.1:{case.remote.address[1]}"


def test_people_and_tokens_are_listed_without_what_opens_anything(case: Case) -> None:
    token = add_person(case.cluster, "dora", Role.OPERATOR)
    users = {user["name"]: user for user in _rows(case, "/v1/users")}
    assert (users["dora"]["role"], users["dora"]["tokens"]) == ("operator", 1)
    assert "gone" not in users
    rows = {row["id"]: row for row in _rows(case, "/v1/tokens")}
    mine = rows[token.id]
    assert (mine["kind"], mine["user"], mine["is_valid"]) == ("P1", "dora", True)
    assert {row["kind"] for row in rows.values()} == {"C1", "P1"}
    assert any(not row["is_valid"] for row in rows.values())  # the expired one
    assert not any("hash" in key or "secret" in key for row in rows.values() for key in row)


def _key_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _rows(case: Case, path: str) -> list[dict[str, Any]]:
    with case.remote.person() as person:
        status, rows = person.ask("GET", path, None, case.headers["admin"])
    assert status == 200
    assert isinstance(rows, list)
    return rows


def test_denials_are_in_the_audit_trail(case: Case) -> None:
    token = add_person(case.cluster, "hugo", Role.VIEWER)
    wrong, elsewhere = a_token(id=token.id), "127.0.0.9"  # who has not knocked too often yet
    kill = json.dumps({"id": "denied-order", "command": sample_kill()}).encode()
    with case.remote.bearer(token, elsewhere) as hugo:
        assert hugo.ask("GET", "/v1/users")[0] == 403
        assert hugo.ask("POST", "/v1/commands", kill)[0] == 403
        assert hugo.ask("GET", "/v1/status", None, {"Origin": "https://evil.example"})[0] == 403
    with case.remote.bearer(wrong, elsewhere) as thief:
        assert thief.ask("GET", "/v1/users")[0] == 401
    denied = {
        (deed["who"], deed["subject"], deed["source"])
        for deed in _deeds(case)
        if deed["outcome"] == "denied"
    }
    assert denied >= {
        ("hugo", "GET /v1/users", f"{elsewhere}, token {token.id}"),
        ("hugo", "POST /v1/commands", f"{elsewhere}, token {token.id}"),
        ("?", "GET /v1/status", elsewhere),
        (token.id, "GET /v1/users", elsewhere),
    }


def _deeds(case: Case) -> list[dict[str, str]]:
    with case.remote.person() as person:
        status, page = person.ask("GET", "/v1/audit/trail?after=-200", None, case.headers["admin"])
    assert status == 200
    return [json.loads(line)["deed"] for line in page["entries"]]
