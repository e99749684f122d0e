"""What a store of records can do; sqlite.py is the default one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corps.core.events import Drop, Save
from corps.core.records import Record
from corps.model.trail import TrailPage

SCHEMA_VERSION = 1


class RecordStore(Protocol):
    """Durable records. Calls block, and come from one thread at a time."""

    def load(self) -> list[Record]:
        """Every record, tables in the order of `core.records.TABLES`, oldest first.

        Of the audit trail only its head: the newest entry.
        """

    def commit(self, changes: Sequence[Save | Drop]) -> None:
        """All of them or none, durable when it returns. Raise Unavailable when it cannot be."""

    def trail(self, after: int, limit: int) -> TrailPage:
        """At most `limit` entries of the audit trail that come after number `after`."""

    def close(self) -> None: ...
