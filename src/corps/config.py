"""Settings: where state lives and which numbers hold, from flag, environment, file and default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from corps.errors import Denied, Invalid, Unavailable
from corps.model.name import did_you_mean

HEARTBEAT_MIN_S = 0.25
HEARTBEAT_MAX_S = 60.0
SAMPLE_MIN_S = 0.1
SAMPLE_MAX_S = 3_600.0
CONFIG_NAME = "corps.toml"
CURRENT = "current-context"
LOCAL = "local"  # the context of this machine's own master, which takes no login
NAMES_A_MASTER = ("dir", "server", "context")
CONFIG_MAX_BYTES = 1 << 20


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting and its default. `server` and `context` None: the master of `dir`.
    `disk_reserve_bytes` None: the smaller of 5 % of the disk and 1 GiB."""

    dir: str = ""
    server: str | None = None
    context: str | None = None
    listen: str = "127.0.0.1:7077"
    api: str | None = None  # of a master: where it serves HTTPS too
    host: str | None = None  # of a master: another name by which it is reached
    heartbeat_s: float = 1.0
    disk_reserve_bytes: int | None = None
    sample_s: float = 5.0  # of a worker: how often it samples usage, 0 for never
    keeper: str = ""  # of a worker: where a keeper with rights of its own is, if one is
    policy: str = ""  # of a worker: another policy file than that of the machine

    @property
    def state_dir(self) -> Path:
        return Path(self.dir).absolute()

    @property
    def keeper_dir(self) -> Path | None:
        return Path(self.keeper).absolute() if self.keeper else None

    @property
    def master_dir(self) -> Path:
        return self.state_dir / "master"

    @property
    def api_socket(self) -> Path:
        return self.master_dir / "api.sock"

    def worker_dir(self, name: str) -> Path:
        return self.state_dir / "workers" / name


def load_settings(**flags: str | float | None) -> Settings:
    """Flag > environment > current context > config file > default. Raise Invalid with what is
    wrong and where."""
    chosen: dict[str, Any] = {"dir": _default_dir()}
    current = {"context": current_context()}
    for layer in (_from_file(), current, _from_environment(), flags):
        given = {field: value for field, value in layer.items() if value is not None}
        if any(field in given for field in NAMES_A_MASTER):
            chosen.update(server=None, context=None)  # the stronger layer means its own master
        if "server" in given and "context" in given:
            raise Invalid("both a server and a context: give one of them", field="server")
        chosen.update(given)
    try:
        settings = msgspec.convert(chosen, Settings)
    except msgspec.ValidationError as error:
        raise Invalid(f"bad setting: {error}", field="config") from error
    if not HEARTBEAT_MIN_S <= settings.heartbeat_s <= HEARTBEAT_MAX_S:
        raise Invalid(
            f"heartbeat_s is {settings.heartbeat_s}: from {HEARTBEAT_MIN_S} to {HEARTBEAT_MAX_S}",
            field="heartbeat_s",
        )
    if settings.disk_reserve_bytes is not None and settings.disk_reserve_bytes < 0:
        raise Invalid("disk_reserve_bytes is below 0", field="disk_reserve_bytes")
    if settings.sample_s != 0 and not SAMPLE_MIN_S <= settings.sample_s <= SAMPLE_MAX_S:
        raise Invalid(
            f"sample_s is {settings.sample_s}: 0, or from {SAMPLE_MIN_S} to {SAMPLE_MAX_S}",
            field="sample_s",
        )
    if "\0" in settings.dir:
        raise Invalid("the state directory has a NUL character", field="dir")
    return settings


def config_dir() -> Path:
    """Of the user: `corps.toml`, and what `corps login` keeps."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "corps"


def current_context() -> str | None:
    """That of `corps login` or `corps context use`; None: this machine's own master."""
    path = config_dir() / CURRENT
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read {path}: {error}", field="context") from error


def set_current_context(name: str | None) -> None:
    path = config_dir() / CURRENT
    try:
        if name is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f".{CURRENT}.new")
        new.write_text(f"{name}\n", encoding="utf-8")
        new.rename(path)
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from error


def _default_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/corps"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{base}/corps"


def _from_environment() -> dict[str, str | None]:
    return {
        "dir": os.environ.get("CORPS_DIR") or None,
        "server": os.environ.get("CORPS_SERVER") or None,
        "context": os.environ.get("CORPS_CONTEXT") or None,
    }


def _config_paths() -> list[Path]:
    return [config_dir() / CONFIG_NAME, Path("/etc/corps") / CONFIG_NAME]


def _check_ours(path: Path, status: os.stat_result) -> None:
    """It says which master we talk to: nobody else may write it."""
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise Denied(f"{path} can be written by others: it must be yours, and chmod go-w")


def _from_file() -> dict[str, Any]:
    path = next((path for path in _config_paths() if path.is_file()), None)
    if path is None:
        return {}
    import tomllib  # noqa: PLC0415  # 5 ms that only a file costs

    try:
        with path.open("rb") as file:
            _check_ours(path, os.fstat(file.fileno()))
            values = tomllib.loads(file.read(CONFIG_MAX_BYTES).decode())
    except RecursionError:
        raise Invalid(f"cannot read {path}: it is nested too deep", field="config") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"cannot read {path}: {error}", field="config") from error
    known = [field.name for field in msgspec.structs.fields(Settings)]
    for key in values:
        if key not in known:
            raise Invalid(f"{path}: unknown key {key!r}{did_you_mean(key, known)}", field=key)
    return values
