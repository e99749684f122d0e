"""What a terminal would obey never reaches it, whoever wrote it and whichever command shows it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from corps.model.finding import Drift, Finding
from corps.model.instance import Evidence, Exited, InstanceState, LogLine, Survivor
from corps.model.worker import Facts
from corps.wire.drift import Checked, Verified, Verify
from corps.wire.output import Note
from corps.wire.probe import Probe, Probed
from corps.wire.worker import (
    Changed,
    FromWorker,
    Install,
    Installed,
    Noted,
    Report,
    Start,
    ToWorker,
)
from tests.attack.impostor import NAME, Impostor, a_hello
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import until
from tests.unit.cli.terminal import Terminal

TITLE = "\x1b]0;OWNED\x07"
CURSOR = "\x1b[2J\x1b[1;1H"
EIGHT_BIT = "\x9b31mOWNED"
BIDI = "OWNED\u202etxt.exe\u2066"
BACK = "harmless\rOWNED\b\b"
EVIL = f"OWNED{TITLE}{CURSOR}{EIGHT_BIT}{BIDI}{BACK}\u200b\x00\nweb.9 | OWNED"
SHELL = "printf '%s' \"$1\"; printf '%s' \"$1\" >&2; exit 3"
OBEYED = re.compile(
    r"\x1b\][0-9]|\x1b\[2J|\x1b\[1;1H|[\x00\x07\x08\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]"
)
LOOK = "OWNED"
COMMANDS: dict[str, list[str]] = {
    "workers": ["workers"],
    "artifacts": ["artifacts"],
    "ps": ["ps", "-a"],
    "why evil": ["why", "evil"],
    "why sh": ["why", "sh"],
    "logs": ["logs", "sh", "-t"],
    "logs of many": ["logs", "--all"],
    "events": ["events"],
    "audit": ["audit"],
    "audit trail": ["audit", "trail"],
    "usage": ["usage"],
    "check": ["check", "/bin/false", "--on", "evil"],
    "progress": ["progress"],
    "drift": ["artifacts", "verify"],
    "an error": ["why", EVIL.replace("\x00", "")],
    "an option's error": ["ps", f"--{EVIL}".replace("\x00", "")],
    "a worker's error": ["launch", "sh", "--on", EVIL.replace("\x00", "")],
}
FORMATS = ("wide", "json")


def obey(message: ToWorker) -> Sequence[FromWorker]:
    """Whatever is launched: it ran, it died, and here is all that can be said of it."""
    if isinstance(message, Install):
        return (
            Installed(
                digest=message.digest,
                bytes_sent=1,
                bytes_total=1,
                files_sent=1,
                files_total=1,
                seconds=0.1,
            ),
        )
    if isinstance(message, Probe):
        problems = (EVIL,) if message.check.name == "false" else ()
        return (Probed(ask=message.ask, digest=message.check.digest, problems=problems),)
    if isinstance(message, Verify):
        found = (Finding(drift=Drift.EDITED, path=EVIL, text=EVIL),)
        checks = tuple(Checked(digest=one, findings=found) for one in message.digests)
        return (Verified(ask=message.ask, checks=checks, is_last=True),)
    if not isinstance(message, Start):
        return ()
    evidence = Evidence(
        seen_at=1.0,
        argv=(EVIL, EVIL),
        last_lines=(LogLine(stream="stdout", text=EVIL), LogLine(stream=EVIL, text=EVIL)),
        oom=EVIL,
        limit=EVIL,
        survivors=(Survivor(pid=7, command=EVIL),),
    )
    running = Report(
        key=message.key,
        digest=message.launch.digest,
        state=InstanceState.RUNNING,
        pid=7,
        started_at=1.0,
        enforced={EVIL: EVIL},
    )
    dead = msgspec.structs.replace(
        running,
        state=InstanceState.DEAD,
        ended_at=2.0,
        death=Exited(code=0),
        evidence=evidence,
    )
    note = Note(kind=EVIL, subject=None, message=EVIL)
    return (Changed(reports=(running,)), Noted(notes=(note,)), Changed(reports=(dead,)))


@pytest.fixture(scope="module")
def ugly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster in which everything that somebody else can name has such a name."""
    with cluster(tmp_path_factory.mktemp("ugly"), "w1") as made:
        host, _, port = made.address.rpartition(":")
        sock = socket.create_connection((host, int(port)))
        facts = Facts(machine=EVIL, kernel=EVIL, libc=EVIL)
        hello = a_hello(NAME, version=EVIL, labels={"zone": "a"}, boot_id=EVIL, facts=facts)
        with Impostor(sock, hello, obey) as impostor:
            until(lambda: any(w.name == NAME for w in made.client.workers()))
            made.copy("/bin/sh", "--name", "sh", "--to", "w1")
            made.copy("/bin/true", "--name", "evil", "--to", NAME)
            words = EVIL.replace("\x00", "")
            env = {"EVIL": words}
            dead = made.launch_one("sh", "-c", SHELL, "sh", words, on="w1", env=env)
            made.wait_dead(dead.id)
            made.corps("launch", "evil", "--on", NAME, "--", words, check=False)
            made.wait_dead("evil.1")
            tree = made.directory / "tree"
            tree.mkdir()
            (tree / words.replace("/", "_")).write_text("x")
            (tree / "start").write_bytes(Path("/bin/true").read_bytes())
            (tree / "start").chmod(0o755)
            made.corps("copy", str(tree), "--entry", "start", "--to", "w1", check=False)
            assert not impostor.is_cut
            yield made


def shown(ugly: Cluster, *words: str) -> str:
    """All that a person's terminal would get."""
    env = {**os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}
    with Terminal(ugly.command(*words), env) as terminal:
        terminal.wait()
        return terminal.seen.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS.keys())
def test_no_command_shows_what_a_terminal_obeys(ugly: Cluster, words: list[str]) -> None:
    seen = shown(ugly, *words)
    found = OBEYED.search(seen)
    assert found is None, seen[max(0, found.start() - 100) : found.end() + 100]
    assert "\r" not in seen.replace("\r\x1b[K", "")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("words", [["workers"], ["ps", "-a"], ["events"]], ids=str)
def test_nor_does_any_format(ugly: Cluster, words: list[str], form: str) -> None:
    seen = shown(ugly, *words, "-o", form)
    assert OBEYED.search(seen) is None, seen


def test_it_is_shown_all_the_same(ugly: Cluster) -> None:
    for words in (
        ["logs", "sh"],
        ["why", "evil"],
        ["workers", "-o", "wide"],
        ["artifacts", "verify"],
    ):
        assert LOOK in shown(ugly, *words), words
    assert r"\x1b]0;OWNED\x07" in shown(ugly, "logs", "sh")
