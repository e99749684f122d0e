"""What is pasted on a new machine: joining from the command line, and what stays there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.config import Settings
from corps.errors import Conflict, Denied, Unavailable
from corps.model.token import Token, format_token
from corps.model.trust import RevokeWorker
from corps.trust.credentials import Credentials
from corps.worker.facts import own_name
from corps.worker.membership import become_member
from tests.support.joining import JoinPort, join_port


@pytest.fixture
def port(tmp_path: Path) -> Iterator[JoinPort]:
    with join_port(tmp_path / "master") as made:
        yield made


def corps(
    directory: Path, *words: str, fds: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "corps.cli.main", "--dir", str(directory), *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        pass_fds=fds,
        timeout=60,
    )


def where(port: JoinPort) -> str:
    return f"{port.address[0]}:{port.address[1]}"


def credentials(directory: Path, name: str) -> Credentials:
    return Credentials(directory / "workers" / name / "trust")


def test_one_pasted_line_makes_a_worker(port: JoinPort, tmp_path: Path) -> None:
    token = port.make_token(worker="w7")
    done = corps(tmp_path / "w", "join", where(port), "--token", format_token(token), "--no-run")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    made = credentials(tmp_path / "w", "w7")
    assert made.identity().worker == "w7"
    assert made.identity().key == port.roll.members["w7"].key
    files = list((tmp_path / "w" / "workers" / "w7" / "trust").iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert list((tmp_path / "w" / "joining").iterdir()) == []
    assert own_name(tmp_path / "w" / "workers") == "w7"


def test_a_token_comes_from_a_file_or_a_descriptor(port: JoinPort, tmp_path: Path) -> None:
    text = format_token(port.make_token(uses=2))
    file = tmp_path / "token"
    file.write_text(f"{text}\n")
    file.chmod(0o644)
    words = ["join", where(port), "--no-run", "--name"]
    done = corps(tmp_path / "w", *words, "w1", "--token-file", str(file))
    assert done.returncode == 6
    assert "chmod 600" in done.stderr
    file.chmod(0o600)
    assert corps(tmp_path / "w", *words, "w1", "--token-file", str(file)).returncode == 0
    with file.open("rb") as opened:
        fd = opened.fileno()
        done = corps(tmp_path / "w", *words, "w2", "--token-fd", str(fd), fds=(fd,))
    assert done.returncode == 0, done.stderr
    assert sorted(port.roll.members) == ["w1", "w2"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "corps token create"),
        (["--token", "C1.x"], 3, "no token"),
        (["--token", "C1.x", "--token-fd", "0"], 2, "one of"),
        (["--token-file", "/nowhere"], 3, "No such file"),
        (["--token-fd", "99"], 3, "Bad file descriptor"),
    ],
)
def test_what_is_no_token_is_said_before_anybody_is_asked(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = corps(tmp_path, "join", "127.0.0.1:1", "--no-run", *words)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_error_repeats_no_secret(port: JoinPort, tmp_path: Path) -> None:
    token = port.make_token()
    text = format_token(Token(kind=token.kind, id=token.id, secret=bytes(16), pin=token.pin))
    done = corps(tmp_path / "w", "join", where(port), "--token", text, "--no-run")
    assert done.returncode == 6
    assert "E_TOKEN" in done.stderr
    assert text.split(".")[2] not in done.stderr
    assert credentials(tmp_path / "w", "w1").are_there is False


def test_the_same_line_again_changes_nothing(port: JoinPort, tmp_path: Path) -> None:
    settings = Settings(dir=str(tmp_path / "w"))
    text = format_token(port.make_token(worker="w7"))
    assert become_member(settings, port.address, text, None) == "w7"
    before = credentials(tmp_path / "w", "w7").identity()
    assert become_member(settings, port.address, text, None) == "w7"
    assert credentials(tmp_path / "w", "w7").identity() == before
    port.order(RevokeWorker(worker="w7"))
    again = format_token(port.make_token())
    assert become_member(settings, port.address, again, "w7") == "w7"
    assert credentials(tmp_path / "w", "w7").identity().key != before.key


def test_a_join_that_stopped_half_way_goes_on_with_its_key(port: JoinPort, tmp_path: Path) -> None:
    """The certificate was given, and the machine stopped before it was written down."""
    settings, token = Settings(dir=str(tmp_path / "w")), port.make_token()
    become_member(settings, port.address, format_token(token), "w1")
    trust = tmp_path / "w" / "workers" / "w1" / "trust"
    os.rename(trust / "key.pem", tmp_path / "w" / "joining" / f"{token.id}.pem")
    (trust / "cert.pem").unlink()
    assert become_member(settings, port.address, format_token(token), "w1") == "w1"
    assert credentials(tmp_path / "w", "w1").identity().serial == port.roll.members["w1"].serial
    assert port.roll.join_tokens[token.id].joined == ("w1",)


def test_a_key_that_others_can_read_is_no_secret(port: JoinPort, tmp_path: Path) -> None:
    settings = Settings(dir=str(tmp_path / "w"))
    become_member(settings, port.address, format_token(port.make_token()), "w1")
    made = credentials(tmp_path / "w", "w1")
    (tmp_path / "w" / "workers" / "w1" / "trust" / "key.pem").chmod(0o640)
    with pytest.raises(Denied, match="chmod 600"):
        made.identity()


def test_a_master_that_is_not_there_is_an_ordinary_error(port: JoinPort, tmp_path: Path) -> None:
    settings, text = Settings(dir=str(tmp_path / "w")), format_token(port.make_token())
    with pytest.raises(Unavailable, match="the token is as good as before"):
        become_member(settings, ("127.0.0.1", 1), text, "w1")
    assert become_member(settings, port.address, text, "w1") == "w1"


def test_no_master_takes_the_place_of_another_ones_worker(port: JoinPort, tmp_path: Path) -> None:
    """Not even one that chooses the name: the key of the first would be lost."""
    settings = Settings(dir=str(tmp_path / "w"))
    become_member(settings, port.address, format_token(port.make_token()), "w1")
    before = credentials(tmp_path / "w", "w1").identity()
    with join_port(tmp_path / "other", "decaf") as other:
        token = other.make_token(worker="w1")
        with pytest.raises(Conflict, match="of another cluster, c0ffee"):
            become_member(settings, other.address, format_token(token), None)
    assert credentials(tmp_path / "w", "w1").identity() == before
