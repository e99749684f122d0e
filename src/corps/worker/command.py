"""What is executed for a launch, with which words and in which environment."""

from __future__ import annotations

import os
import stat

from corps.model.instance import Launchable
from corps.model.name import AttemptKey, split_attempt_key, split_instance_id
from corps.store.trees import LaunchPaths

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(
    key: AttemptKey, launch: Launchable, paths: LaunchPaths, user: dict[str, str], worker: str
) -> dict[str, str]:
    """From empty: what every program may expect, what was asked for, and who it is."""
    instance, attempt = split_attempt_key(key)
    app, _ = split_instance_id(instance) or (instance, 0)
    env = {"PATH": PATH, "LANG": "C.UTF-8", **user, **launch.env}
    if paths.library_path:
        own = launch.env.get("LD_LIBRARY_PATH")
        env["LD_LIBRARY_PATH"] = f"{paths.library_path}:{own}" if own else paths.library_path
    return {
        **env,
        "CORPS_APP": app,
        "CORPS_INSTANCE": instance,
        "CORPS_ATTEMPT": key,
        "CORPS_ATTEMPT_NUMBER": str(attempt),
        "CORPS_WORKER": worker,
    }


def command(
    paths: LaunchPaths, runner: tuple[str, ...], args: tuple[str, ...], path: str
) -> tuple[str, ...]:
    """argv: the entry, or the runner with the entry behind its own words. The first word is what
    is executed: a full path, unless no directory of `path` has the runner."""
    if not runner:
        return (paths.entry_path, *args)
    program, *words = runner
    return (_looked_up(program, path) or program, *words, paths.entry_path, *args)


def is_found(argv: tuple[str, ...]) -> bool:
    return argv[0].startswith("/")


def no_runner(argv: tuple[str, ...], paths: LaunchPaths, path: str) -> str:
    """As `diagnose` would say it, of a name."""
    return (
        f"cannot execute {os.path.basename(paths.entry_path)!r}: its runner {argv[0]!r} is in no "
        f"directory of PATH ({path!r}) on this worker: install it there, or say where it is with "
        "--env PATH=..."
    )


def _looked_up(program: str, path: str) -> str | None:
    """As execvp(3) does, but never from the working directory."""
    if "/" in program:
        return program
    for directory in path.split(":"):
        candidate = f"{directory}/{program}"
        if directory.startswith("/") and _is_program(candidate):
            return candidate
    return None


def _is_program(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
