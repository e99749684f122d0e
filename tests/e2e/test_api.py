"""The HTTP API as a stranger would use it: schema, errors, bad requests, who may connect."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corps.config import Settings
from corps.net.unix_http import connect_unix
from tests.support.cluster import Cluster

JSON = {"Content-Type": "application/json"}


class _Unix(http.client.HTTPConnection):
    def __init__(self, settings: Settings) -> None:
        super().__init__("localhost", timeout=30)
        self._path = settings.api_socket

    def connect(self) -> None:
        self.sock = connect_unix(self._path)


def ask(
    cluster: Cluster,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    connection = _Unix(cluster.settings)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        kind = answer.headers.get_content_type()
        return answer.status, json.loads(data) if kind.endswith("json") else data
    finally:
        connection.close()


def test_the_schema_is_served_and_names_every_route(shared: Cluster) -> None:
    status, schema = ask(shared, "GET", "/v1/schema/openapi.json")
    assert status == 200
    assert set(schema["paths"]) >= {
        "/v1/commands",
        "/v1/workers",
        "/v1/instances",
        "/v1/instances/{id}/log",
        "/v1/usage",
        "/v1/usage/apps",
        "/v1/usage/instances",
        "/v1/compare",
        "/v1/why",
        "/v1/audit",
        "/v1/events",
        "/v1/artifacts",
        "/v1/status",
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed"),
        (b"[]", 400, "malformed"),
        (b'{"id": "12345678"}', 400, "malformed"),
        (b'{"id": "12345678", "command": {"type": "__class__"}}', 400, "malformed"),
        (b'{"id": "12345678", "command": {"type": "kill", "targets": "web"}}', 400, "malformed"),
        (
            b'{"id": "12345678", "command": {"type": "stop", "targets": ["x"], "grace_s": true}}',
            400,
            "malformed",
        ),
        (
            b'{"id": "12345678", "command": {"type": "stop", "targets": ["x"], "grace_s": NaN}}',
            400,
            "malformed",
        ),
        (
            b'{"id": "12345678", "command": {"type": "signal", "targets": ["x"], "signal": 1e999}}',
            400,
            "malformed",
        ),
        (b'{"id": "../../etc", "command": {"type": "kill", "targets": ["web"]}}', 422, "invalid"),
        (b'{"id": "12345678", "command": {"type": "kill", "targets": []}}', 422, "invalid"),
        (
            b'{"id": "12345679", "command": {"type": "kill", "targets": ["nobody"]}}',
            404,
            "not_found",
        ),
        (
            b'{"id": "12345670", "command": {"type": "launch", "artifact": "no-such"}}',
            404,
            "not_found",
        ),
        (b'{"id": "12345671", "command": {"type": "launch", "artifact": "../x"}}', 422, "invalid"),
        (
            b'{"id": "12345672", "command": {"type": "copy", "name": "x", "digest": "../../x"}}',
            422,
            "invalid",
        ),
        (
            b'{"id": "12345673", "command": {"type": "copy", "name": "x", "digest": "'
            + b"a" * 64
            + b'"}}',
            409,
            "conflict",
        ),
    ],
)
def test_a_bad_command_has_a_code_and_a_sentence(
    shared: Cluster, body: bytes, status: int, code: str
) -> None:
    got, failure = ask(shared, "POST", "/v1/commands", body, JSON)
    assert (got, failure["code"]) == (status, code), failure
    assert failure["message"]


def test_a_command_waits_for_a_number_of_seconds(shared: Cluster) -> None:
    body = b'{"id": "12345678", "command": {"type": "kill", "targets": ["web"]}}'
    got, failure = ask(shared, "POST", "/v1/commands?wait_s=nan", body, JSON)
    assert (got, failure["details"]) == (422, {"field": "wait_s"})


def test_only_json_is_a_command(shared: Cluster) -> None:
    body = b'{"id": "12345678", "command": {"type": "kill", "targets": ["web"]}}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        status, failure = ask(shared, "POST", "/v1/commands", body, {"Content-Type": kind})
        assert (status, failure["code"]) == (415, "malformed")


def test_a_deep_or_huge_body_is_refused_and_the_master_lives(shared: Cluster) -> None:
    deep = b'{"x":' * 100_000 + b"1" + b"}" * 100_000
    assert ask(shared, "POST", "/v1/commands", deep, JSON)[0] == 400
    number = b'{"id": "12345678", "command": {"type": "signal", "targets": ["x"], "signal": 1'
    assert ask(shared, "POST", "/v1/commands", number + b"0" * 100_000 + b"}}", JSON)[0] == 400
    huge = b'{"id": "' + b"x" * (8 << 20) + b'"}'
    assert ask(shared, "POST", "/v1/commands", huge, JSON)[0] == 413
    assert ask(shared, "GET", "/v1/status")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/nothing", 404),
        ("/v1/instances/no.1/log", 404),
        ("/v1/events?limit=many", 400),
        ("/v1/events?wait_s=nan", 422),
        ("/v1/audit/trail?wait_s=-inf", 422),
        ("/v1/instances?target=nobody", 404),
        ("/v1/usage?target=nobody", 404),
        ("/v1/why?target=nobody", 404),
        ("/v1/why", 422),
        ("/v1/events?limit=1000000000&after=-1", 200),
    ],
)
def test_a_bad_question_has_its_status(shared: Cluster, path: str, status: int) -> None:
    got, answer = ask(shared, "GET", path)
    assert got == status, answer
    if status != 200:
        assert answer["message"]


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_are_refused(shared: Cluster, method: str) -> None:
    assert ask(shared, method, "/v1/commands")[0] in (400, 405)


def test_a_log_is_read_by_offset_and_never_beyond(shared: Cluster) -> None:
    shared.copy("/usr/bin/printf")
    id = shared.launch_one("printf", "0123456789").id
    shared.wait_dead(id)

    def read(query: str) -> tuple[int, Any]:
        return ask(shared, "GET", f"/v1/instances/{id}/log?{query}")

    assert read("offset=3&limit_bytes=4") == (200, b"3456")
    assert read("offset=-2") == (200, b"89")
    assert read("offset=-99") == (200, b"0123456789")
    assert read("offset=99") == (200, b"")
    assert read("offset=9223372036854775808")[0] in (400, 422)
    assert read("limit_bytes=0")[0] == 422
    assert read("limit_bytes=999999999")[0] == 422
    assert read("stream=../1.stdout")[0] == 422
    assert read("attempt=7")[0] == read("attempt=0")[0] == 404


def test_output_is_read_from_any_point_and_never_beyond(shared: Cluster) -> None:
    shared.copy("/usr/bin/printf")
    id = shared.launch_one("printf", "0123456789").id
    shared.wait_dead(id)

    def read(query: str) -> tuple[int, Any]:
        return ask(shared, "GET", f"/v1/instances/{id}/output?{query}")

    status, view = read("stdout=3&limit_bytes=4")
    (piece,) = view["pieces"]
    assert (status, piece["data"], piece["offset"]) == (200, "MzQ1Ng==", 3)
    assert view["stdout"] == {"next_offset": 7, "size_bytes": 10} and not view["is_final"]
    status, view = read("stdout=99")
    assert (status, view["pieces"], view["is_final"]) == (200, [], True)
    for bad in ("stdout=-1", "stderr=9223372036854775808", "limit_bytes=0", "stream=../x"):
        assert read(bad)[0] in (400, 422)
    for bad in ("since=nan", "since=1e300", "back_bytes=-1", "stdout=x"):
        assert read(bad)[0] in (400, 422)
    assert read("attempt=2")[0] == 404


def test_the_sockets_are_the_operators_alone(shared: Cluster) -> None:
    for name in ("api.sock", "bulk.sock"):
        mode = (shared.settings.master_dir / name).stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


@pytest.mark.root
def test_another_user_is_cut_even_with_the_socket_wide_open(shared: Cluster) -> None:
    """SO_PEERCRED has the last word, whatever the file's mode."""
    path = shared.settings.api_socket
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); d = os.open(sys.argv[1], os.O_PATH)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s.connect('/proc/self/fd/%d' % d)\n"
        "s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "sys.stdout.buffer.write(s.recv(100))\n"
    )
    path.chmod(0o666)
    try:
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    finally:
        path.chmod(0o600)
    assert b"200" not in done.stdout


def test_zero_configuration_listens_on_loopback_only(shared: Cluster) -> None:
    daemons = set(shared.pids())
    tables = [Path("/proc/net") / name for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    listening = [row for row in rows if row[3] == "0A"]
    ours = {os.stat(f"/proc/{pid}/fd/{fd}").st_ino for pid in daemons for fd in _fds(pid)}
    found = [fields[1] for fields in listening if int(fields[9]) in ours]
    assert len(found) == 1, "the master's port, and no port of a worker"
    host = socket.inet_ntoa(bytes.fromhex(found[0].split(":")[0])[::-1])
    assert host == "127.0.0.1"


def _fds(pid: int) -> list[str]:
    return [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.path.exists(f"/proc/{pid}/fd/{fd}")]
