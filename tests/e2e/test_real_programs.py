"""Real programs of the distribution on a worker whose root has none of their libraries."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from blake3 import blake3

from tests.support.bare import BareRoot
from tests.support.cluster import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.root
TO = ("--to", "w1")
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
START = """#!/bin/sh
printf 'CONF' "$1" "${0%/*}" > nginx.conf
exec "${0%/*}/nginx" -p . -e stderr -c nginx.conf
"""
WEB = """
import asyncio, os, sys
import msgspec, uvicorn

class Answer(msgspec.Struct):
    path: str
    loop: str
    worker: str

async def application(scope, receive, send):
    loop = type(asyncio.get_running_loop()).__module__
    body = msgspec.json.encode(Answer(scope["path"], loop, os.environ["CORPS_WORKER"]))
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(application, port=int(sys.argv[1]), loop="uvloop", lifespan="off")
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
GRAPHICS = ("libGL*", "libgbm.so.1", "libvulkan.so.1")
FFMPEG = (
    *("-nostdin", "-hide_banner", "-loglevel", "error", "-bitexact", "-threads", "1"),
    *("-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=1"),
    *("-f", "lavfi", "-i", "sine=frequency=440:duration=1"),
    *("-c:v", "libx264", "-threads", "1", "-c:a", "libmp3lame", "-f", "framemd5", "-"),
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> BareRoot:
    """It has a shell, and no other program."""
    root = BareRoot(tmp_path_factory.mktemp("machine") / "root")
    root.add_program("/bin/sh")
    return root


@pytest.fixture(scope="module")
def far(bare: BareRoot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master on this machine and two workers: w1 in the bare root, w2 in one with Python."""
    made = Cluster(tmp_path_factory.mktemp("far"))
    pythons = BareRoot(tmp_path_factory.mktemp("machine") / "python", has_python=True)
    try:
        made.start_master()
        for name, root in (("w1", bare), ("w2", pythons)):
            made.start_worker(name, prefix=root.prefix(made.settings.worker_dir(name)))
        made.wait_state(w1="ready", w2="ready")
        yield made
    finally:
        made.end()


def test_redis(far: Cluster, bare: BareRoot) -> None:
    assert {"libssl.so.3", "libjemalloc.so.2"} <= bare.lacking("/usr/bin/redis-server")
    port = free_port()
    far.copy("/usr/bin/redis-server", "--name", "redis", *TO)
    words = ("--port", str(port), "--bind", "127.0.0.1", "--save", "")
    instance = far.launch_one("redis", *words, on="w1")
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
    far.copy("/usr/sbin/nginx", *TO)
    words = ("-p", ".", "-e", "stderr", "-c", "nginx.conf")
    instance = far.launch_one("nginx", *words, on="w1", cwd=f"/{SITE}")
    until(lambda: get(port) == b"<p>from the bare root</p>")
    assert instance.pid is not None
    assert all("/trees/" in path for path in mapped(instance.pid, "libcrypto", "libpcre2"))
    (stopped,) = far.client.stop((instance.id,))
    assert stopped.death is not None and (stopped.death.code, stopped.death.cause) == (0, "stop")
    assert not get(port)


def test_a_directory_with_nginx_a_site_and_a_script_that_starts_it(
    far: Cluster, tmp_path: Path
) -> None:
    """The script alone knows where the tree lies; nginx writes into its working directory."""
    root = tmp_path / "site"
    (root / "html").mkdir(parents=True)
    (root / "html" / "index.html").write_text("<p>from the tree</p>")
    shutil.copy("/usr/sbin/nginx", root)
    conf = NGINX.replace("PORT", "%s").replace("root html", "root %s/html")
    (root / "start").write_text(START.replace("CONF", conf))
    (root / "start").chmod(0o755)
    far.copy(root, "--entry", "start", *TO)
    shutil.rmtree(root)
    port = free_port()
    instance = far.launch_one("site", str(port), on="w1")
    until(lambda: get(port) == b"<p>from the tree</p>")
    assert instance.pid is not None
    assert all("/trees/" in path for path in mapped(instance.pid, "libcrypto", "libpcre2"))
    (stopped,) = far.client.stop((instance.id,))
    assert stopped.death is not None and (stopped.death.code, stopped.death.cause) == (0, "stop")


def test_a_python_web_application_with_extension_modules(far: Cluster, tmp_path: Path) -> None:
    project = tmp_path / "web"
    project.mkdir()
    wanted = [f"{name}=={version(name)}\n" for name in ("msgspec", "uvicorn", "uvloop")]
    (project / "requirements.txt").write_text("".join(wanted))
    (project / "app.py").write_text(WEB)
    done = far.corps("copy", str(project), "--entry", "app.py", check=False)
    assert done.returncode == 1
    assert "web is not on w1: w1 has no python3 in PATH" in done.stderr
    shutil.rmtree(project)
    port = free_port()
    instance = far.launch_one("web", str(port))
    assert instance.worker == "w2"
    answer = until(lambda: get(port, "who"))
    assert json.loads(answer) == {"path": "/who", "loop": "uvloop", "worker": "w2"}
    (stopped,) = far.client.stop((instance.id,))
    assert stopped.death is not None and stopped.death.cause == "stop"


def test_without_its_libraries_it_is_refused_before_a_byte_travels(
    far: Cluster, tmp_path: Path
) -> None:
    nobody_has = tmp_path / "nginx"
    nobody_has.write_bytes(Path("/usr/sbin/nginx").read_bytes() + b"unseen")
    nobody_has.chmod(0o755)
    done = far.corps("copy", str(nobody_has), "--no-libs", *TO, check=False)
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
    far.copy("/bin/busybox", *TO)
    words = ("httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", "/var")
    instance = far.launch_one("busybox", *words, on="w1")
    until(lambda: get(port, "word") == b"static\n")
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
    far.copy(program, *TO)
    digest = blake3(library.read_bytes()).hexdigest()
    shutil.rmtree(library.parent)
    instance = far.launch_one("sorter", "pear", "apple", "fig", on="w1")
    dead = far.wait_dead(instance.id)
    assert dead.death is not None and dead.death.message == "exited 0"
    words, _, maps = far.log_of(instance.id).partition("\n")
    assert words == "caught, apple fig pear "
    (path,) = {line.split()[-1] for line in maps.splitlines() if "libstdc++" in line}
    assert "/trees/" in path
    assert blake3(Path(path).read_bytes()).hexdigest() == digest


def test_ffmpeg_and_its_two_hundred_libraries(far: Cluster, bare: BareRoot) -> None:
    assert len(bare.lacking("/usr/bin/ffmpeg")) > 50
    far.copy("/usr/bin/ffmpeg", *TO, *(f"--lib={name}" for name in GRAPHICS))
    assert len(files_of(far, "ffmpeg")) > 50
    instance = far.launch_one("ffmpeg", *FFMPEG, on="w1")
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


def get(port: int, path: str = "") -> bytes:
    """The page of a web server; empty as long as there is none."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            page: bytes = answer.read()
            return page
    except URLError:
        return b""
