"""Things of every kind, copied to a real cluster and launched there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.jars import a_jar

JAVA = '#!/bin/sh\necho "java $1 ${2##*/} $3"\n'  # says what it was asked to start


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
    assert done.returncode == 7
    assert "w1 has no no-such-node in PATH (/usr/bin:/bin), which runs server" in done.stderr


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
