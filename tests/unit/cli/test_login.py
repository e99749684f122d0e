"""login, logout, context: what is kept, what is meant, and what is never sent or written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from corps.cli.operator import Operator
from corps.cli.shell import Shell, history
from corps.cli.tree import run
from corps.config import config_dir, current_context, load_settings
from corps.errors import Invalid, NotFound
from corps.model.command import Failure
from corps.model.token import TokenKind, base32
from corps.net.endpoint import TOKEN_VARIABLE
from corps.trust.authority import Authority
from corps.trust.logins import Logins
from tests.support.http import HELLO, Answer, TlsMaster, serving
from tests.support.logins import ANN, SECRET, TOKEN_ID, a_login, a_token, an_authority
from tests.unit.cli.terminal import Terminal

Corps = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in (TOKEN_VARIABLE, "CORPS_SERVER", "CORPS_CONTEXT", "CORPS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return an_authority(tmp_path / "ca")


@pytest.fixture
def master(authority: Authority) -> Iterator[TlsMaster]:
    with serving(TlsMaster(authority)) as master:
        yield master


@pytest.fixture
def corps(capsys: pytest.CaptureFixture[str]) -> Corps:
    def call(*words: str) -> tuple[int, str, str]:
        operator = Operator()
        status = run(list(words), operator)
        operator.close()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def token_file(tmp_path: Path, authority: Authority) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(a_token(authority))
    return path


def _contexts(corps: Corps) -> dict[str, bool]:
    _, out, _ = corps("context", "-o", "json")
    return {row["name"]: row["is_current"] for row in msgspec.json.decode(out)}


def test_a_login_is_kept_and_meant_from_then_on(
    corps: Corps, master: TlsMaster, token_file: Path
) -> None:
    master.answers += [Answer(ANN), Answer([]), Answer([ANN])]
    status, out, err = corps("login", master.url, "--token-file", str(token_file))
    assert (status, out) == (0, "")
    assert err == (
        f"corps: logged in to {master.url} as ann, operator, until 2027-02-23T01:52:58.178Z; "
        "commands go there now (context 127.0.0.1)\n"
    )
    assert corps("workers", "-o", "json") == (0, "[]\n", "")
    assert [request.path for request in master.requests] == [
        HELLO,
        "/v1/whoami",
        HELLO,
        "/v1/workers",
    ]
    assert _contexts(corps) == {"local": False, "127.0.0.1": True}
    assert base32(SECRET) not in f"{corps('context', '-o', 'wide')}"
    kept = config_dir() / "contexts" / "127.0.0.1.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700


def test_logged_out_nothing_is_kept(corps: Corps, master: TlsMaster, token_file: Path) -> None:
    master.answers.append(Answer(ANN))
    corps("login", master.url, "--token-file", str(token_file), "--context", "prod")
    status, _, err = corps("logout")
    assert status == 0
    assert f"'corps token revoke {TOKEN_ID}'" in err
    assert _contexts(corps) == {"local": True}
    assert corps("logout")[0] == NotFound.exit_code
    assert corps("context", "delete", "prod")[0] == NotFound.exit_code


def test_another_master_gets_no_token_and_nothing_is_kept(
    corps: Corps, tmp_path: Path, token_file: Path
) -> None:
    with serving(TlsMaster(an_authority(tmp_path / "other"))) as other:
        status, _, err = corps("login", other.url, "--token-file", str(token_file))
    assert status == 6
    assert "the token was not sent" in err
    assert [request.token for request in other.requests] == [None]
    assert _contexts(corps) == {"local": True}


def test_a_token_that_the_master_does_not_take_is_not_kept(
    corps: Corps, master: TlsMaster, token_file: Path
) -> None:
    master.answers.append(Answer(Failure(code="denied", message="it was revoked"), status=401))
    status, _, err = corps("login", master.url, "--token-file", str(token_file))
    assert (status, err) == (6, "corps: it was revoked\n")
    assert _contexts(corps) == {"local": True}


def test_a_name_stays_with_its_cluster(
    corps: Corps, tmp_path: Path, authority: Authority, master: TlsMaster, token_file: Path
) -> None:
    other = msgspec.structs.replace(a_login(master, authority), cluster="c2")
    Logins(config_dir()).save("prod", other)
    master.answers.append(Answer(ANN))
    words = ["login", master.url, "--token-file", str(token_file), "--context", "prod"]
    status, _, err = corps(*words)
    assert status == 5
    assert "context 'prod' is of another cluster" in err
    assert Logins(config_dir()).load("prod") == other


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["http://m:1"], 3, "bad server: spelled https://HOST:PORT"),
        (["https://ann:word@m:1"], 3, "bad server: spelled https://HOST:PORT"),
        (["https://m:99999"], 3, "bad address"),
        (["https://m:1"], 2, "nobody can be asked for the token"),
        (["https://m:1", "--token", "word"], 3, "this is no token, or not all of it"),
        (["https://m:1", "--token", "t", "--token-file", "f"], 2, "not both"),
        (["https://m:1", "--token-file", "/nonexistent"], 3, "No such file"),
        (["https://m:1", "--token-file", "/dev/null"], 6, "'/dev/null' is no file"),
    ],
)
def test_what_cannot_be_is_refused_without_repeating_a_secret(
    corps: Corps, words: list[str], status: int, message: str
) -> None:
    found, out, err = corps("login", *words)
    assert (found, out) == (status, "")
    assert message in err and err.count("\n") == 1
    assert "word" not in err.replace("password", "")


def test_a_join_token_is_no_login(corps: Corps, authority: Authority) -> None:
    token = a_token(authority, TokenKind.JOIN)
    status, _, err = corps("login", "https://m:1", "--token", token)
    assert status == 3
    assert "this token lets workers join: here goes one that starts with P1." in err
    assert base32(SECRET) not in err


@pytest.mark.parametrize("name", ["local", "../x", "A", ""])
def test_names_that_no_context_has(corps: Corps, authority: Authority, name: str) -> None:
    status, _, err = corps("login", "https://m:1", "--token", a_token(authority), "--context", name)
    assert status == 3, err


def test_a_token_is_asked_for_without_being_shown(
    master: TlsMaster, authority: Authority, tmp_path: Path
) -> None:
    master.answers.append(Answer(ANN))
    words = [sys.executable, "-m", "corps.cli.main", "login", master.url]
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": os.environ["PATH"]}
    with Terminal(words, env) as terminal:
        terminal.expect("Token (not shown): ")
        terminal.send(f"{a_token(authority)}\n")
        terminal.expect("logged in to")
        assert terminal.wait() == 0
        assert base32(SECRET).encode() not in terminal.seen
    assert Logins(config_dir()).load("127.0.0.1").user == "ann"


def test_the_stronger_layer_says_which_master_is_meant(
    corps: Corps, master: TlsMaster, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins = Logins(config_dir())
    for name in ("prod", "test"):
        logins.save(name, a_login(master, authority))
    (config_dir() / "corps.toml").write_text('dir = "/tmp/d"\n')
    assert corps("context", "use", "prod")[0] == 0
    assert current_context() == "prod"
    settings = load_settings()
    assert (settings.context, settings.dir) == ("prod", "/tmp/d")
    monkeypatch.setenv("CORPS_CONTEXT", "test")
    assert load_settings().context == "test"
    assert load_settings(dir="/tmp/e").context is None
    assert load_settings(server="unix:///x").context is None
    assert load_settings(context="local").context == "local"
    monkeypatch.setenv("CORPS_SERVER", "unix:///x")
    with pytest.raises(Invalid, match="both a server and a context"):
        load_settings()
    monkeypatch.delenv("CORPS_CONTEXT")
    assert load_settings().context is None
    operator = Operator(server="unix:///y")
    assert operator.elsewhere(context="test").settings.context == "test"
    monkeypatch.delenv("CORPS_SERVER")
    assert corps("context", "use", "local")[0] == 0
    assert current_context() is None
    status, _, err = corps("context", "use", "tset")
    assert (status, err) == (4, "corps: no context 'tset'; did you mean 'test'?\n")


def test_a_login_learns_which_ca_comes_next(
    corps: Corps, tmp_path: Path, master: TlsMaster, authority: Authority
) -> None:
    """At most once an hour, from the master that it knows."""
    logins = Logins(config_dir())
    logins.save("prod", a_login(master, authority))
    corps("context", "use", "prod")
    both = authority.bundle_pem.decode() + an_authority(tmp_path / "next").bundle_pem.decode()
    master.hello = {"cluster": "c1", "authorities": both}
    master.answers += [Answer([]), Answer([]), Answer([])]
    assert corps("workers", "-o", "json")[:2] == (0, "[]\n")
    assert logins.load("prod").authorities == authority.bundle_pem.decode()
    kept = config_dir() / "contexts" / "prod.json"
    os.utime(kept, (0, 0))
    for _ in range(2):
        assert corps("workers", "-o", "json")[:2] == (0, "[]\n")
        assert logins.load("prod").authorities == both
    paths = [request.path for request in master.requests]
    assert paths == ["/v1/workers", HELLO, "/v1/workers", "/v1/workers"]


def test_an_unreadable_context_is_told_and_the_others_are_listed(
    corps: Corps, master: TlsMaster, authority: Authority
) -> None:
    logins = Logins(config_dir())
    logins.save("good", a_login(master, authority))
    (config_dir() / "contexts" / "bad.json").touch(mode=0o600)
    status, out, err = corps("context", "list", "-o", "name")
    assert (status, out) == (0, "local\nbad\ngood\n")
    assert "bad.json" in err and "log in again" in err
    assert corps("context", "delete", "bad")[0] == 0


def test_a_config_file_that_others_write_is_refused() -> None:
    config_dir().mkdir(parents=True)
    file = config_dir() / "corps.toml"
    file.write_text('server = "unix:///x"\n')
    assert load_settings().server == "unix:///x"
    file.chmod(0o664)
    with pytest.raises(Exception, match="can be written by others"):
        load_settings()
    file.chmod(0o644)
    os.chown(file, 12345, 12345)
    with pytest.raises(Exception, match="can be written by others"):
        load_settings()


def test_the_shell_follows_a_change_of_context(
    capsys: pytest.CaptureFixture[str], master: TlsMaster, authority: Authority
) -> None:
    Logins(config_dir()).save("prod", a_login(master, authority))
    master.answers.append(Answer([]))
    operator = Operator()
    shell = Shell(operator)
    shell.do("workers -o json")
    assert "no master at unix://" in capsys.readouterr().err
    shell.do("context use prod")
    shell.do("workers -o json")
    assert capsys.readouterr().out == "[]\n"
    operator.close()


def test_the_shell_writes_no_token_down(tmp_path: Path, authority: Authority) -> None:
    path = tmp_path / "history"
    kept = history(path)
    for line in ("ps", f"login https://m:1 --token {a_token(authority)}", "workers"):
        kept.append_string(line)
    assert base32(SECRET) not in path.read_text()
    assert "+ps" in path.read_text() and "+workers" in path.read_text()
