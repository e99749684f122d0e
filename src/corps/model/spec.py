"""What may be launched: arguments, environment and directory, checked before anything happens.

Limits are the kernel's: execve(2) fails with E2BIG for a string of MAX_ARG_STRLEN (128 KiB).
"""

from __future__ import annotations

import re
import signal

from corps.errors import Invalid
from corps.model.command import ARGS_MAX, ENV_MAX, Launch
from corps.model.terms import check_restart, check_terms

ARG_MAX_BYTES = 131_071
ARGS_TOTAL_MAX_BYTES = 512 << 10
CWD_MAX_BYTES = 4_095
_LOADER = re.compile("LD_(PRELOAD|AUDIT)")


def check_launch(command: Launch) -> None:
    """Raise Invalid naming the first field that execve(2) or corps would refuse."""
    if len(command.args) > ARGS_MAX or len(command.env) > ENV_MAX:
        raise Invalid(f"more than {ARGS_MAX} arguments or {ENV_MAX} variables", field="args")
    total = 0
    for index, argument in enumerate(command.args):
        total += _size("argument", f"args[{index}]", argument)
    for name, value in command.env.items():
        _check_env_name(name)
        total += _size("variable", f"env.{name[:40]}", f"{name}={value}")
    if total > ARGS_TOTAL_MAX_BYTES:
        raise Invalid(
            f"arguments and environment have {total} bytes: at most {ARGS_TOTAL_MAX_BYTES}",
            field="args",
        )
    if command.cwd is not None:
        _check_cwd(command.cwd)
    check_terms(command.terms)
    check_restart(command.restart, command.failures_max)


def check_env_pair(text: str) -> tuple[str, str]:
    """`K=V` -> ("K", "V"); raise Invalid for anything else."""
    name, equals, value = text.partition("=")
    if not equals:
        raise Invalid(f"bad variable {text[:80]!r}: spelled NAME=VALUE", field="env")
    _check_env_name(name)
    return name, value


def parse_signal(text: str) -> int:
    """`INT`, `SIGINT` or `2` -> 2; raise Invalid with the list otherwise."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if number in {int(known) for known in signal.valid_signals()}:
        return number
    wanted = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    for known in signal.Signals:
        if known.name == wanted:
            return int(known)
    names = " ".join(sorted(known.name.removeprefix("SIG") for known in signal.Signals))
    raise Invalid(f"no signal {text[:20]!r}: one of {names}", field="signal")


def _size(noun: str, field: str, text: str) -> int:
    if "\0" in text:
        raise Invalid(f"{noun} {field} has a NUL character", field=field)
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise Invalid(f"{noun} {field} is not UTF-8", field=field) from None
    if size_bytes > ARG_MAX_BYTES:
        raise Invalid(
            f"{noun} {field} has {size_bytes} bytes: at most {ARG_MAX_BYTES}", field=field
        )
    return size_bytes + 1


def _check_env_name(name: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise Invalid(f"bad variable name {name[:80]!r}: not empty, no '=', no NUL", field="env")
    if name.startswith("CORPS_"):
        raise Invalid(f"variable {name!r} is set by corps: choose another name", field="env")
    if _LOADER.fullmatch(name):
        raise Invalid(f"variable {name!r} would load foreign code: not allowed", field="env")


def _check_cwd(cwd: str) -> None:
    if not cwd.startswith("/"):
        raise Invalid(f"directory {cwd[:80]!r} is not absolute", field="cwd")
    if _size("directory", "cwd", cwd) > CWD_MAX_BYTES + 1:
        raise Invalid(f"directory {cwd[:80]!r} has over {CWD_MAX_BYTES} bytes", field="cwd")
