"""A person elsewhere, over HTTPS: logs in with a pasted token, and then works as at the master."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corps.client import Client
from corps.model.token import TokenKind, base32, parse_token
from corps.model.trust import CaStage
from corps.net.address import format_address
from corps.net.endpoint import TOKEN_VARIABLE
from tests.support.cluster import Cluster
from tests.support.compiled import compile_c
from tests.support.waiting import until

ANY = "127.0.0.1:0"
LARGE_BYTES = 5 << 20
CHATTER = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { for (int n = 0;; n++) { printf("%d\n", n); fflush(stdout); usleep(100000); } }
"""


class Person:
    """Someone with a configuration of their own, and no part in the machine of the master."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._env = {"PATH": os.environ["PATH"], "HOME": str(home)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "corps.cli.main", *words]

    def corps(
        self, *words: str, status: int = 0, pasted: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            env=self._env,
            input=pasted,
            stdin=subprocess.DEVNULL if pasted is None else None,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
        return done

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def a_chatter(directory: Path) -> Path:
    return compile_c(directory / "build", "chatter", CHATTER)


def api_of(made: Cluster) -> str:
    return (made.settings.master_dir / "api-address").read_text().strip()


@contextmanager
def serving(directory: Path, api: str = ANY, *workers: str) -> Iterator[Cluster]:
    """A master with an HTTPS port, and its workers."""
    directory.mkdir(exist_ok=True)
    made = Cluster(directory)
    try:
        made.start_master("--api", api)
        for name in workers:
            made.start_worker(name)
        made.wait_state(**dict.fromkeys(workers, "ready"))
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("login"), ANY, "w1") as made:
        yield made


@pytest.fixture
def ann(tmp_path: Path, made: Cluster) -> Iterator[Person]:
    """A deployer, logged in."""
    person = Person(tmp_path / "ann")
    person.home.mkdir()
    made.corps("user", "add", "ann", "--role", "deployer")
    token = made.corps("user", "token", "ann").stdout
    done = person.corps(
        "login", f"https://{api_of(made)}", "--token-file", "-", "--context", "prod", pasted=token
    )
    assert "as ann, deployer" in done.stderr and "(context prod)" in done.stderr
    yield person
    made.corps("user", "remove", "ann", check=False)


def launch(person: Person) -> str:
    return person.corps("launch", "chatter", "-o", "name").stdout.strip()


def test_a_person_works_from_elsewhere(ann: Person, tmp_path: Path) -> None:
    program = a_chatter(tmp_path)
    with program.open("ab") as file:
        file.write(os.urandom(LARGE_BYTES))  # so that it travels in many records of TLS
    assert "installed" in ann.corps("copy", str(program)).stdout
    id = launch(ann)
    until(lambda: ann.corps("logs", id).stdout)
    assert "dead: killed by SIGKILL (kill by ann)" in ann.corps("kill", id).stdout
    assert "placed on w1 by ann" in ann.corps("why", id).stdout
    assert "unchanged" in ann.corps("copy", str(program)).stdout


def test_a_role_holds_and_says_what_is_missing(made: Cluster, ann: Person, tmp_path: Path) -> None:
    made.corps("user", "role", "ann", "viewer")
    program = a_chatter(tmp_path)
    for words in (("copy", str(program)), ("launch", "chatter"), ("token", "list")):
        done = ann.corps(*words, status=6)
        assert done.stderr.startswith("corps: ann is viewer here and may not ")
        assert done.stderr.count("\n") == 1
    assert "w1" in ann.corps("workers").stdout
    made.corps("user", "remove", "ann")
    assert "this token opens nothing here" in ann.corps("workers", status=6).stderr


def test_a_login_outlives_its_master_and_a_follower_too(
    made: Cluster, ann: Person, tmp_path: Path
) -> None:
    ann.corps("copy", str(a_chatter(tmp_path)))
    id, at = launch(ann), api_of(made)
    with ann.begin("logs", "-f", id) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        made.kill("master")
        made.start_master("--api", at)
        made.wait_state(w1="ready")
        assert "w1" in ann.corps("workers").stdout
        ann.corps("kill", id)
        rest, errors = following.communicate(timeout=60)
    assert (following.returncode, errors) == (0, "")
    assert rest


def test_another_master_at_that_address_hears_nothing(
    made: Cluster, ann: Person, tmp_path: Path
) -> None:
    at = api_of(made)
    made.kill("master")
    with serving(tmp_path / "other", at) as other:
        done = ann.corps("workers", status=6)
        assert f"https://{at} is not the master that was logged in to" in done.stderr
        kept = (ann.home / ".config" / "corps" / "contexts" / "prod.json").read_text()
        token = kept.partition('"token":"')[2].partition('"')[0]
        secret = base32(parse_token(token, TokenKind.PERSON).secret)
        done = ann.corps("login", f"https://{at}", "--token-file", "-", pasted=token, status=6)
        assert "the CA has another pin; the token was not sent" in done.stderr
        assert secret not in done.stderr + other.log("master")
    made.start_master("--api", at)


def test_the_port_of_the_others_is_named(made: Cluster, ann: Person, tmp_path: Path) -> None:
    token = made.corps("user", "token", "ann").stdout
    there = f"https://{made.address}"
    done = ann.corps("login", there, "--token-file", "-", status=9, pasted=token)
    assert "give the address of the master's --api, not of its --listen" in done.stderr
    token = made.corps("token", "create", "-o", "name").stdout.strip()

    def join(address: str) -> str:
        words = ("--dir", str(tmp_path / "w9"), "join", address, "--token", token, "--no-run")
        done = made.corps(*words, check=False)
        assert done.returncode == 7
        return done.stderr

    assert "give the address of the master's --listen, not of its --api" in join(api_of(made))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = format_address(listening.getsockname())
    assert f"cannot join at {closed}: Connection refused; the token is" in join(closed)


def test_scripts_need_no_login(made: Cluster, tmp_path: Path) -> None:
    """Server and token are enough, in Python too."""
    robot = Person(tmp_path / "robot")
    made.corps("user", "add", "robot", "--role", "viewer")
    token = made.corps("user", "token", "robot", "--ttl", "1h").stdout
    server = f"https://{api_of(made)}"
    done = robot.corps("--server", server, "--token-file", "-", "whoami", pasted=token)
    assert "robot" in done.stdout
    assert not robot.home.exists()
    with Client(server, token=token) as client:
        assert [worker.name for worker in client.workers()] == ["w1"]
        assert client.whoami().name == "robot"


def test_no_daemon_gets_the_token_of_who_started_it(tmp_path: Path) -> None:
    """What an app could read of them (/proc/PID/environ) lets it nowhere."""
    made = Cluster(tmp_path)
    env = {**os.environ, TOKEN_VARIABLE: "P1.of-somebody"}
    subprocess.run(made.command("up", "--detach"), env=env, check=True, timeout=60)
    try:
        found = made.processes()
        assert len(found) >= 3, "master, worker, keeper"
        for pid in found:
            assert b"of-somebody" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        made.corps("down")
    assert not made.processes()


def test_a_rotation_of_the_ca_locks_no_person_out(tmp_path: Path) -> None:
    """Neither a login that nobody used meanwhile, nor a script that has only a token."""
    with serving(tmp_path / "rotated") as made:
        person = Person(tmp_path / "ann")
        person.home.mkdir()
        url = f"https://{api_of(made)}"
        made.corps("user", "add", "ann", "--role", "viewer")
        token = made.corps("user", "token", "ann").stdout
        person.corps("login", url, "--token-file", "-", pasted=token)
        for _ in range(2):
            before = made.client.ca().pin
            made.corps("ca", "rotate", "-y")
            until(lambda before=before: before not in made.client.ca().trusted)  # type: ignore[misc]
            assert "ann" in person.corps("whoami").stdout
            with Client(url, token=token.strip()) as script:
                assert script.whoami().name == "ann"


def test_a_login_outlives_the_ca_that_it_began_with(tmp_path: Path) -> None:
    """With a command while both are trusted, and without."""
    with serving(tmp_path / "cluster") as made:
        ann, bob = Person(tmp_path / "ann"), Person(tmp_path / "bob")
        server = f"https://{api_of(made)}"
        for person in (ann, bob):
            made.corps("user", "add", person.home.name, "--role", "viewer")
            token = made.corps("user", "token", person.home.name).stdout
            person.corps("login", server, "--token-file", "-", "--context", "prod", pasted=token)
        line = made.corps("token", "create", "--name", "w7").stdout.split()
        away = ["--dir", str(tmp_path / "w7"), *line[1:], "--no-run"]
        ann.corps(*away)
        assert "rotate" in made.corps("ca", "rotate", check=False).stderr, "nobody could be asked"
        made.corps("ca", "rotate", "-y")
        until(lambda: made.client.ca().stage is CaStage.SPREADING)
        assert "w7" in made.corps("ca", "status").stdout
        kept = ann.home / ".config" / "corps" / "contexts" / "prod.json"
        os.utime(kept, (0, 0))
        ann.corps("whoami")
        made.corps("worker", "revoke", "w7")
        until(lambda: made.client.ca().stage is CaStage.STEADY)
        assert "ann" in ann.corps("whoami").stdout
        assert "bob" in bob.corps("whoami").stdout
        bob.corps("login", server, "--token-file", "-", "--context", "again", pasted=token)
        assert made.client.ca().pin != parse_token(token, TokenKind.PERSON).pin
