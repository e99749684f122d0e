"""The C library and its loader stay at home; everything else travels."""

from __future__ import annotations

import pytest

from corps.pack.system import is_system


@pytest.mark.parametrize(
    "name",
    [
        "libc.so.6",
        "libm.so.6",
        "libmvec.so.1",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "libutil.so.1",
        "libresolv.so.2",
        "libanl.so.1",
        "libBrokenLocale.so.1",
        "libthread_db.so.1",
        "libnsl.so.1",
        "libnss_files.so.2",
        "libnss_dns.so.2",
        "libc_malloc_debug.so.0",
        "libc-2.31.so",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
        "ld-linux-armhf.so.3",
        "ld-linux.so.2",
        "ld64.so.2",
        "ld.so.1",
        "linux-vdso.so.1",
        "linux-gate.so.1",
        "ld-musl-x86_64.so.1",
        "libc.musl-x86_64.so.1",
        "libc.so",
    ],
)
def test_the_systems_libraries_stay(name: str) -> None:
    assert is_system(name)


@pytest.mark.parametrize(
    "name",
    [
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libz.so.1",
        "libssl.so.3",
        "libcrypt.so.1",
        "libnsl.so.2",
        "libnss3.so",
        "libnssutil3.so",
        "libcap.so.2",
        "libmvec2.so.1",
        "libc++.so.1",
        "libdl-extra.so",
        "mylibc.so.6",
        "libc.so.6.old",
        "/lib/libc.so.6",
        "../libc.so.6",
        "",
    ],
)
def test_all_others_travel(name: str) -> None:
    assert not is_system(name)
