"""Jars as `jar` makes them, of classes that nobody looks into."""

from __future__ import annotations

import zipfile
from pathlib import Path


def a_jar(path: Path, **attributes: str) -> Path:
    """`a_jar(path, Main_Class="Hello")`: with this main section."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["Manifest-Version: 1.0"]
    for name, value in attributes.items():
        text = f"{name.replace('_', '-')}: {value}"
        lines += [text[:70], *(f" {text[at : at + 69]}" for at in range(70, len(text), 69))]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "\r\n".join(lines) + "\r\n\r\nName: other\r\n")
        archive.writestr("Hello.class", b"\xca\xfe\xba\xbe")
    return path
