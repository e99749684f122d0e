"""keeper, systemd: the daemons as services of a machine, each with the rights it needs."""

from __future__ import annotations

import os
import string
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import click

from corps.cli import render
from corps.cli.options import Verb, verb
from corps.daemon import write_atomically
from corps.errors import Conflict, Invalid, Unavailable
from corps.keeper.main import command

KEEPER_DIR = "/var/lib/corps-keeper"
UNITS = {"master": ("corps-master",), "worker": ("corps-keeper", "corps-worker")}
USERS = {
    "master": "u corps-master - 'corps master' /var/lib/corps-master\n",
    "worker": "u corps-keeper - 'corps keeper' /var/lib/corps-keeper\n"
    "u corps-worker - 'corps worker' /var/lib/corps-worker\n",
}
SAFE = frozenset(f"{string.ascii_letters}{string.digits}_./:=@,+-%")
PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
WHAT = click.Choice(list(UNITS))


@verb("keeper")
@click.argument("directory", metavar="[DIR]", default=KEEPER_DIR, type=click.Path())
@click.option("--for", "user", required=True, metavar="USER", help="As whom the worker runs.")
@click.option(
    "--policy", metavar="FILE", help="What may start; else /etc/corps/worker-policy.toml."
)
def keeper(directory: str, user: str, policy: str | None) -> None:
    """Run a keeper with rights for a worker that has none: 'corps worker --keeper DIR'.

    It obeys the policy, which it reads itself: a worker that was taken over does not become root.
    """
    path = Path(directory).absolute()
    try:
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"cannot use {path}: {error.strerror}") from error
    words = [*command(sys.executable, str(path)), f"--worker={user}", "--idle-s=inf"]
    if policy is not None:
        words.append(f"--policy={Path(policy).absolute()}")
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    os.execve(sys.executable, words, env)


@click.group("systemd")
def systemd() -> None:
    """Units of systemd for a master or a worker, with what they may do and no more."""


@systemd.command("print", cls=Verb)
@click.argument("what", type=WHAT)
@click.argument("words", nargs=-1, metavar="[-- OPTION...]")
def print_units(what: str, words: tuple[str, ...]) -> None:
    """Show the units: OPTION are those of 'corps master' or 'corps worker'."""
    for text in _units(what, words).values():
        render.write_lines(text.splitlines())


@systemd.command("install", cls=Verb)
@click.argument("what", type=WHAT)
@click.argument("words", nargs=-1, metavar="[-- OPTION...]")
@click.option("--root", default="/", type=click.Path(), help="Below another root directory.")
@click.option("--replace", is_flag=True, help="Also where another unit is there already.")
def install(what: str, words: tuple[str, ...], root: str, replace: bool) -> None:
    """Write the units: 'corps systemd install worker -- --master HOST:PORT'."""
    written = {f"etc/systemd/system/{name}": text for name, text in _units(what, words).items()}
    written[f"etc/sysusers.d/corps-{what}.conf"] = USERS[what]
    paths = {Path(root, path): text for path, text in written.items()}
    for path, text in paths.items():
        if not replace and path.exists() and path.read_text() != text:
            raise Conflict(f"{path} says something else: remove it, or say --replace")
    for path, text in paths.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
            path.chmod(0o644)
        except OSError as error:
            raise Unavailable(f"cannot write {path}: {error.strerror}") from error
        render.note(f"corps: {path}")
    names = " ".join(UNITS[what])
    render.note(f"corps: next 'systemd-sysusers; systemctl daemon-reload; systemctl start {names}'")
    if what == "master":
        render.note("corps: then root speaks to it by 'corps --dir /var/lib/corps-master ...'")


def _units(what: str, words: Sequence[str]) -> dict[str, str]:
    """Texts by file name; `words` go to the daemon that was asked for."""
    found = {}
    for name in UNITS[what]:
        more = words if name == f"corps-{what}" else ()
        text = (files("corps") / "units" / f"{name}.service").read_text()
        text = text.replace("@CORPS@", " ".join(map(_quoted, _corps())))
        found[f"{name}.service"] = text.replace("@WORDS@", "".join(f" {_quoted(w)}" for w in more))
    return found


def _corps() -> tuple[str, ...]:
    """This installation, whatever PATH says later."""
    return (sys.executable, "-P", "-m", "corps.cli.main")


def _quoted(word: str) -> str:
    """As systemd.service(5) takes a word apart."""
    if not word.isprintable():
        raise Invalid(f"{word!r} has a character that no unit can have", field="option")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(escaped) - SAFE else escaped
