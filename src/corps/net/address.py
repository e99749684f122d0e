"""HOST:PORT, and whether it can be reached from elsewhere."""

from __future__ import annotations

import ipaddress
import socket

from corps.errors import Invalid


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:7077`, `[::1]:7077`, `host:7077` -> (host, port). Raise Invalid."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise Invalid(f"bad address {text[:80]!r}: write IPv6 as [::1]:7077", field="address")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port[:6]) > 65535:
        raise Invalid(
            f"bad address {text[:80]!r}: spelled HOST:PORT, port to 65535", field="address"
        )
    return host, int(port)


def format_address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Every address of `host` is on this machine only. Raise Invalid when it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Invalid(
            f"cannot find the address of {host[:80]!r}: {error}", field="address"
        ) from error
    for _, _, _, _, address in found:
        parsed = ipaddress.ip_address(str(address[0]).partition("%")[0])
        mapped = getattr(parsed, "ipv4_mapped", None)
        if not (mapped or parsed).is_loopback:
            return False
    return True
