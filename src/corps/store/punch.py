"""Giving the head of a file back to its filesystem while somebody appends to it."""

from __future__ import annotations

import ctypes
import errno
import os

KEEP_SIZE, PUNCH_HOLE = 1, 2  # fallocate(2)
CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch(fd: int, offset: int, size_bytes: int) -> bool:
    """Free these bytes of a file; its offsets stay. False: its filesystem cannot. Raise OSError."""
    while _libc.fallocate64(fd, PUNCH_HOLE | KEEP_SIZE, offset, size_bytes):
        number = ctypes.get_errno()
        if number in CANNOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
