"""Things of every kind, copied to a real cluster and launched there."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import pytest

from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.jars import a_jar
from tests.support.waiting import until
from tests.support.wheels import a_wheel

JAVA = '#!/bin/sh\necho "java $1 ${2##*/} $3"\n'  # says what it was asked to start

WEB = """
import colour, http.server, os, sys

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(colour.NAME)

server = http.server.HTTPServer(("127.0.0.1", 0), Page)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
"""


@pytest.fixture
def java(tmp_path: Path) -> dict[str, str]:
    """An environment in which `java` is a program of ours."""
    program = tmp_path / "jvm" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(JAVA)
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


def test_a_jar_is_started_by_java_from_the_path_of_its_launch(
    shared: Cluster, tmp_path: Path, java: dict[str, str]
) -> None:
    shared.copy(a_jar(tmp_path / "hello.jar", Main_Class="Hello"), "--force")
    instance = shared.launch_one("hello", "serve", env=java, on="w1")
    dead = shared.wait_dead(instance.id)
    assert dead.death is not None and dead.death.message == "exited 0"
    assert shared.log_of(instance.id) == "java -jar hello.jar serve\n"
    (story,) = shared.client.why((instance.id,))
    evidence = story.certificates[-1].evidence
    assert evidence is not None
    assert evidence.argv[:2] == (f"{java['PATH'].split(':')[0]}/java", "-jar")
    assert evidence.argv[2].endswith("/hello.jar")
    assert f"{java['PATH'].split(':')[0]}/java -jar" in shared.corps("why", instance.id).stdout


def test_a_runner_that_a_worker_lacks_is_named(shared: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "server.js"
    script.write_text("")
    shared.copy(script, "--name", "server", "--runner", "no-such-node --x", "--force")
    done = shared.corps("launch", "server", "--env", "PATH=/usr/bin:/bin", check=False)
    assert done.returncode == 1
    assert "'server.js': its runner 'no-such-node' is in no directory of PATH" in done.stderr
    (view,) = shared.client.instances(("server.1",), with_dead=True)
    assert view.death is not None
    assert (view.death.kind, view.death.stage) == ("spawn_failed", "execve")
    assert "no-such-node" in shared.corps("why", "server.1").stdout


def test_a_runner_that_cannot_be_executed_is_explained(
    shared: Cluster, tmp_path: Path, java: dict[str, str]
) -> None:
    Path(java["PATH"].split(":")[0], "java").write_text("#!/no/such/interpreter\n")
    shared.copy(a_jar(tmp_path / "odd.jar", Main_Class="Hello"), "--force")
    (view,) = shared.launch("odd", env=java)
    assert view.death is not None and view.death.kind == "spawn_failed"
    assert "cannot execute 'java': its interpreter '/no/such/interpreter'" in view.death.message


def test_a_url_is_refused_without_repeating_its_password(shared: Cluster) -> None:
    done = shared.corps("copy", "https://me:secret@host/app", check=False)
    assert done.returncode == 3
    assert "corps fetches none" in done.stderr and "secret" not in done.stderr


def test_an_archive_is_unpacked_here_and_runs_there(shared: Cluster, tmp_path: Path) -> None:
    root = tmp_path / "app-1.0"
    compiled.compile_greeter(root)
    (root / "link").symlink_to("greeter")
    archive = tmp_path / "app-1.0.tar.gz"
    subprocess.run(["tar", "-C", tmp_path, "-czf", archive, root.name], check=True)
    shutil.rmtree(root)
    before = set(Path(tempfile.gettempdir()).glob("corps-*"))
    shared.copy(archive, "--entry", "app-1.0/link")
    assert set(Path(tempfile.gettempdir()).glob("corps-*")) <= before
    instance = shared.launch_one("app-1.0", "tar", on="w2")
    shared.wait_dead(instance.id)
    assert shared.log_of(instance.id) == "hello, tar\n"
    trees = shared.settings.worker_dir("w2") / "trees"
    assert not list(trees.rglob("*.tar.gz")), "no worker ever sees an archive"


def test_a_hostile_archive_reaches_nobody(shared: Cluster, tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    done = shared.corps("copy", str(archive), "--entry", "x", check=False)
    assert done.returncode == 3
    assert "is not unpacked: bad path '../evil'" in done.stderr
    assert "evil" not in {row.name for row in shared.client.artifacts()}


def test_a_python_application_serves_from_a_worker(
    shared: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project with requirements: pip finds them in a directory, the worker has neither."""
    a_wheel(tmp_path / "index", "colour", {"colour.py": "NAME = b'blue'\n"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    project = tmp_path / "web"
    project.mkdir()
    (project / "requirements.txt").write_text("colour==1.0\n")
    (project / "app.py").write_text(WEB)
    shared.copy(project, "--entry", "app.py", "--name", "pyweb")
    shutil.rmtree(project)
    served = shared.launch_one("pyweb", str(tmp_path / "port"), on="w2")
    until((tmp_path / "port").exists)
    port = int((tmp_path / "port").read_text())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        assert answer.read() == b"blue"
    shared.client.stop((served.id,))
    (story,) = shared.client.why((served.id,))
    evidence = story.certificates[-1].evidence
    assert evidence is not None
    assert evidence.argv[0].endswith("/python3") and evidence.argv[3].endswith("/start.py")
