"""As whom a program runs, and what it can never become again.

A child takes on its user, groups and lack of capabilities as its last step but one before exec:
credentials(7), capabilities(7).
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from typing import Any

Json = dict[str, "Any"]

LIBC = ctypes.PyDLL(None, use_errno=True)  # one that keeps the interpreter's lock: we fork
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_MAX = 6, 7, 8, 63
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, capget(2)
ID_MAX = (1 << 32) - 2  # one more is -1, with which setresuid(2) changes nothing


def _facts() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return dict(line.split(":", 1) for line in file)


HELD = int(_facts()["CapEff"], 16)
IS_SHUT = _facts()["NoNewPrivs"].strip() == "1"  # and so are all that it forks


def has(capability: int) -> bool:
    """This keeper may do what the capability is for."""
    return bool(HELD >> capability & 1)


def become(message: Json) -> None:
    """In the child, and for good: unless `new_privileges` no setuid program gives any back."""
    uid, is_shut = message["uid"], not message["new_privileges"]
    if uid is not None:
        if not all(0 <= one <= ID_MAX for one in (uid, message["gid"], *message["groups"])):
            raise OSError(errno.EINVAL, "no user or group has this number")
        if has(CAP_SETGID):
            os.setgroups(message["groups"])
            os.setresgid(*3 * (message["gid"],))
        elif os.getegid() != message["gid"]:
            raise OSError(errno.EPERM, "only root may choose a group")
        if uid and is_shut and has(CAP_SETPCAP):
            _empty_bounding_set()
        is_other = uid != os.getuid()
        os.setresuid(*3 * (uid,))
        if is_other and uid:  # not gone by themselves where the keeper is not root either
            _drop_capabilities()
    if is_shut and LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")


def _empty_bounding_set() -> None:
    for capability in range(CAP_MAX + 1):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            if ctypes.get_errno() != errno.EINVAL:
                raise OSError(ctypes.get_errno(), "bounding set")
            return  # beyond the last one that this kernel has


def _drop_capabilities() -> None:
    """Effective, permitted and inheritable; an ambient one goes with these."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    if LIBC.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")
