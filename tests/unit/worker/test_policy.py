"""What a machine's owner allows there, and that a policy in doubt allows nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from corps.errors import Denied, Invalid
from corps.model.instance import Launchable
from corps.model.secret import AsVariable
from corps.model.signature import Signature, Vouched
from corps.model.terms import Limits, Terms
from corps.signing import make_key, sign
from corps.worker.policy import PolicyFile, parse_policy, policy_file
from corps.worker.terms import spawn_terms

DIGEST = "ab" * 32
NOW = 1_000_000.0
NOBODY = Terms(user="nobody")


def said(tmp_path: Path, text: str) -> PolicyFile:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    path.chmod(0o644)
    return PolicyFile(tmp_path / "signed.json", path)


def launch(**env: str) -> Launchable:
    return Launchable(artifact="web", digest=DIGEST, env=env)


def signed(
    tmp_path: Path, counter: int = 5, *, digest: str = DIGEST, expires_at: float | None = None
) -> Launchable:
    """With the key in `key`, whose public half is in `key.pub`."""
    key = tmp_path / "key"
    if not key.exists():
        (tmp_path / "key.pub").write_text(make_key(key))
    vouched = Vouched(name="web", digest=digest, counter=counter, expires_at=expires_at)
    return Launchable(artifact="web", digest=DIGEST, signature=sign(key, vouched))


def test_without_a_file_nothing_is_added(tmp_path: Path) -> None:
    terms = spawn_terms(Terms())
    assert (
        PolicyFile(tmp_path / "memory", tmp_path / "none").hold(terms, launch(LD_PRELOAD="x"), NOW)
        == terms
    )


def test_a_named_file_that_is_not_there_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="nothing may start here"):
        policy_file(tmp_path, str(tmp_path / "none")).hold(spawn_terms(NOBODY), launch(), NOW)


def test_a_link_to_nothing_allows_nothing(tmp_path: Path) -> None:
    """There was to be a policy: whoever manages this machine has lost it."""
    (tmp_path / "policy.toml").symlink_to(tmp_path / "gone.toml")
    policy = PolicyFile(tmp_path / "signed.json", tmp_path / "policy.toml")
    with pytest.raises(Denied, match=r"nothing may start here.*a link to nothing"):
        policy.hold(spawn_terms(NOBODY), launch(), NOW)


def test_an_empty_policy_denies_root_low_users_and_loader_variables(tmp_path: Path) -> None:
    policy = said(tmp_path, "")
    assert policy.hold(spawn_terms(NOBODY), launch(PATH="/bin"), NOW) == spawn_terms(NOBODY)
    with pytest.raises(Denied, match=r"running as root .*allow_root.*--user"):
        policy.hold(spawn_terms(Terms(user="root")), launch(), NOW)
    with pytest.raises(Denied, match=r"user 'daemon' \(uid 1\) .*min_uid = 1000"):
        policy.hold(spawn_terms(Terms(user="daemon")), launch(), NOW)
    for name in ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"):
        with pytest.raises(Denied, match=f"{name} .*allow_ld_env"):
            policy.hold(spawn_terms(NOBODY), launch(**{name: "/tmp/evil.so"}), NOW)


def test_a_variable_that_is_a_secret_loads_no_code_either(tmp_path: Path) -> None:
    terms = Terms(user="nobody", secrets=(AsVariable(name="db", variable="LD_LIBRARY_PATH"),))
    asked = msgspec.structs.replace(launch(), terms=terms)
    with pytest.raises(Denied, match="LD_LIBRARY_PATH is not allowed"):
        said(tmp_path, "").hold(spawn_terms(terms), asked, NOW)
    said(tmp_path, "allow_ld_env = true").hold(spawn_terms(terms), asked, NOW)


def test_groups_that_are_not_its_own_are_denied_unless_named(tmp_path: Path) -> None:
    video = spawn_terms(Terms(user="nobody:video"))
    for text in ("", 'allow_groups = ["tty", "no-such-group"]'):
        with pytest.raises(Denied, match=r"group 44 for user 'nobody' .*allow_groups"):
            said(tmp_path, text).hold(video, launch(), NOW)
    with pytest.raises(Denied, match=r"group 0 for user '3000000' .*allow_groups"):
        said(tmp_path, "").hold(spawn_terms(Terms(user="3000000:root")), launch(), NOW)
    assert said(tmp_path, 'allow_groups = ["video"]').hold(video, launch(), NOW) == video
    with pytest.raises(Denied, match=r"group 44 for user '44' .*allow_groups"):
        said(tmp_path, "min_uid = 5").hold(spawn_terms(Terms(user="44")), launch(), NOW)
    own = spawn_terms(Terms(user="3000000"))
    assert said(tmp_path, "").hold(own, launch(), NOW) == own


def test_new_privileges_are_denied_unless_allowed(tmp_path: Path) -> None:
    asked = spawn_terms(Terms(user="nobody", new_privileges=True))
    with pytest.raises(Denied, match=r"--new-privileges .*allow_new_privileges"):
        said(tmp_path, "").hold(asked, launch(), NOW)
    assert said(tmp_path, "allow_new_privileges = true").hold(asked, launch(), NOW) == asked


def test_a_list_of_users_is_exact(tmp_path: Path) -> None:
    policy = said(tmp_path, 'allow_users = ["daemon", "nob"]')
    policy.hold(spawn_terms(Terms(user="daemon")), launch(), NOW)
    policy.hold(spawn_terms(Terms(user="1")), launch(), NOW)  # the same user by number
    with pytest.raises(Denied, match=r"'nobody' .*allow_users"):
        policy.hold(spawn_terms(NOBODY), launch(), NOW)
    with pytest.raises(Denied, match="root"):
        said(tmp_path, 'allow_users = ["root"]').hold(
            spawn_terms(Terms(user="root")), launch(), NOW
        )


def test_the_user_that_nobody_named_is_judged_as_well(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "run as root, as all tests of users are"
    with pytest.raises(Denied, match="root"):
        said(tmp_path, "").hold(spawn_terms(Terms()), launch(), NOW)
    said(tmp_path, "allow_root = true").hold(spawn_terms(Terms()), launch(), NOW)


def test_limits_are_imposed_and_not_exceeded(tmp_path: Path) -> None:
    policy = said(tmp_path, "max_memory_bytes = 1048576\nmax_pids = 5")
    held = policy.hold(spawn_terms(NOBODY), launch(), NOW)
    assert (held["memory_bytes"], held["pids"]) == (1 << 20, 5)
    less = policy.hold(spawn_terms(Terms(user="nobody", limits=Limits(pids=3))), launch(), NOW)
    assert less["pids"] == 3
    with pytest.raises(Denied, match=r"6 processes .*max_pids = 5"):
        policy.hold(spawn_terms(Terms(user="nobody", limits=Limits(pids=6))), launch(), NOW)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("allow_rot = true", "unknown key 'allow_rot'.*allow_root"),
        ("min_uid = 'x'", "Expected `int`"),
        ("min_uid = true", "Expected `int`"),
        ("allow_root = 1", "Expected `bool`"),
        ("[", "at end of document"),
        pytest.param("x = " + "[" * 50_000, "nested too deep", id="nested"),
        ("min_uid = 1\nmin_uid = 2\n", "at line 2"),
    ],
)
def test_a_policy_with_a_mistake_says_where_and_allows_nothing(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(Invalid, match=why):
        parse_policy(text.encode())
    with pytest.raises(Denied, match=f"nothing may start here.*{why}"):
        said(tmp_path, text).hold(spawn_terms(NOBODY), launch(), NOW)


def test_a_policy_that_others_could_write_allows_nothing(tmp_path: Path) -> None:
    policy = said(tmp_path, "")
    path = tmp_path / "policy.toml"
    for mode in (0o666, 0o664):
        path.chmod(mode)
        with pytest.raises(Denied, match=re.escape(f"chmod go-w '{path}'")):
            policy.hold(spawn_terms(NOBODY), launch(), NOW)
    path.chmod(0o644)
    policy.hold(spawn_terms(NOBODY), launch(), NOW)
    os.chown(path, 1, 1)
    with pytest.raises(Denied, match="belongs to uid 1"):
        policy.hold(spawn_terms(NOBODY), launch(), NOW)


def test_a_change_counts_from_the_next_launch_on(tmp_path: Path) -> None:
    policy = said(tmp_path, "")
    with pytest.raises(Denied):
        policy.hold(spawn_terms(Terms(user="daemon")), launch(), NOW)
    said(tmp_path, "min_uid = 1")
    policy.hold(spawn_terms(Terms(user="daemon")), launch(), NOW)


# ---- signatures


@pytest.fixture
def signing(tmp_path: Path) -> PolicyFile:
    signed(tmp_path)
    key = (tmp_path / "key.pub").read_text()
    return said(tmp_path, f'require_signed = true\nsigner_keys = ["{key}"]')


def test_only_what_a_known_key_signed_may_start(tmp_path: Path, signing: PolicyFile) -> None:
    signing.hold(spawn_terms(NOBODY), signed(tmp_path), NOW)
    with pytest.raises(Denied, match=r"web@abababababab is not signed.*corps sign"):
        signing.hold(spawn_terms(NOBODY), launch(), NOW)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with pytest.raises(Denied, match="not in signer_keys"):
        signing.hold(spawn_terms(NOBODY), signed(stranger), NOW)


def test_a_signature_is_for_one_artifact_and_one_content(
    tmp_path: Path, signing: PolicyFile
) -> None:
    with pytest.raises(Denied, match="for another artifact"):
        signing.hold(spawn_terms(NOBODY), signed(tmp_path, digest="cd" * 32), NOW)
    other = msgspec.structs.replace(signed(tmp_path), artifact="db")
    with pytest.raises(Denied, match="for another artifact"):
        signing.hold(spawn_terms(NOBODY), other, NOW)


def test_a_changed_signature_is_false(tmp_path: Path, signing: PolicyFile) -> None:
    good = signed(tmp_path).signature
    assert good is not None
    later = msgspec.structs.replace(good.vouched, counter=6)
    for bad in (
        msgspec.structs.replace(good, vouched=later),
        msgspec.structs.replace(good, value=bytes(64)),
    ):
        assert isinstance(bad, Signature)
        with pytest.raises(Denied, match="is false"):
            signing.hold(spawn_terms(NOBODY), msgspec.structs.replace(launch(), signature=bad), NOW)


def test_a_signature_expires(tmp_path: Path, signing: PolicyFile) -> None:
    mortal = signed(tmp_path, expires_at=NOW)
    signing.hold(spawn_terms(NOBODY), mortal, NOW)
    with pytest.raises(Denied, match="expired"):
        signing.hold(spawn_terms(NOBODY), mortal, NOW + 1)


def test_an_older_version_does_not_come_back_not_even_after_a_restart(
    tmp_path: Path, signing: PolicyFile
) -> None:
    signing.hold(spawn_terms(NOBODY), signed(tmp_path, 5), NOW)
    signing.hold(spawn_terms(NOBODY), signed(tmp_path, 7), NOW)
    again = PolicyFile(tmp_path / "signed.json", tmp_path / "policy.toml")
    for policy in (signing, again):
        with pytest.raises(Denied, match=r"older \(counter 6\).*allow_rollback"):
            policy.hold(spawn_terms(NOBODY), signed(tmp_path, 6), NOW)
        policy.hold(spawn_terms(NOBODY), signed(tmp_path, 7), NOW)
    text = (tmp_path / "policy.toml").read_text()
    said(tmp_path, f"{text}\nallow_rollback = true").hold(
        spawn_terms(NOBODY), signed(tmp_path, 6), NOW
    )


def test_a_damaged_memory_of_counters_allows_nothing(tmp_path: Path, signing: PolicyFile) -> None:
    (tmp_path / "signed.json").write_bytes(b"{")
    with pytest.raises(Denied, match="nothing may start here"):
        signing.hold(spawn_terms(NOBODY), signed(tmp_path), NOW)


def test_a_key_that_others_can_read_signs_nothing(tmp_path: Path) -> None:
    signed(tmp_path)
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(Denied, match="chmod 600"):
        signed(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "PYTHONPATH", "BASH_ENV", "NODE_OPTIONS", "LD_AUDIT"),
        "BASH_FUNC_ls%%",  # a function in place of the program of that name
        "HOME",  # Python's user site is below it, and what shells read first
        *("PERLLIB", "_JAVA_OPTIONS", "PS4", "SHELLOPTS", "ZDOTDIR", "OPENSSL_CONF", "RUBYOPT"),
    ],
)
def test_what_is_signed_gets_no_code_from_its_environment(
    tmp_path: Path, signing: PolicyFile, name: str
) -> None:
    chosen = msgspec.structs.replace(signed(tmp_path), env={name: "/tmp"})
    with pytest.raises(Denied, match=f"{name} .*allow_ld_env"):
        signing.hold(spawn_terms(NOBODY), chosen, NOW)
    harmless = msgspec.structs.replace(signed(tmp_path), env={"PORT": "80"})
    signing.hold(spawn_terms(NOBODY), harmless, NOW)
