"""A machine with next to nothing on it: the root of a worker that only its own Python can live in.

    lib.../           the C library's family, and what the Python of the keeper needs
    opt/corps/        what the daemon's Python needs besides: found by its LD_LIBRARY_PATH, which no
                      app inherits
    where they are    this Python, this virtual environment, the source: bound, read-only
    dev proc sys      as far as a program may expect them

A mount namespace and chroot(2): nothing of it is seen from outside, and it ends with its last
process. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import corps
from corps.pack.system import is_system

DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
PRIVATE = "opt/corps"
ETC = {
    "passwd": "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
}
ENTER = """
set -e
root=$1; work=$2; shift 2
while [ "$1" != -- ]; do mount -o bind,ro "$1" "$root$1"; shift; done
shift
mount --bind "$work" "$root$work"
for device in DEVICES; do mount --bind "$device" "$root$device"; done
mount --rbind /proc "$root/proc"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
export LD_LIBRARY_PATH=/PRIVATE
exec chroot "$root" "$@"
""".replace("DEVICES", " ".join(DEVICES)).replace("PRIVATE", PRIVATE)
_FOUND = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x", re.MULTILINE)


class BareRoot:
    """One root below `directory`, for as many workers as wanted."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self._bound = (sys.prefix, sysconfig.get_path("stdlib"), _source())
        for name in ("dev", "etc", "proc", "sys/fs/cgroup", "tmp", "var", PRIVATE):
            (self.path / name).mkdir(parents=True)
        (self.path / "tmp").chmod(0o1777)
        for name, text in ETC.items():
            (self.path / "etc" / name).write_text(text)
        for device in DEVICES:
            self._at(device).touch()
        for bound in self._bound:
            self._at(bound).mkdir(parents=True, exist_ok=True)
        self._add_python()

    def add_program(self, path: str) -> None:
        """A program of this machine and what it needs, at their own places."""
        self._place(path)
        for library in libraries(path).values():
            self._place(library)

    def add_python(self) -> None:
        """The interpreter under the name that scripts ask for."""
        link = self._at("/usr/bin/python3")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.realpath(sys.executable))

    def prefix(self, work: Path) -> list[str]:
        """Runs a command in this root, which shares the directory `work` with the machine."""
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._at(str(work)).mkdir(parents=True, exist_ok=True)
        places = [str(self.path), str(work), *self._bound]
        return ["unshare", "-m", "sh", "-c", ENTER, "sh", *places, "--"]

    def lacking(self, program: Path | str) -> set[str]:
        """The libraries that `program` loads on this machine and would not find in this root."""
        here = {path.name for path in self.path.glob("lib*/**/*.so*")}
        here |= {path.name for path in self.path.glob("usr/lib*/**/*.so*")}
        return set(libraries(program)) - here

    def _add_python(self) -> None:
        """The interpreter by all of its names, what it loads, and for the daemon all the rest."""
        path = sys.executable
        while os.path.islink(path):
            target = os.path.join(os.path.dirname(path), os.readlink(path))
            if not path.startswith(sys.prefix + os.sep):
                self._at(path).parent.mkdir(parents=True, exist_ok=True)
                self._at(path).symlink_to(os.readlink(path))
            path = target
        self._place(path)
        modules = Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*.so")
        packages = Path(sysconfig.get_path("platlib")).rglob("*.so*")
        public = libraries(path, *_mapped_by_keeper())
        for name, library in libraries(*modules, *packages).items():
            if is_system(name):
                public[name] = library
            elif name not in public:
                shutil.copy(library, self.path / PRIVATE / name)
        for library in public.values():
            self._place(library)

    def _place(self, path: str) -> None:
        """Copy a file to its own place, without the links that lead there on this machine."""
        if not any(path.startswith(bound + os.sep) for bound in self._bound):
            target = self._at(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    def _at(self, path: str) -> Path:
        return Path(f"{self.path}{path}")


def _source() -> str:
    return str(Path(next(iter(corps.__path__))).parent)


def _mapped_by_keeper() -> list[str]:
    """The extension modules that a keeper loads: it is started without LD_LIBRARY_PATH."""
    code = f"import sys; sys.path.insert(0, {_source()!r}); import corps.keeper.main; "
    code += "print(open('/proc/self/maps').read())"
    words = [sys.executable, "-I", "-S", "-E", "-c", code]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return sorted({line.split()[-1] for line in text.splitlines() if "/lib-dynload/" in line})


def libraries(*files: Path | str) -> dict[str, str]:
    """What ld.so finds for these files here, by name; the loader is one of them."""
    words: Sequence[str] = ["ldd", *map(str, files)]
    text = subprocess.run(words, capture_output=True, text=True).stdout
    return {name or os.path.basename(path): path for name, path in _FOUND.findall(text)}
