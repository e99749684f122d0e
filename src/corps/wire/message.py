"""What every message between daemons is made of."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of what travels between daemons."""
