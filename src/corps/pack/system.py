"""Which libraries are the system's, and so never travel: the C library and its loader, whole.

The loader, libc and the libraries built with it are one program in pieces: they agree on private
symbols (GLIBC_PRIVATE) and on thread-local layout, so a libc of one machine under the loader of
another crashes before main. Every Linux machine has its own set. That set is, of glibc (its
NEWS and shlib-versions): libc, libm, libmvec, libpthread, libdl, librt, libutil, libresolv,
libanl, libBrokenLocale, libthread_db, libnsl.so.1, the libnss_* plug-ins, libc_malloc_debug and
the loaders ld-linux*, ld64 and ld.so; what the kernel maps by itself (linux-vdso, linux-gate); and
musl's, which is one file under the names ld-musl-*, libc.musl-* and libc.so.

Everything else travels, also what is on nearly every machine (libstdc++, libgcc_s, libz, libssl,
libcrypt, libnsl.so.2): its versions differ between machines, and it is at home with any libc that
is not older than the one it was linked with.
"""

from __future__ import annotations

import re

_GLIBC = "c|m|mvec|pthread|dl|rt|util|resolv|anl|BrokenLocale|thread_db|c_malloc_debug"
_SYSTEM = re.compile(
    rf"lib(?:{_GLIBC})(?:-[0-9.]+)?\.so(?:\.[0-9]+)*"
    r"|libnsl\.so\.1|libnss_[a-z0-9_]+(?:-[0-9.]+)?\.so(?:\.[0-9]+)*"
    r"|ld(?:-linux[a-z0-9_.-]*|64|-[0-9.]+)?\.so(?:\.[0-9]+)*"
    r"|linux-(?:vdso(?:32|64)?|gate)\.so\.1"
    r"|ld-musl-[a-z0-9_-]+\.so\.1|libc\.musl-[a-z0-9_-]+\.so\.1"
)


def is_system(name: str) -> bool:
    """Is the library of this name, as DT_NEEDED spells it, the system's? A path never is."""
    return _SYSTEM.fullmatch(name) is not None
