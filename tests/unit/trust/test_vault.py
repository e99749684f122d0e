"""The vault: what it seals opens for the same name and version, with the same key, only."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from corps.core.events import Reveal
from corps.errors import Conflict, CorpsError, Denied
from corps.model.secret import Sealed, Secret
from corps.trust.vault import Vault

VALUE = b"hunter2\n\0\xff"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


def a_secret(sealed: Sealed, name: str = "db") -> Secret:
    return Secret(
        name=name, sealed=sealed, created_at=1, created_by="a", changed_at=1, changed_by="a"
    )


def test_what_is_sealed_opens_also_for_the_next_master(path: Path) -> None:
    sealed = Vault(path).seal("db", 1, VALUE, is_first=True)
    assert VALUE not in sealed.box and path.stat().st_mode & 0o777 == 0o600
    assert Vault(path).open("db", sealed) == VALUE
    again = Vault(path).seal("db", 1, VALUE, is_first=False)
    assert again.box != sealed.box and again.nonce != sealed.nonce


def test_nothing_opens_in_the_place_of_another(path: Path) -> None:
    vault = Vault(path)
    sealed = vault.seal("db", 2, VALUE, is_first=True)
    flipped = bytes([sealed.box[0] ^ 1]) + sealed.box[1:]
    for name, other in (
        ("db2", sealed),
        ("db", msgspec.structs.replace(sealed, version=1)),
        ("db", msgspec.structs.replace(sealed, box=flipped)),
        ("db", msgspec.structs.replace(sealed, box=b"")),
        ("db", msgspec.structs.replace(sealed, nonce=b"")),
    ):
        with pytest.raises(Conflict, match="cannot be opened"):
            vault.open(name, other)
    path.write_bytes(b"k" * 32)
    with pytest.raises(Conflict, match="cannot be opened"):
        Vault(path).open("db", sealed)


def test_a_key_that_others_can_read_or_that_is_none_is_not_used(path: Path) -> None:
    Vault(path).seal("db", 1, VALUE, is_first=True)
    path.chmod(0o640)
    with pytest.raises(Denied, match="can be read by others"):
        Vault(path).seal("db", 2, VALUE, is_first=False)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(Conflict, match="is no key"):
        Vault(path).seal("db", 2, VALUE, is_first=False)


def test_a_key_that_is_gone_is_not_made_anew_while_there_are_secrets(path: Path) -> None:
    with pytest.raises(Conflict, match="the key of all secrets is gone"):
        Vault(path).seal("db", 2, VALUE, is_first=False)
    assert not path.exists()


def test_a_worker_gets_all_or_hears_why(path: Path) -> None:
    vault = Vault(path)
    one = a_secret(vault.seal("db", 1, VALUE, is_first=True))
    answer = vault.reveal(Reveal(7, "web.1#1", (one,)))
    assert [(s.name, s.version, s.value) for s in answer.secrets] == [("db", 1, VALUE)]
    assert (answer.key, answer.problem) == ("web.1#1", None)
    wrong = a_secret(one.sealed, "other")
    answer = vault.reveal(Reveal(7, "web.1#1", (one, wrong)))
    assert answer.secrets == () and "cannot be opened" in str(answer.problem)


def test_a_mark_tells_values_apart_and_needs_the_key(path: Path, tmp_path: Path) -> None:
    other = Vault(tmp_path / "other.key")
    vault = Vault(path)
    for one in (vault, other):
        one.seal("db", 1, VALUE, is_first=True)
    assert vault.mark(b"a") == Vault(path).mark(b"a")
    assert len({vault.mark(b"a"), vault.mark(b"b"), other.mark(b"a")}) == 3
    with pytest.raises(CorpsError):
        Vault(tmp_path / "none.key").mark(b"a")
