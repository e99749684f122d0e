"""What apps and users wrote, made safe for a terminal.

A terminal obeys what it is shown: escape sequences, bidi overrides and zero-width characters can
hide or forge what an operator reads. Here they become visible, as `\\x1b` or `\\u202e`.
"""

from __future__ import annotations

import codecs
import re

LINE_MAX_BYTES = 64 << 10
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")
_SUSPECT_LINE = re.compile(r"[^\x20-\x7e]")
_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_FIRST_LONE_BYTE = 0xDC80  # surrogateescape, PEP 383
_LAST_LONE_BYTE = 0xDCFF


def escape(text: str) -> str:
    """`text` with everything but newline, tab and printable characters spelled out."""
    return text if text.isprintable() else _SUSPECT.sub(_spell, text)


def escape_line(text: str) -> str:
    """As `escape`, and newline and tab too: the result is one line."""
    return text if text.isprintable() else _SUSPECT_LINE.sub(_spell, text)


def escape_json(text: str) -> str:
    """JSON text, still the same JSON, with nothing a terminal would obey."""
    return text if text.isprintable() else _SUSPECT.sub(_spell_json, text)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in _SPACES


def _spell(match: re.Match[str]) -> str:
    character = match[0]
    if _is_harmless(character):
        return character
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if _FIRST_LONE_BYTE <= code <= _LAST_LONE_BYTE:
        return f"\\x{code & 0xFF:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _spell_json(match: re.Match[str]) -> str:
    if _is_harmless(match[0]):
        return match[0]
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class TerminalText:
    """The bytes of one log, cut anywhere, as text for a terminal; long lines are cut short."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._shown_bytes = 0
        self._cut_bytes = 0

    def feed(self, data: bytes) -> bytes:
        return self._show(self._decoder.decode(data))

    def end(self) -> bytes:
        """What was held back: half a character, or the marker of a cut line."""
        rest = self._show(self._decoder.decode(b"", final=True))
        return rest + self._marker()

    def _show(self, text: str) -> bytes:
        first, *others = text.split("\n")
        pieces = [self._line(first)]
        for line in others:
            pieces.append(self._marker() + b"\n")
            self._shown_bytes = 0
            pieces.append(self._line(line))
        return b"".join(pieces)

    def _line(self, text: str) -> bytes:
        data = escape(text).encode("utf-8", "backslashreplace") if text else b""
        room = LINE_MAX_BYTES - self._shown_bytes
        if len(data) <= room:
            self._shown_bytes += len(data)
            return data
        kept = data[:room].decode("utf-8", "ignore").encode()
        self._shown_bytes = LINE_MAX_BYTES
        self._cut_bytes += len(data) - len(kept)
        return kept

    def _marker(self) -> bytes:
        cut, self._cut_bytes = self._cut_bytes, 0
        return b" [cut: %d bytes of this line]" % cut if cut else b""


class PrefixedLines:
    """The bytes of one log, cut anywhere, as whole lines that begin with whose they are.

    A line longer than LINE_MAX_BYTES is broken, so that memory has a limit. `style` is what a
    terminal is told before and after what the app wrote.
    """

    def __init__(self, prefix: bytes, style: tuple[bytes, bytes] = (b"", b"")) -> None:
        self._prefix, self._style = prefix, style
        self._held = self._stamp = b""

    def feed(self, data: bytes, stamp: bytes = b"") -> bytes:
        """`stamp` stands before each line that ends in `data`."""
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > LINE_MAX_BYTES:
            lines.append(self._held)
            self._held = b""
        self._stamp = stamp
        return b"".join(map(self._line, lines))

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return self._line(held) if held else b""

    def _line(self, line: bytes) -> bytes:
        begin, end = self._style if line else (b"", b"")
        return b"%b%b%b%b%b\n" % (self._prefix, self._stamp, begin, line, end)
