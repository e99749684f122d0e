"""Real programs of the distribution on a worker whose root has none of their libraries."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.bare import BareRoot, libraries
from tests.support.cluster import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.root
SITE = Path("srv/site")
NGINX = """
daemon off;
user root;
worker_processes 2;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server { listen 127.0.0.1:PORT; root html; gzip on; gzip_min_length 1; }
}
"""
# g++ puts the versions of libstdc++ in, the loader finds it by RUNPATH: both are put to the test.
CPLUSPLUS = r"""
#include <algorithm>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>
int main(int argc, char **argv) {
    std::vector<std::string> words(argv + 1, argv + argc);
    std::sort(words.begin(), words.end());
    try { words.at(words.size()); }
    catch (const std::out_of_range &) { std::cout << "caught, "; }
    for (const std::string &word : words) std::cout << word << ' ';
    std::cout << std::endl << std::ifstream("/proc/self/maps").rdbuf();
    return 0;
}
"""
# Debian's ffmpeg is linked with them, though it draws nothing here; by policy they stay at home.
GRAPHICS = ("libGL.so.1", "libGLX.so.0", "libGLdispatch.so.0", "libgbm.so.1", "libvulkan.so.1")
FFMPEG = (
    *("-nostdin", "-hide_banner", "-loglevel", "error", "-bitexact", "-threads", "1"),
    *("-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=1"),
    *("-f", "lavfi", "-i", "sine=frequency=440:duration=1"),
    *("-c:v", "libx264", "-threads", "1", "-c:a", "libmp3lame", "-f", "framemd5", "-"),
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> BareRoot:
    return BareRoot(tmp_path_factory.mktemp("machine") / "root")


@pytest.fixture(scope="module")
def far(bare: BareRoot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master on this machine and a worker in the bare root."""
    made = Cluster(tmp_path_factory.mktemp("far"))
    try:
        made.start_master()
        made.start_worker("w1", prefix=bare.prefix(made.settings.worker_dir("w1")))
        made.wait_state(w1="ready")
        yield made
    finally:
        made.end()


def test_redis(far: Cluster, bare: BareRoot) -> None:
    assert {"libssl.so.3", "libjemalloc.so.2"} <= bare.lacking("/usr/bin/redis-server")
    port = free_port()
    far.copy("/usr/bin/redis-server", "--name", "redis")
    words = ("--port", str(port), "--bind", "127.0.0.1", "--save", "")
    instance = far.launch_one("redis", *words)
    until(lambda: ask(port, b"PING\r\n") == b"+PONG\r\n")
    assert ask(port, b"SET colour blue\r\n") == b"+OK\r\n"
    (stopped,) = far.client.stop((instance.id,))
    assert stopped.death is not None
    assert (stopped.death.kind, stopped.death.code, stopped.death.cause) == ("exited", 0, "stop")


def test_nginx_with_a_site_of_the_machine(far: Cluster, bare: BareRoot) -> None:
    assert {"libcrypto.so.3", "libpcre2-8.so.0"} <= bare.lacking("/usr/sbin/nginx")
    port = free_port()
    site = bare.path / SITE
    (site / "html").mkdir(parents=True)
    (site / "html" / "index.html").write_text("<p>from the bare root</p>")
    (site / "nginx.conf").write_text(NGINX.replace("PORT", str(port)))
    far.copy("/usr/sbin/nginx")
    words = ("-p", ".", "-e", "stderr", "-c", "nginx.conf")
    instance = far.launch_one("nginx", *words, cwd=f"/{SITE}")
    request = b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"
    until(lambda: b"<p>from the bare root</p>" in ask(port, request))
    assert instance.pid is not None
    assert all("/trees/" in path for path in mapped(instance.pid, "libcrypto", "libpcre2"))
    (stopped,) = far.client.stop((instance.id,))
    assert stopped.death is not None and (stopped.death.code, stopped.death.cause) == (0, "stop")
    assert not ask(port, request)


