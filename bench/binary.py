"""A large program of which one function changes: what a new build of a real program looks like.

The function is in the middle and grows: all code behind it moves, and with it every call across it,
every reference from code to data, every entry of the tables of pointers to functions.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

UNITS = 2
FUNCTIONS = 5_000
STATEMENTS = 24
CALLS = 3
HELPERS = 16
LINKED_SHARE = 0.8  # of the bytes of an object file; the rest are relocations


def build(directory: Path, size_bytes: int) -> tuple[Path, Path]:
    """Two builds of it, of about that size."""
    directory.mkdir()
    rng = random.Random(4)
    units = [directory / f"unit{number}.c" for number in range(UNITS)]
    for number, unit in enumerate(units):
        unit.write_text(_unit(rng, number))
    changed = directory / "changed.c"
    changed.write_text(
        units[0].read_text().replace("/* here */", "a ^= b * 77; b += a >> 3; a -= b << 5;")
    )
    helpers = directory / "helpers.c"
    helpers.write_text("".join(_helper(number) for number in range(HELPERS)))
    help_object, altered, *whole = _compile([helpers, changed, *units])
    unit_bytes = sum(path.stat().st_size for path in whole) * LINKED_SHARE
    copies = max(1, round(size_bytes / unit_bytes))
    parts = [_renamed(path, number) for number in range(copies) for path in whole]
    middle = copies // 2
    others = [*parts]
    others[middle * UNITS] = _renamed(altered, middle)
    main = directory / "main.c"
    main.write_text(_main(copies))
    (last,) = _compile([main])
    names = [(number, helper) for number in range(copies) for helper in range(HELPERS)]
    flags = [f"-Wl,--defsym=c{number}_help{helper}=help{helper}" for number, helper in names]
    old, new = directory / "old", directory / "new"
    for target, linked in ((old, parts), (new, others)):
        objects = map(str, (help_object, *linked, last))
        subprocess.run(["cc", "-o", str(target), *flags, *objects], check=True)
    return old, new


def _helper(number: int) -> str:
    return (
        f"unsigned long help{number}(unsigned long a) {{ return a * {number + 3}UL ^ a >> 7; }}\n"
    )


def _main(copies: int) -> str:
    names = [f"c{number}_u{unit}_f0" for number in range(copies) for unit in range(UNITS)]
    lines = [f"unsigned long {name}(unsigned long, unsigned long);" for name in names]
    lines += ["int main(int argc, char **argv) { unsigned long a = argc; (void)argv;"]
    lines += ["if (argc < 2) return 0;"]
    lines += [f"a += {name}(a, {number});" for number, name in enumerate(names)]
    return "\n".join([*lines, "return (int)(a & 1); }\n"])


def _unit(rng: random.Random, unit: int) -> str:
    """Functions that calculate and call one another, and a table of pointers to all of them."""
    names = [f"u{unit}_f{number}" for number in range(FUNCTIONS)]
    lines = [f"unsigned long {name}(unsigned long, unsigned long);" for name in names]
    lines += [f"unsigned long help{number}(unsigned long);" for number in range(HELPERS)]
    lines += [f"unsigned long u{unit}_seen[{FUNCTIONS}] = {{1}};"]
    for number, name in enumerate(names):
        lines += [f"unsigned long {name}(unsigned long a, unsigned long b) {{"]
        lines += ["/* here */"] if number == FUNCTIONS // 2 else []
        lines += [_statement(rng) for _ in range(STATEMENTS)]
        for _ in range(CALLS):
            lines += [f"if (b & {1 << rng.randrange(16)}) a += {rng.choice(names)}(b, a);"]
        lines += [f"u{unit}_seen[{number}] += help{rng.randrange(HELPERS)}(a);"]
        lines += ["return a + b; }"]
    table = f"unsigned long (*u{unit}_table[])(unsigned long, unsigned long) = "
    return "\n".join([*lines, f"{table}{{{','.join(names)}}};\n"])


def _statement(rng: random.Random) -> str:
    left, right = rng.sample("ab", 2)
    number = rng.getrandbits(rng.choice((4, 8, 31)))
    shifted = f"({right} {rng.choice(('<<', '>>'))} {rng.randrange(1, 60)})"
    return f"{left} = ({left} {rng.choice('+-^*|')} {number}UL) ^ {shifted};"


def _compile(sources: Sequence[Path]) -> list[Path]:
    """All at once."""
    objects = [source.with_suffix(".o") for source in sources]
    begun = [
        subprocess.Popen(["cc", "-O1", "-w", "-fPIE", "-c", "-o", str(target), str(source)])
        for source, target in zip(sources, objects, strict=True)
    ]
    statuses = [process.wait() for process in begun]
    if any(statuses):
        raise RuntimeError("cc failed")
    return objects


def _renamed(source: Path, number: int) -> Path:
    """The same code under other names, farther away than a compressor looks back."""
    target = source.with_name(f"{source.stem}-{number}.o")
    words = ["objcopy", f"--prefix-symbols=c{number}_", str(source), str(target)]
    subprocess.run(words, check=True)
    return target
