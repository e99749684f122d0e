"""What this machine can do at best, measured in the same run as our figures."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

FORKER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
/* Fork and exec COUNT times PROGRAM, WIDE at a time at most, and reap each by wait4. */
int main(int argc, char **argv) {
    int count = atoi(argv[1]), wide = atoi(argv[3]), alive = 0, status;
    struct rusage usage;
    struct timeval begin, end;
    gettimeofday(&begin, NULL);
    for (int i = 0; i < count; i++) {
        if (fork() == 0) { execl(argv[2], argv[2], (char *)NULL); _exit(127); }
        if (++alive == wide) { wait4(-1, &status, 0, &usage); alive--; }
    }
    while (alive--) wait4(-1, &status, 0, &usage);
    gettimeofday(&end, NULL);
    printf("%f\n", (end.tv_sec - begin.tv_sec) + (end.tv_usec - begin.tv_usec) / 1e6);
    return 0;
}
"""


def fork_exec_wait_s(count: int, program: str, wide: int = 4) -> float:
    """Seconds for a C program to fork, exec and wait4 `count` times, `wide` of them at a time;
    the median of three."""
    with tempfile.TemporaryDirectory() as directory:
        source, binary = Path(directory) / "forker.c", Path(directory) / "forker"
        source.write_text(FORKER)
        subprocess.run(["cc", "-O2", "-o", str(binary), str(source)], check=True)
        runs = [
            float(subprocess.check_output([str(binary), str(count), program, str(wide)]))
            for _ in range(3)
        ]
    return median(runs)


def posix_spawn_ms() -> float:
    """The median time of one posix_spawn(3), from this process."""
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        pid = os.posix_spawn("/bin/true", ["true"], {})
        times.append(time.perf_counter() - begin)
        os.waitpid(pid, 0)
    return median(times) * 1e3


def tcp_round_trip_ms() -> float:
    """The median of 64 bytes there and back over loopback, blocking sockets, two threads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_echo, args=(server,))
        thread.start()
        times = []
        with socket.create_connection(server.getsockname()) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(1_000):
                begin = time.perf_counter()
                peer.sendall(b"x" * 64)
                peer.recv(64)
                times.append(time.perf_counter() - begin)
        thread.join()
    return median(times) * 1e3


def python_start_s(python: str) -> float:
    """The median time to start Python and end it, the floor of any Python command line."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([python, "-c", "pass"], check=True)
        times.append(time.perf_counter() - begin)
    return median(times)


def _echo(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        while data := peer.recv(64):
            peer.sendall(data)
