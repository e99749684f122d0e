"""A systemd of a test's own, PID 1 of namespaces that nothing else is in.

It sees copies of /etc and /dev, an empty /run, /var, /tmp and control group, no network, and no
unit but those a test writes: the machine's own units would clean the machine's own /tmp.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import groups
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
BOOT = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/etc /mnt/dev/shm /mnt/dev/pts /mnt/dev/mqueue
cp -a /etc/. /mnt/etc/
rm -rf /mnt/etc/systemd/system /mnt/etc/sysusers.d /mnt/etc/corps
mkdir -p /mnt/etc/systemd/system /mnt/etc/ld.so.conf.d
for device in null zero full random urandom tty; do
    touch /mnt/dev/$device
    mount --bind /dev/$device /mnt/dev/$device
done
ln -s pts/ptmx /mnt/dev/ptmx
ln -s /proc/self/fd /mnt/dev/fd
mount --rbind /mnt/etc /etc
mount --rbind /mnt/dev /dev
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir /opt/corps /opt/python
mount --bind "$1" /opt/corps
mount --bind "$2" /opt/python
for directory in /run /var; do mount -t tmpfs -o mode=755 tmpfs $directory; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /var/lib /var/log /run/units
mkdir -m 1777 /var/tmp
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
if [ "$2" != /usr ]; then
    { echo /opt/python/lib; cat /mnt/etc/ld.so.conf; } > /run/first
    cp /run/first /etc/ld.so.conf
    ldconfig
fi
for target in sysinit basic shutdown multi-user network-online; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $target > /run/units/$target.target
done
ln -s basic.target /run/units/default.target
exec env -i container=corps PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_LOG_TARGET=null \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units SYSTEMD_GENERATOR_PATH=/nonexistent \
    /usr/lib/systemd/systemd --system --show-status=0
"""
LOG = "/run/daemons.log"


class System:
    """Processes in it are started by `run`; this checkout is `/opt/corps` there."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        packages = Path(sysconfig.get_paths()["purelib"]).relative_to(ROOT)
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"/opt/corps/src:/opt/corps/{packages}",
        }
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self._corps = (f"/opt/python/bin/{name}", "-P", "-m", "corps.cli.main")

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--all", "--wd=/", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            timeout=DEADLINE_S,
        )
        said = f"{words}: {done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, f"{said}\n{self.log()}"
        return done

    def corps(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(*self._corps, *words, check=check)

    def log(self) -> str:
        """What the daemons said."""
        return self._read(LOG)

    def write(self, path: str, text: str) -> None:
        target = Path(f"/proc/{self._pid}/root{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def main_pid(self, unit: str) -> int:
        return int(self._show(unit, "MainPID"))

    def state(self, unit: str) -> str:
        return self._show(unit, "ActiveState")

    def facts(self, pid: int) -> dict[str, str]:
        """/proc/PID/status."""
        lines = (line.partition(":") for line in self._read(f"/proc/{pid}/status").splitlines())
        return {name: value.strip() for name, _, value in lines}

    def _show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def _read(self, path: str) -> str:
        try:
            return Path(f"/proc/{self._pid}/root{path}").read_text()
        except FileNotFoundError:
            return ""


@contextmanager
def booted() -> Iterator[System]:
    """Started; at the end it and all that it has started are gone, and its control groups."""
    group = Path(groups.places()[""]) / f"corps-test-{os.getpid()}"
    group.mkdir()
    words = ["unshare", "--pid", "--fork", "--mount", "--cgroup", "--uts", "--ipc", "--net"]
    words += ["--kill-child", "bash", "-c", BOOT, "boot", str(ROOT), sys.base_prefix]
    enter = f'echo 0 > "{group}/cgroup.procs"; exec "$@"'
    outer = subprocess.Popen(["sh", "-c", enter, "sh", *words], stdin=subprocess.DEVNULL)
    try:
        until((group / "init.scope").exists, DEADLINE_S)
        (pid,) = until(lambda: _children(outer.pid), DEADLINE_S)
        system = System(pid)
        asked = ("systemctl", "is-system-running")
        until(lambda: system.run(*asked, check=False).stdout == "running\n", DEADLINE_S)
        yield system
    finally:
        outer.kill()
        outer.wait()
        until(lambda: _is_removed(group), DEADLINE_S)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_removed(group: Path) -> bool:
    """As soon as the last process in it is dead."""
    for path in sorted(group.rglob("*/"), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()