def test_without_its_libraries_it_is_refused_before_a_byte_travels(
    far: Cluster, tmp_path: Path
) -> None:
    nobody_has = tmp_path / "nginx"
    nobody_has.write_bytes(Path("/usr/sbin/nginx").read_bytes() + b"unseen")
    nobody_has.chmod(0o755)
    done = far.corps("copy", str(nobody_has), "--no-libs", check=False)
    assert done.returncode == 7
    assert "w1 has no libcrypt" in done.stderr and "libpcre2-8.so.0" in done.stderr
    digest = blake3(nobody_has.read_bytes()).hexdigest()
    assert not list(Path(far.settings.dir).rglob(f"*{digest}*"))
    checked = far.corps("check", "/usr/bin/ffmpeg", check=False)
    assert checked.returncode == 1
    assert all(name in checked.stderr + checked.stdout for name in ("w1", "libGL.so.1"))


def test_a_static_program_needs_nothing(far: Cluster, bare: BareRoot) -> None:
    port = free_port()
    (bare.path / "var" / "word").write_text("static\n")
    far.copy("/bin/busybox")
    words = ("httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", "/var")
    instance = far.launch_one("busybox", *words)
    until(lambda: ask(port, b"GET /word HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nstatic\n"))
    assert files_of(far, "busybox") == {"busybox"}
    far.client.kill((instance.id,))


def test_a_cplusplus_program_with_a_private_libstdcplusplus(
    far: Cluster, bare: BareRoot, tmp_path: Path
) -> None:
    """Not the library of the machine where it was built, though that has one of the same name."""
    library = tmp_path / "private" / "libstdc++.so.6"
    library.parent.mkdir()
    found = subprocess.run(
        ["g++", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True, check=True
    )
    library.write_bytes(Path(found.stdout.strip()).read_bytes() + b"private")
    source = tmp_path / "sorter.cc"
    source.write_text(CPLUSPLUS)
    program = tmp_path / "sorter"
    flags = ["-O1", f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["g++", *flags, "-o", str(program), str(source)], check=True)
    assert {"libstdc++.so.6", "libgcc_s.so.1"} <= bare.lacking(program)
    far.copy(program)
    digest = blake3(library.read_bytes()).hexdigest()
    shutil.rmtree(library.parent)
    instance = far.launch_one("sorter", "pear", "apple", "fig")
    dead = far.wait_dead(instance.id)
    assert dead.death is not None and dead.death.message == "exited 0"
    words, _, maps = far.log_of(instance.id).partition("\n")
    assert words == "caught, apple fig pear "
    (path,) = {line.split()[-1] for line in maps.splitlines() if "libstdc++" in line}
    assert "/trees/" in path
    assert blake3(Path(path).read_bytes()).hexdigest() == digest


def test_ffmpeg_and_its_two_hundred_libraries(far: Cluster, bare: BareRoot) -> None:
    assert len(bare.lacking("/usr/bin/ffmpeg")) > 50
    found = libraries("/usr/bin/ffmpeg")
    given = [f"--lib={found[name]}" for name in GRAPHICS]
    far.copy("/usr/bin/ffmpeg", *given)
    assert len(files_of(far, "ffmpeg")) > 50
    instance = far.launch_one("ffmpeg", *FFMPEG)
    dead = far.wait_dead(instance.id, 60)
    assert dead.death is not None
    assert dead.death.message == "exited 0", far.log_of(instance.id, "stderr")
    here = subprocess.run(["ffmpeg", *FFMPEG], capture_output=True, text=True, check=True)
    assert far.log_of(instance.id) == here.stdout
    assert len(here.stdout.splitlines()) > 40


def files_of(made: Cluster, name: str) -> set[str]:
    """What travelled, by its path in the artifact."""
    (artifact,) = [row for row in made.client.artifacts() if row.name == name]
    return {file.path for file in artifact.files}


def mapped(pid: int, *names: str) -> set[str]:
    """The files that a process has mapped, of those whose name begins so; each name is there."""
    paths = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    found = {path for path in paths if Path(path).name.startswith(names)}
    assert len(found) == len(names), f"{found} of {names}"
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def ask(port: int, request: bytes) -> bytes:
    """What the server answers; empty as long as there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as server:
            server.sendall(request)
            return server.recv(65_536)
    except ConnectionError:
        return b""
