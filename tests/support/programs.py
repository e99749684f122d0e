"""The C programs of `programs/`, compiled where a test wants them."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "programs"


def build(name: str, directory: Path) -> Path:
    """`directory`/`name`, made of `programs/name.c`."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    if not program.exists():
        source = str(SOURCES / f"{name}.c")
        flags = ("-O1", "-Wall", "-Wextra", "-Werror")
        subprocess.run(["cc", *flags, "-o", str(program), source], check=True)
    return program
