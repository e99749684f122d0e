"""What the packed files do not say by themselves: who starts them, and what goes with them."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """`runner` and `python` as in the manifest, `programs` beside the runner; `beside` are files
    that go along, by their path inside; `objects` are ELF files of the tree that are loaded while
    it runs; `modes` its files had before they came here; `warnings` were found before."""

    runner: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    python: str | None = None
    beside: tuple[tuple[str, Path], ...] = ()
    objects: tuple[Path, ...] = ()
    modes: dict[str, int] = {}
    warnings: tuple[str, ...] = ()

    @property
    def all_programs(self) -> tuple[str, ...]:
        return (*self.runner[:1], *self.programs)


PLAIN = Form()
