"""What others do the same with: cp, sendfile, scp, rsync, and sbcast to many nodes.

sshd and Slurm are private: their own keys, ports, directories; all of it ends with the run. Slurm
gives each node a mount namespace, so that eight nodes of one machine write eight files: needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

NEEDED = {
    "rsync": "rsync",
    "scp": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "salloc": "slurm-client",
    "/usr/sbin/slurmd": "slurmd",
    "/usr/sbin/slurmctld": "slurmctld",
}
START_S = 30.0
CHUNK_BYTES = 1 << 20
SSHD = """
ListenAddress 127.0.0.1
HostKey {0}/host
AuthorizedKeysFile {0}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""
SLURM = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmdPidFile={root}/%n.pid
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
SlurmdParameters=config_overrides
"""


def lacking() -> list[str]:
    """The Debian packages of what is measured beside us and is not there."""
    return [package for name, package in NEEDED.items() if shutil.which(name) is None]


def check_there() -> None:
    """Raise RuntimeError with what to install."""
    if packages := lacking():
        raise RuntimeError(
            f"install what is measured beside us: apt-get install {' '.join(packages)}"
        )


def cp_then_hash(source: Path, target: Path) -> None:
    """A directory, and the digest of each file as it arrived."""
    run("cp", "-r", str(source), str(target))
    for path in target.iterdir():
        blake3().update_mmap(path).digest()


def sendfile(source: Path, target: Path) -> None:
    """One file through TCP on loopback, written where it arrives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver = threading.Thread(target=_receive, args=(server, target))
        receiver.start()
        with socket.create_connection(server.getsockname()) as sock, source.open("rb") as file:
            sock.sendfile(file)
        receiver.join()


def _receive(server: socket.socket, target: Path) -> None:
    sock, _ = server.accept()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with sock, target.open("wb", buffering=0) as file:
        while count := sock.recv_into(buffer):
            file.write(buffer[:count])


class Ssh:
    def __init__(self, directory: Path, port: int) -> None:
        common = ["-i", f"{directory}/user", "-o", f"UserKnownHostsFile={directory}/known"]
        common += ["-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-F", "none"]
        self._scp = ["scp", *common, "-q", "-P", str(port), "-r"]
        self._rsync = ["rsync", "-a", "-e", " ".join(["ssh", *common, "-p", str(port)])]

    def scp(self, source: Path, target: Path) -> None:
        run(*self._scp, str(source), f"127.0.0.1:{target}")

    def scp_at_once(self, source: Path, targets: Sequence[Path]) -> None:
        begun = [
            subprocess.Popen([*self._scp, str(source), f"127.0.0.1:{target}"]) for target in targets
        ]
        statuses = [process.wait() for process in begun]
        if any(statuses):
            raise RuntimeError(f"scp failed: {statuses}")

    def rsync(self, source: Path, target: Path, *flags: str) -> str:
        """`source/` becomes `target/`, or one file the other; what rsync says."""
        where = f"{source}/" if source.is_dir() else str(source)
        return run(*self._rsync, *flags, where, f"127.0.0.1:{target}")


@contextmanager
def ssh() -> Iterator[Ssh]:
    with _directory() as directory:
        for name in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/{name}")
        (directory / "sshd_config").write_text(SSHD.format(directory))
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd will not start without it
        port = free_ports(1)[0]
        words = ["/usr/sbin/sshd", "-D", "-f", f"{directory}/sshd_config", "-p", str(port)]
        with _daemon(words, directory):
            _until(lambda: _answers(port), "sshd does not answer")
            yield Ssh(directory, port)


class Slurm:
    def __init__(self, directory: Path, nodes: int) -> None:
        self._directory, self._nodes = directory, nodes
        self.mount = directory / "mount"
        self._env = {**os.environ, "SLURM_CONF": f"{directory}/slurm.conf"}

    def target(self, number: int) -> Path:
        """Where the files of a node are, seen from outside; the node sees them in `mount`."""
        return self._directory / "target" / str(number)

    def is_ready(self) -> bool:
        words = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        done = subprocess.run(words, env=self._env, capture_output=True, text=True)
        return done.stdout.strip() == str(self._nodes)

    def sbcast_s(self, source: Path) -> float:
        """Seconds of one sbcast to all nodes; to get the nodes takes no part in it."""
        code = "import subprocess, sys, time; begin = time.perf_counter(); "
        code += "subprocess.run(['sbcast', '-f', *sys.argv[1:]], check=True); "
        code += "print(time.perf_counter() - begin)"
        words = ["salloc", "--quiet", f"--nodes={self._nodes}", "python3", "-c", code]
        words += [str(source), str(self.mount / source.name)]
        done = subprocess.run(words, env=self._env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"sbcast: {done.stderr or done.stdout}")
        arrived = [self.target(number) / source.name for number in range(1, self._nodes + 1)]
        if any(path.stat().st_size != source.stat().st_size for path in arrived):
            raise RuntimeError("sbcast has not brought the file to all nodes")
        for path in arrived:
            path.unlink()
        return float(done.stdout)


@contextmanager
def slurm(nodes: int) -> Iterator[Slurm]:
    """A controller and `nodes` nodes, all on this machine."""
    with _directory() as directory, contextlib.ExitStack() as daemons:
        port, *ports = free_ports(nodes + 1)
        host = os.uname().nodename
        text = SLURM.format(root=directory, host=host, port=port)
        for number, own in enumerate(ports, 1):
            text += f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={own} CPUs=1\n"
        text += "PartitionName=all Nodes=ALL Default=YES State=UP\n"
        config = directory / "slurm.conf"
        config.write_text(text)
        made = Slurm(directory, nodes)
        for name in ("state", "spool", "mount"):
            (directory / name).mkdir()
        words = ["/usr/sbin/slurmctld", "-D", "-f", str(config)]
        daemons.enter_context(_daemon(words, directory))
        for number in range(1, nodes + 1):
            made.target(number).mkdir(parents=True)
            (directory / "spool" / f"n{number}").mkdir()
            script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
            words = ["unshare", "-m", "sh", "-c", script, "sh"]
            words += [str(made.target(number)), str(made.mount)]
            words += ["/usr/sbin/slurmd", "-D", "-f", str(config), "-N", f"n{number}"]
            daemons.enter_context(_daemon(words, directory))
        _until(made.is_ready, "Slurm's nodes do not get ready")
        yield made


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


@contextmanager
def _directory() -> Iterator[Path]:
    # sshd wants to reach the key from the root on, and Slurm its socket: both want a short path
    directory = Path(f"/tmp/corps-bench-peers-{os.getpid()}-{time.monotonic_ns()}")
    directory.mkdir(mode=0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def _daemon(words: Sequence[str], directory: Path) -> Iterator[None]:
    with (directory / "daemons.log").open("ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _until(is_so: Callable[[], bool], words: str) -> None:
    end = time.monotonic() + START_S
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"{words} within {START_S:g} s")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
