"""Somebody at a port of the workers, with a certificate or without: says something, and what
comes back.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import msgspec

from corps.trust.contexts import Purpose
from corps.wire.codec import HEADER

DEADLINE_S = 20.0


def parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def call(
    address: str, purpose: Purpose, context: ssl.SSLContext | None, said: bytes
) -> list[dict[str, Any]]:
    """All messages that come back until the other end hangs up, or answers without that; without a
    context in plain text. Raise OSError when it hangs up before it says a word."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(parse(address), DEADLINE_S))
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=purpose.value))
        sock.sendall(said)
        data = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
            while piece := sock.recv(65_536):
                data += piece
                if purpose is not Purpose.CONTROL and (messages := decoded(data)):
                    return messages
        return decoded(data)


def decoded(data: bytes) -> list[dict[str, Any]]:
    """The whole frames; what follows an answer to a question for bytes is no frame."""
    messages = []
    while len(data) >= HEADER.size:
        (length,) = HEADER.unpack_from(data)
        if len(data) < HEADER.size + length:
            break
        messages.append(msgspec.msgpack.decode(data[HEADER.size : HEADER.size + length]))
        data = data[HEADER.size + length :]
        if messages[-1]["type"].startswith("sending"):
            break
    return messages


def types(messages: Sequence[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]
