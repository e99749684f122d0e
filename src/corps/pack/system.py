"""Which libraries are the machine's, and so do not travel: the policy (docs/libraries.md, ADR 18).

**The C library and its loader, whole.** They are one program in pieces: they agree on private
symbols (GLIBC_PRIVATE) and on thread-local layout, so a libc of one machine under the loader of
another crashes before main. Of glibc (its NEWS and shlib-versions): libc, libm, libmvec,
libpthread, libdl, librt, libutil, libresolv, libanl, libBrokenLocale, libthread_db, libnsl.so.1,
the libnss_* plug-ins, libc_malloc_debug and the loaders ld-linux*, ld64 and ld.so; what the kernel
maps by itself (linux-vdso, linux-gate); and musl's, which is one file under the names ld-musl-*,
libc.musl-* and libc.so.

**What belongs to the graphics driver.** It must fit the kernel's module and the card: the GL and
EGL dispatchers with the drivers behind them (libGL, libEGL, libGLX*, libOpenGL, libGLES*, libglapi,
libgbm), Vulkan's loader, and what NVIDIA's driver brings (libcuda, libnvidia-*, libnvcuvid,
libnvoptix, libcudadebugger, libvdpau_nvidia).

The manylinux policies of auditwheel keep both at home too, and moreover libstdc++, libgcc_s, X11
and glib, which they can count on. A worker need not have them, and they are at home with any C
library that is not older than the one they were linked with: so they travel, like all others.
"""

from __future__ import annotations

import re

C_LIBRARY = "part of the C library, which each machine has"
GRAPHICS = "part of the machine's graphics driver"
_GLIBC = "c|m|mvec|pthread|dl|rt|util|resolv|anl|BrokenLocale|thread_db|c_malloc_debug"
_SYSTEM = re.compile(
    rf"lib(?:{_GLIBC})(?:-[0-9.]+)?\.so(?:\.[0-9]+)*"
    r"|libnsl\.so\.1|libnss_[a-z0-9_]+(?:-[0-9.]+)?\.so(?:\.[0-9]+)*"
    r"|ld(?:-linux[a-z0-9_.-]*|64|-[0-9.]+)?\.so(?:\.[0-9]+)*"
    r"|linux-(?:vdso(?:32|64)?|gate)\.so\.1"
)
_MUSL = re.compile(r"ld-musl-[a-z0-9_-]+\.so\.1|libc\.musl-[a-z0-9_-]+\.so\.1|libc\.so")
_GRAPHICS = re.compile(
    r"lib(?:GL|EGL|GLX|OpenGL|GLdispatch|GLESv1_CM|GLESv2|(?:GLX|EGL)_[A-Za-z0-9-]+|glapi|gbm"
    r"|vulkan|cuda|cudadebugger|nvcuvid|nvoptix|nvidia-[A-Za-z0-9_-]+|vdpau_nvidia)"
    r"\.so(?:\.[0-9]+)*"
)


def owner_of(name: str) -> str | None:
    """Why the library of this name, as DT_NEEDED spells it, is the machine's; a path never is."""
    if _SYSTEM.fullmatch(name) or is_musl(name):
        return C_LIBRARY
    return GRAPHICS if _GRAPHICS.fullmatch(name) else None


def is_system(name: str) -> bool:
    return owner_of(name) is not None


def is_musl(name: str) -> bool:
    """`libc.so` is musl's: glibc's file of that name is a text for the linker."""
    return _MUSL.fullmatch(name) is not None
