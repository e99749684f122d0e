"""The policy of a machine: what its owner lets corps start there, whatever a master asks for.

A file of the machine's owner, looked at again at each launch. One that is there and cannot be
believed lets nothing start: a policy that is silently not applied is none.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import msgspec

from corps.errors import CorpsError, Denied, Invalid
from corps.model.instance import Launchable
from corps.model.name import did_you_mean
from corps.model.secret import variables_of
from corps.model.signature import check_key
from corps.model.terms import Terms, check_terms
from corps.worker.terms import SpawnTerms, User, group_number, groups_of, user_of

POLICY_PATH = Path("/etc/corps/worker-policy.toml")
MEMORY_NAME = "signed.json"
POLICY_MAX_BYTES = 1 << 20
# ld.so(8): each of these, and more to come, makes a program load code that is not its own
LOADER_PREFIX = "LD_"
# These make a shell, an interpreter or a library load code that nobody signed, or choose another
# one. There will be others: sign programs that take no code from their environment.
CODE_PREFIXES = (
    LOADER_PREFIX,
    *("BASH_FUNC_", "PYTHON", "PERL", "RUBY", "GEM_", "BUNDLE_", "NODE_", "NPM_", "npm_", "LUA"),
    *("JAVA_", "_JAVA_", "JDK_", "PHP", "TCL", "GUILE_", "ERL_", "ELIXIR_", "JULIA_", "AWK"),
    *("DOTNET_", "CORECLR_", "MONO_", "OPENSSL_", "GIT_", "XDG_", "GTK_", "GIO_", "QT_"),
    *("R_HOME", "R_LIBS", "R_PROFILE", "R_ENVIRON"),
)
CODE_NAMES = frozenset(
    [
        "PATH",
        "HOME",
        "SHELL",
        "IFS",
        "ENV",
        "BASH_ENV",
        "BASHOPTS",
        "SHELLOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "ZDOTDIR",
        "FPATH",
        "CDPATH",
        "EDITOR",
        "VISUAL",
        "PAGER",
        "LESSOPEN",
        "LESSCLOSE",
        "BROWSER",
        "CLASSPATH",
        "GCONV_PATH",
        "GETCONF_DIR",
        "GLIBC_TUNABLES",
        "LOCPATH",
        "NLSPATH",
        "TERMINFO",
        "MAGIC",
    ]
)


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says, and what holds where it says nothing. `allow_users` None: every user
    from `min_uid` on; those it names are allowed below that too, but root only by `allow_root`.
    `default_user` is who runs what a launch gives no user, and allowed.
    `allow_groups` are those a launch may ask for beyond its user's own.
    `max_*` is imposed on a launch that asks for no limit of its own."""

    allow_users: tuple[str, ...] | None = None
    min_uid: int = 1_000
    allow_root: bool = False
    allow_ld_env: bool = False
    allow_groups: tuple[str, ...] = ()
    allow_new_privileges: bool = False
    max_memory_bytes: int | None = None
    max_pids: int | None = None
    require_signed: bool = False
    signer_keys: tuple[str, ...] = ()
    allow_rollback: bool = False
    default_user: str | None = None

    def __post_init__(self) -> None:
        check_terms(Terms(user=self.default_user))
        if ":" in (self.default_user or ""):
            raise Invalid("default_user is a user without a group", field="default_user")
        for key in self.signer_keys:
            check_key(key)


