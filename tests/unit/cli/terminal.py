"""A program on a pseudo-terminal: what a person would see and type."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from types import TracebackType

from corps.clock import Clock

READ_BYTES = 65_536
_PIECE = re.compile(
    r"\x1b\[(?P<count>[0-9]*)(?P<kind>[A-DJK])|\x1b\[[?0-9;]*[a-zA-Z]|\x1b.|(?P<character>.)",
    re.DOTALL,
)


class Terminal:
    """Everything the program wrote is in `seen`, as bytes."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], columns: int = 120, rows: int = 50
    ) -> None:
        self._fd, far_end = pty.openpty()
        fcntl.ioctl(far_end, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.seen = b""
        self._looked = 0
        self._clock = Clock()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # its controlling terminal: ^C is SIGINT
            stdin=far_end,
            stdout=far_end,
            stderr=far_end,
            env={"TERM": "xterm-256color", **env},
        )
        os.close(far_end)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._fd)

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, text: str, deadline_s: float = 20.0) -> bytes:
        """Read until `text` comes after what was expected before; all up to its end."""
        wanted = text.encode()
        end = self._clock() + deadline_s
        while (at := self.seen.find(wanted, self._looked)) < 0:
            if not self._read(end - self._clock()):
                raise AssertionError(f"no {text!r} in {self.seen[self._looked :]!r}")
        begin, self._looked = self._looked, at + len(wanted)
        return self.seen[begin : self._looked]

    def expect_line(self, line: str, deadline_s: float = 20.0) -> None:
        """Read until the cursor stands behind `line`, however it was drawn."""
        end = self._clock() + deadline_s
        while (drawn := cursor_line(self.seen)) != line:
            if not self._read(end - self._clock()):
                raise AssertionError(f"{drawn!r}, not {line!r}")

    def wait(self, deadline_s: float = 30.0) -> int:
        """Read to the end; the exit status."""
        end = self._clock() + deadline_s
        while self._read(end - self._clock()):
            pass
        return self.process.wait(max(0.1, end - self._clock()))

    def _read(self, seconds: float) -> bool:
        """False at the end, or when nothing came in time."""
        ready, _, _ = select.select([self._fd], [], [], max(0.0, seconds))
        if not ready:
            return False
        with contextlib.suppress(OSError):  # EIO: the last writer is gone
            data = os.read(self._fd, READ_BYTES)
            self.seen += data
            return bool(data)
        return False


def cursor_line(output: bytes) -> str:
    """The line left of the cursor, on a terminal of endless height that was given `output`."""
    row = column = 0
    cells: dict[tuple[int, int], str] = {}
    for match in _PIECE.finditer(output.decode(errors="ignore")):
        count, kind = int(match["count"] or 1), match["kind"]
        character = match["character"]
        if kind in ("C", "D"):
            column = max(0, column + (count if kind == "C" else -count))
        elif kind in ("A", "B"):
            row += count if kind == "B" else -count
        elif kind in ("J", "K"):
            gone = [at for at in cells if at >= (row, column) and (kind == "J" or at[0] == row)]
            for at in gone:
                del cells[at]
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        elif character == "\b":
            column -= 1
        elif character and character >= " ":
            cells[row, column] = character
            column += 1
    return "".join(cells.get((row, at), " ") for at in range(column))
