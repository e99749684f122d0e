"""Runs pip and the compiler of the Python that an application is built for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from corps.errors import Failed, Invalid

PIP_DEADLINE_S = 1_800
ASK_DEADLINE_S = 60
SAID_MAX_CHARS = 500
# Else pip obeys what is meant for the operator's own installations.
_PIP_ENV = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1"}
_WHO = (
    "import os, pip, sys; print('%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable))"
)


class Python:
    """An interpreter of this machine that has pip. Raise Invalid when there is none."""

    def __init__(self, wanted: str | None) -> None:
        self.program, self.version, self.binary = _with_pip(wanted)

    def install(self, words: Sequence[str], target: Path, directory: Path) -> None:
        """Raise Failed with what pip says."""
        argv = [
            self.program, "-m", "pip", "--disable-pip-version-check", "--quiet", "install",
            "--no-compile", "--no-warn-script-location", "--target", str(target), *words,
        ]  # fmt: skip
        code, said = _run(argv, directory, PIP_DEADLINE_S)
        if code:
            raise Failed(f"pip cannot install it: {_last_error(said)}")

    def compile(self, root: Path) -> None:
        """The .pyc files of all modules: a worker's tree is read-only, so it could not keep its
        own. They are never compared with their sources, whose times no worker has; and they are
        the same each time, whatever directory this is. What cannot be compiled is not meant to be:
        templates, sources for other versions."""
        argv = [
            self.program, "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash",
            "-s", str(root), *(str(path) for path in root.iterdir() if path.is_dir()),
        ]  # fmt: skip
        _run(argv, root, PIP_DEADLINE_S, {"PYTHONHASHSEED": "0"})


def _with_pip(wanted: str | None) -> tuple[str, str, str]:
    """The program, its version, and the file that it really is."""
    candidates = [wanted] if wanted else [sys.executable, "python3"]
    for candidate in candidates:
        program = shutil.which(candidate)
        if program is None:
            continue
        code, said = _run([program, "-c", _WHO], Path("/"), ASK_DEADLINE_S)
        version, _, binary = said.strip().partition(" ")
        if code == 0 and binary:
            return os.path.abspath(program), version, binary
    names = " or ".join(f"'{candidate}'" for candidate in candidates)
    raise Invalid(
        f"no pip for {names}: install it there, or name another interpreter with --python",
        field="python",
    )


def _run(
    argv: list[str], directory: Path, deadline_s: float, more: dict[str, str] | None = None
) -> tuple[int, str]:
    """Its status, and what it says; with all its children it is gone afterwards."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env={**os.environ, **_PIP_ENV, **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
        )
    except OSError as error:
        raise Invalid(f"cannot execute '{argv[0]}': {error.strerror}", field="python") from error
    try:
        said, _ = process.communicate(timeout=deadline_s)
        return process.returncode, said.decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise Failed(f"'{' '.join(argv[:3])}' took more than {deadline_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _last_error(said: str) -> str:
    """The last line that pip calls an error, else the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
    text = (errors or lines or ["it does not say why"])[-1]
    return text[:SAID_MAX_CHARS]