class PolicyFile:
    """The policy in force now. `memory` keeps the newest counter seen of each signed artifact."""

    def __init__(
        self, memory: Path, path: Path = POLICY_PATH, *, is_required: bool = False
    ) -> None:
        self._memory, self._path, self._is_required = memory, path, is_required
        self._counters: dict[str, int] | None = None
        self._stamp: tuple[int, ...] | None = None
        self._policy: Policy | None = None

    def hold(self, terms: SpawnTerms, launch: Launchable, now: float) -> SpawnTerms:
        """The terms under which the launch may go on. Raise Denied when it may not."""
        policy = self._read()
        if policy is None:
            return terms
        _check_user(policy, user := user_of(terms))
        _check_groups(policy, user, terms)
        if terms["new_privileges"] and not policy.allow_new_privileges:
            raise Denied(_denied("--new-privileges", "allow_new_privileges"))
        if not policy.allow_ld_env:
            names = (*launch.env, *variables_of(launch.terms.secrets))
            hostile = next(
                (name for name in names if _chooses_code(name, policy.require_signed)), None
            )
            if hostile is not None:
                raise Denied(_denied(f"environment variable {hostile}", "allow_ld_env"))
        if policy.require_signed:
            self._check_signed(policy, launch, now)
        held = SpawnTerms(**terms)
        held["memory_bytes"] = _held(
            "max_memory_bytes", policy.max_memory_bytes, terms["memory_bytes"], "bytes of memory"
        )
        held["pids"] = _held("max_pids", policy.max_pids, terms["pids"], "processes")
        return held

    def default_user(self) -> str | None:
        """Raise Denied when the file cannot be applied."""
        policy = self._read()
        return None if policy is None else policy.default_user

    def _read(self) -> Policy | None:
        """None: there is no policy, so what the worker's own user may, its master may."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_ctime_ns)
                if stamp != self._stamp:
                    _check_owner(self._path, status)
                    self._policy = parse_policy(file.read(POLICY_MAX_BYTES))
                    self._stamp = stamp
        except FileNotFoundError:
            if self._is_required or os.path.lexists(self._path):
                raise Denied(self._unusable("it is not there, or a link to nothing")) from None
            return None
        except (OSError, CorpsError) as error:
            self._stamp = None
            raise Denied(self._unusable(str(error))) from error
        return self._policy

    def _check_signed(self, policy: Policy, launch: Launchable, now: float) -> None:
        from corps.signing import is_true  # noqa: PLC0415  # 40 ms that only such a policy costs

        what = f"{launch.artifact}@{launch.digest[:12]}"
        signature = launch.signature
        if signature is None:
            raise Denied(_unsigned(f"{what} is not signed: sign it with 'corps sign'"))
        vouched = signature.vouched
        if signature.key not in policy.signer_keys:
            raise Denied(_unsigned(f"{what} is signed with {signature.key}, not in signer_keys"))
        if (vouched.name, vouched.digest) != (launch.artifact, launch.digest):
            raise Denied(_unsigned(f"the signature of {what} is for another artifact"))
        if not is_true(signature):
            raise Denied(_unsigned(f"the signature of {what} is false"))
        if vouched.expires_at is not None and now > vouched.expires_at:
            raise Denied(_unsigned(f"the signature of {what} has expired: sign it again"))
        if self._counters is None:
            self._counters = self._load_counters()
        newest = self._counters.get(vouched.name, 0)
        if vouched.counter < newest and not policy.allow_rollback:
            raise Denied(
                _unsigned(f"{what} is older (counter {vouched.counter}) than what ran here")
                + f" ({newest}); allow_rollback, or sign it again"
            )
        if vouched.counter > newest:
            counters = {**self._counters, vouched.name: vouched.counter}
            self._save_counters(counters)
            self._counters = counters

    def _load_counters(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Denied(self._unusable(f"cannot read '{self._memory}': {error}")) from error

    def _save_counters(self, counters: dict[str, int]) -> None:
        """Before the launch: else the next start of the worker could go back."""
        new = self._memory.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(counters))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._memory)
        except OSError as error:
            raise Denied(self._unusable(f"cannot write '{new}': {error.strerror}")) from error

    def _unusable(self, why: str) -> str:
        return f"nothing may start here: the policy '{self._path}' cannot be applied: {why}"


def policy_file(directory: Path, named: str) -> PolicyFile:
    """That of the machine, which no flag of a worker takes away; else the one that is named."""
    memory = directory / MEMORY_NAME
    if not named or os.path.lexists(POLICY_PATH):
        return PolicyFile(memory)
    return PolicyFile(memory, Path(named).absolute(), is_required=True)


def parse_policy(data: bytes) -> Policy:
    """Raise Invalid with what is wrong and where."""
    try:
        values = tomllib.loads(data.decode())
        known = [field.name for field in msgspec.structs.fields(Policy)]
        for key in values:
            if key not in known:
                raise Invalid(f"unknown key {key!r}{did_you_mean(key, known)}", field=key)
        return msgspec.convert(values, Policy)
    except RecursionError:
        raise Invalid("it is nested too deep", field="policy") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Invalid(str(error), field="policy") from error


def _chooses_code(name: str, is_signed: bool) -> bool:
    if not is_signed:
        return name.startswith(LOADER_PREFIX)
    return name.startswith(CODE_PREFIXES) or name in CODE_NAMES


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Whoever can write it could let everything start."""
    if not stat.S_ISREG(status.st_mode):
        raise Invalid("it is no regular file", field="policy")
    if status.st_uid not in (0, os.geteuid()):
        raise Invalid(f"it belongs to uid {status.st_uid}: chown root '{path}'", field="policy")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Invalid(f"others may write it: chmod go-w '{path}'", field="policy")


def _check_user(policy: Policy, user: User) -> None:
    if user.uid == 0 and not policy.allow_root:
        raise Denied(_denied("running as root", "allow_root") + "; launch it with --user")
    if policy.default_user in (user.name, str(user.uid)):
        return
    if policy.allow_users is not None:
        if user.name not in policy.allow_users and user.uid != 0:
            raise Denied(_denied(f"user {user.name!r}", "allow_users"))
    elif 0 < user.uid < policy.min_uid:
        raise Denied(_denied(f"user {user.name!r} (uid {user.uid})", f"min_uid = {policy.min_uid}"))


def _check_groups(policy: Policy, user: User, terms: SpawnTerms) -> None:
    """Its own, as the machine has them, and those that the file names."""
    allowed = {*groups_of(user), *map(group_number, policy.allow_groups)}
    for gid in (terms["gid"], *terms["groups"]):
        if gid is not None and gid not in allowed:
            raise Denied(_denied(f"group {gid} for user {user.name!r}", "allow_groups"))


def _held(key: str, most: int | None, asked: int | None, unit: str) -> int | None:
    if most is not None and asked is not None and asked > most:
        raise Denied(_denied(f"{asked} {unit}", f"{key} = {most}"))
    return most if asked is None else asked


def _denied(what: str, rule: str) -> str:
    return f"{what} is not allowed by this worker's policy ({rule})"


def _unsigned(why: str) -> str:
    return f"this worker's policy wants signed artifacts (require_signed): {why}"
