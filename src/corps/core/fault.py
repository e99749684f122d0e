"""What the last words of a program say about its exit, as loaders and shells spell them.

exec succeeds, then the loader does not find a library and exits 127 (glibc: 1 for a version that is
missing): only the last line on stderr tells it from any other exit.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from corps.model.instance import Evidence

CODES = (1, 127)  # with which loaders and shells give up
LOADING = "error while loading shared libraries"
SIGNALS: dict[int, str] = {
    signal.SIGSEGV: "it used memory that is not its own",
    signal.SIGBUS: "it used memory that has no storage behind it: a file cut short, a full disk",
    signal.SIGABRT: "it gave up itself: abort(3), a failed assertion, a corrupted heap",
    signal.SIGFPE: "it divided by zero",
    signal.SIGILL: "an instruction that this processor does not have: built for a newer one?",
    signal.SIGSYS: "a system call that is forbidden to it",
    signal.SIGPIPE: "it wrote where nobody reads any more",
    signal.SIGXCPU: "its limit on CPU time was reached",
    signal.SIGXFSZ: "its limit on the size of a file was reached",
    signal.SIGTRAP: "a breakpoint, or a check that the compiler put in",
}

_Words = Callable[[re.Match[str], str], str]
_FAULTS: tuple[tuple[re.Pattern[str], _Words], ...] = (
    # glibc, elf/dl-load.c
    (
        re.compile(rf"{LOADING}: (\S+): cannot open shared object file: No such file"),
        lambda found, worker: _missing(found[1], worker),
    ),
    (
        re.compile(rf"{LOADING}: (\S+): wrong ELF class"),
        lambda found, worker: f"library {found[1]} is built for another machine type",
    ),
    (
        re.compile(rf"{LOADING}: (\S+): (invalid ELF header|file too short)"),
        lambda found, worker: f"library {found[1]} is damaged ({found[2]}): copy it again",
    ),
    (
        re.compile(rf"{LOADING}: (\S+): .*(failed to map|[Cc]annot allocate|Cannot create)"),
        lambda found, worker: (
            f"library {found[1]} could not be mapped: no memory within its limits"
        ),
    ),
    (
        re.compile(r"(\S+): version [`'](\S+?)' not found \(required by"),
        lambda found, worker: _old(found[1], found[2], worker),
    ),
    (
        re.compile(r"symbol lookup error: (\S+): undefined symbol: ([^\s,]+)"),
        lambda found, worker: (
            f"symbol {found[2]} that {found[1]} needs is in no library on {worker}: "
            "they are of different versions"
        ),
    ),
    # musl, ldso/dynlink.c
    (
        re.compile(r"Error loading shared library (\S+?): No such file"),
        lambda found, worker: _missing(found[1], worker),
    ),
    (
        re.compile(r"Error relocating \S+: (\S+): symbol not found"),
        lambda found, worker: (
            f"symbol {found[1]} is in no library on {worker}: they are of different versions"
        ),
    ),
    # env(1) of a `#!/usr/bin/env NAME` line, then sh(1), dash and bash
    (
        re.compile("env: [\u2018'\"]?([^\u2019'\":]+)[\u2019'\"]?: No such file"),
        lambda found, worker: f"{found[1]} is not in the PATH on {worker}: install it there",
    ),
    (
        re.compile(r"(?:^|: )([^\s:]+): (?:command )?not found$"),
        lambda found, worker: f"command {found[1]} was not found on {worker}",
    ),
)


def fault(code: int, evidence: Evidence | None, worker: str) -> str | None:
    """What the last line on stderr says of an exit with `code`, and what to do; None: nothing."""
    said = (
        [line.text for line in evidence.last_lines if line.stream == "stderr"] if evidence else []
    )
    if code not in CODES or not said:
        return None
    for pattern, words in _FAULTS:
        found = pattern.search(said[-1].rstrip())
        if found is not None and (code == 127 or "version" in pattern.pattern):
            return words(found, worker)
    return None


def hint(code: int) -> str | None:
    """What an exit code means by the convention of shells; no more than a hint."""
    if code == 126:
        return "by the convention of shells: a command was found and could not be executed"
    if code == 127:
        return "by the convention of shells: a command was not found"
    if 128 < code <= 128 + 64:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = f"signal {code - 128}"
        return f"by the convention of shells: a child of it was killed by {name}"
    return None


def _missing(library: str, worker: str) -> str:
    return f"library {library} is missing on {worker}: copy it too (--lib FILE) or install it there"


def _old(library: str, version: str, worker: str) -> str:
    name = library.rstrip(":").rpartition("/")[2]
    return (
        f"{name} on {worker} is older than the program needs ({version}): "
        f"build it on the oldest system it runs on, or update {worker}"
    )
