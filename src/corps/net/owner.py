"""Whose process is at the other end of a TCP connection on this machine, as the kernel says.

Asked of sock_diag(7) for that one socket; where a kernel has no inet_diag, of /proc/net/tcp.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import NamedTuple, TypeAlias

ESTABLISHED = 1
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NETLINK_SOCK_DIAG = 4
NO_COOKIE = 0xFFFFFFFF
ANSWER_BYTES = 4_096
KERNEL_S = 1.0
TABLES = Path("/proc/net")
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_WHICH = struct.Struct(">HH16s16s")  # of inet_diag_sockid, which goes on with "=III"
_ASKED = struct.Struct("=BBBxI")  # of inet_diag_req_v2, which goes on with the id
_FOUND = struct.Struct("=BB2x48x4xIIII")  # inet_diag_msg: family, state, queues, uid, inode

Address: TypeAlias = tuple[str, int]


class _Found(NamedTuple):
    state: int
    uid: int
    inode: int


def owner_of(sock: socket.socket) -> int | None:
    """The uid that made the peer's socket; None when it is not there any more.

    A socket that its process has closed has no owner: the kernel would say root. Nor has another
    one that took its port since: then ours is no longer established when the answer is there.
    """
    try:
        ours, peers = sock.getsockname()[:2], sock.getpeername()[:2]
        try:
            found: _Found | None = _ask_kernel(sock.family, peers, ours)
        except OSError:
            found = read_table(peers, ours)
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return None
    if found is None or found.state != ESTABLISHED or not found.inode or state != ESTABLISHED:
        return None
    return found.uid


def is_trusted(uid: int | None) -> bool:
    """Root, or who runs this process."""
    return uid in (0, os.geteuid())


def _ask_kernel(family: int, near: Address, far: Address) -> _Found:
    """The socket from `near` to `far`. Raise OSError: none, or this kernel does not answer."""
    which = _WHICH.pack(near[1], far[1], _packed(near), _packed(far))
    which += struct.pack("=III", 0, NO_COOKIE, NO_COOKIE)
    body = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 1 << ESTABLISHED) + which
    head = _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(KERNEL_S)
        kernel.send(head + body)
        answer = kernel.recv(ANSWER_BYTES)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        raise OSError("no such socket, or no inet_diag")
    _, state, _, _, uid, inode = _FOUND.unpack_from(answer, _HEADER.size)
    return _Found(state, uid, inode)


def read_table(near: Address, far: Address, directory: Path = TABLES) -> _Found | None:
    """The same, from the tables of all sockets: slow where there are many."""
    for name, mapping in (("tcp", ""), ("tcp6", "::ffff:")):
        try:
            wanted = [_spelled(near, mapping), _spelled(far, mapping)]
        except OSError:
            continue  # an address of the other family
        with (directory / name).open() as table:
            for line in table:
                words = line.split()
                if words[1:3] == wanted:
                    return _Found(int(words[3], 16), int(words[7]), int(words[9]))
    return None


def _packed(address: Address) -> bytes:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return socket.inet_pton(family, address[0]).ljust(16, b"\0")


def _spelled(address: Address, mapping: str) -> str:
    """As in /proc/net/tcp, or with a `mapping` as in tcp6: words of the machine's byte order."""
    is_long = ":" in address[0]
    family = socket.AF_INET6 if mapping else socket.AF_INET
    packed = socket.inet_pton(family, address[0] if is_long else mapping + address[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"
