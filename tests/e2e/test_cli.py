"""The command line against a real cluster: what scripts and people rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.waiting import until
from tests.unit.cli.terminal import Terminal

SCRIPT = '#!/bin/sh\nexec /bin/sh -c "$@"\n'
STOP_KEYS = {"kind", "code", "signal", "core_dumped", "errno", "stage", "cause", "message"}
INSTANCE_KEYS = {
    "id",
    "app",
    "worker",
    "pid",
    "attempt",
    "state",
    "os_state",
    "started_at",
    "ended_at",
    "death",
    "usage",
}


@pytest.fixture(scope="module")
def corps(shared: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster where `do` carries out what `sh -c` would."""
    script = tmp_path_factory.mktemp("do") / "do"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    shared.copy(script)
    yield shared


@pytest.fixture(autouse=True)
def _nothing_runs_on(corps: Cluster) -> Iterator[None]:
    yield
    corps.corps("kill", "--all", "-y")
    corps.corps("rm", "--all", "-y")


def _json(cluster: Cluster, *words: str) -> Any:
    return json.loads(cluster.corps(words[0], "-o", "json", *words[1:]).stdout)


def _launch(cluster: Cluster, code: str, *flags: str) -> str:
    """The id of an instance of `do`."""
    done = cluster.corps("launch", "do", "-o", "name", *flags, "--", code)
    return done.stdout.strip()


def _command(cluster: Cluster, *words: str) -> list[str]:
    return [sys.executable, "-m", "corps.cli.main", "--dir", cluster.settings.dir, *words]


# Launch, ps, stop, kill, signal


def test_launch_answers_with_instance_worker_and_pid(corps: Cluster) -> None:
    (row,) = _json(corps, "launch", "do", "--on", "w2", "--", "exec sleep 100")
    assert row.keys() >= INSTANCE_KEYS
    assert (row["app"], row["worker"], row["state"]) == ("do", "w2", "running")
    assert Path(f"/proc/{row['pid']}").exists()
    assert row["death"] is None and row["ended_at"] is None
    assert row["usage"].keys() >= {"cpu_user_s", "cpu_system_s", "max_rss_bytes", "rss_bytes"}


def test_on_without_count_is_one_on_each(corps: Cluster) -> None:
    rows = _json(corps, "launch", "do", "--on", "all", "--", "exec sleep 100")
    assert [row["worker"] for row in rows] == ["w1", "w2"]
    assert len(_json(corps, "launch", "do", "--count", "3", "--", "exec sleep 100")) == 3


def test_the_tables_of_launch_ps_and_stop(corps: Cluster) -> None:
    lines = corps.corps("launch", "do", "--on", "w1", "--", "exec sleep 100").stdout.splitlines()
    assert lines[0].split() == ["INSTANCE", "WORKER", "PID", "STATE"]
    id, worker, pid, state = lines[1].split()
    assert (worker, state) == ("w1", "running")
    head, line = corps.corps("ps", id).stdout.splitlines()
    assert head.split()[-1] == "STATE"
    assert line.split()[:3] == [id, "w1", pid]
    assert line.endswith("sleeping")
    _, line = corps.corps("stop", id).stdout.splitlines()
    assert line.startswith(f"{id} ") and "(stop by " in line
    assert "dead: killed by SIGINT" in line
    assert id not in corps.corps("ps").stdout
    assert id in corps.corps("ps", "-a").stdout
    assert id in corps.corps("ps", id).stdout


def test_a_launch_that_fails_is_exit_1_with_the_reason(corps: Cluster) -> None:
    done = corps.corps("launch", "do", "--cwd", "/nonexistent", "--", "true", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "/nonexistent" in done.stderr and "did not start" in done.stderr
    done = corps.corps(
        "launch", "do", "--cwd", "/nonexistent", "--on", "all", "-o", "json", check=False
    )
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [row["death"]["kind"] for row in rows] == ["spawn_failed", "spawn_failed"]
    assert rows[0]["death"].keys() >= STOP_KEYS
    assert "2 of 2 instances did not start" in done.stderr


def test_arguments_and_variables_arrive_as_they_were_given(corps: Cluster) -> None:
    code = 'for arg in "$@"; do printf "<%s>" "$arg"; done; printf "%s" "$GREETING"'
    words = ["--", code, "zero", "", "--", "-x", "a b", "q\"'\\", "é\n€", "*"]
    done = corps.corps(
        "launch", "do", "-e", "GREETING=hello, = world", "-e", "EMPTY=", "-o", "name", *words
    )
    id = done.stdout.strip()
    corps.wait_dead(id)
    assert corps.log_of(id) == "<><--><-x><a b><q\"'\\><é\n€><*>hello, = world"


def test_an_argument_that_is_not_utf8_is_refused(corps: Cluster) -> None:
    done = subprocess.run(
        [os.fsencode(word) for word in _command(corps, "launch", "do", "--")] + [b"\xff"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "not UTF-8" in done.stderr


def test_the_reason_of_death_is_told(corps: Cluster) -> None:
    exited, killed = _launch(corps, "exit 3"), _launch(corps, "exec sleep 100")
    corps.wait_dead(exited)
    corps.corps("kill", killed)
    table = corps.corps("ps", "-a", exited, killed).stdout
    assert "dead: exited 3" in table
    assert "dead: killed by SIGKILL (kill by " in table
    by_id = {row["id"]: row["death"] for row in _json(corps, "ps", exited, killed)}
    assert (by_id[exited]["kind"], by_id[exited]["code"]) == ("exited", 3)
    assert (by_id[killed]["signal"], by_id[killed]["cause"]) == (9, "kill")
    assert by_id[exited]["signal"] is None


def test_stop_says_which_signal_ended_it(corps: Cluster) -> None:
    id = _launch(corps, "trap '' INT; while :; do sleep 0.1; done")
    assert "SIGKILL" in corps.corps("stop", id, "--grace", "0.3").stdout


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "10", "usr1"])
def test_signals_by_every_spelling(corps: Cluster, name: str) -> None:
    id = _launch(corps, "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    until(lambda: corps.log_of(id) == "ready\n")
    corps.corps("signal", name, id)
    death = corps.wait_dead(id).death
    assert death is not None and death.code == 7


def test_several_are_not_touched_without_being_sure(corps: Cluster) -> None:
    corps.corps("launch", "do", "--on", "all", "--", "exec sleep 100")
    for words in (["stop", "do"], ["kill", "--all"], ["signal", "HUP", "do"]):
        done = corps.corps(*words, check=False)
        assert done.returncode == 2
        assert "not without -y" in done.stderr and "2 instances" in done.stderr
    assert len(_json(corps, "ps")) == 2
    assert len(_json(corps, "kill", "--all", "-y")) == 2
    done = corps.corps("rm", "do", check=False)
    assert done.returncode == 2
    assert len(_json(corps, "rm", "do", "-y")) == 2
    assert _json(corps, "ps", "-a") == []


def test_nothing_to_stop_is_no_failure(corps: Cluster) -> None:
    done = corps.corps("stop", "--all", "-o", "json")
    assert json.loads(done.stdout) == []
    assert done.stderr == "no live instance\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["ps", "nope"], 4, "no app or instance 'nope'"),
        (["stop", "do.99999"], 4, "no app or instance 'do.99999'"),
        (["logs", "nope"], 4, "no app or instance 'nope'"),
        (["why", "nope"], 4, "no app or instance 'nope'"),
        (["launch", "dodo"], 4, "no artifact 'dodo'; did you mean 'do'?"),
        (["launch", "do", "--on", "w9"], 4, "no worker 'w9'"),
        (["launch", "do", "--on", "w[3-1]"], 3, "it must count up"),
        (["launch", "Do"], 3, "bad artifact name 'Do'"),
        (["launch", "do", "--cwd", "here"], 3, "is not absolute"),
        (["launch", "do", "-e", "LD_PRELOAD=x"], 3, "would load foreign code"),
        (["copy", "/nonexistent/file"], 4, "/nonexistent/file"),
        (["delete", "nope"], 4, "no artifact 'nope'"),
    ],
)
def test_each_refusal_has_its_exit_status_and_one_line(
    corps: Cluster, words: list[str], status: int, message: str
) -> None:
    done = corps.corps(*words, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.startswith("corps: ") and done.stderr.count("\n") == 1


def test_what_is_in_use_is_a_conflict(corps: Cluster) -> None:
    id = _launch(corps, "exec sleep 100")
    done = corps.corps("delete", "do", check=False)
    assert done.returncode == 5 and "in use" in done.stderr
    done = corps.corps("rm", id, check=False)
    assert done.returncode == 5 and "not dead" in done.stderr


# Lists


def test_the_keys_of_every_list(corps: Cluster) -> None:
    id = _launch(corps, "exec sleep 100")
    for row in _json(corps, "workers"):
        assert row.keys() >= {
            "name",
            "address",
            "state",
            "last_seen_s",
            "instances",
            "labels",
            "cpu_count",
            "memory_bytes",
            "version",
        }
    for row in _json(corps, "usage"):
        assert row.keys() >= {
            "worker",
            "children_live",
            "children_dead",
            "cpu_user_s",
            "cpu_system_s",
            "max_rss_bytes",
            "rss_bytes",
            "instances",
        }
    (artifact,) = (row for row in _json(corps, "artifacts") if row["name"] == "do")
    assert artifact.keys() >= {"name", "digest", "bytes", "files", "workers"}
    assert artifact["files"][0].keys() >= {"path", "bytes", "digest", "kind"}
    (row,) = _json(corps, "ps", id)
    assert row["os_state"] in ("sleeping", "running")
    assert _json(corps, "why", id)[0]["instance"]["id"] == id
    assert _json(corps, "events")[0].keys() >= {"seq", "at", "kind", "subject", "message"}
    assert {row["kind"] for row in _json(corps, "audit", id)} == {"launch", "run"}


@pytest.mark.parametrize(
    "words", [["workers"], ["ps"], ["usage"], ["artifacts"], ["events"], ["audit"], ["ps", "-a"]]
)
def test_every_list_has_every_form(corps: Cluster, words: list[str]) -> None:
    _launch(corps, "exec sleep 100")
    rows = _json(corps, *words)
    lines = corps.corps(*words, "-o", "jsonl").stdout.splitlines()
    assert len(lines) == len(rows) == len(corps.corps(*words, "-o", "name").stdout.splitlines())
    assert [json.loads(line).keys() for line in lines] == [row.keys() for row in rows]
    assert len(corps.corps(*words).stdout.splitlines()) == len(rows) + 1
    assert len(corps.corps(*words, "-o", "wide").stdout.splitlines()) > len(rows)


def test_copy_says_what_it_sent_and_sends_nothing_twice(corps: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "fresh"
    program.write_text(f"#!/bin/sh\n# {tmp_path}\n")
    program.chmod(0o755)
    rows = _json(corps, "copy", str(program), "--to", "w1")
    keys = {"worker", "artifact", "digest", "seconds", "result"}
    keys |= {"bytes_sent", "bytes_total", "files_sent", "files_total"}
    assert [row.keys() >= keys for row in rows] == [True]
    assert (rows[0]["bytes_sent"], rows[0]["files_sent"]) == (program.stat().st_size, 1)
    (again,) = _json(corps, "copy", str(program), "--to", "w1")
    assert (again["bytes_sent"], again["files_sent"], again["bytes_total"]) == (
        0,
        0,
        program.stat().st_size,
    )
    (row,) = _json(corps, "delete", "fresh", "--from", "w1")
    assert row["result"] == "removed"


def test_why_tells_the_story(corps: Cluster) -> None:
    id = _launch(corps, "exec sleep 100")
    corps.corps("kill", id)
    story = corps.corps("why", id).stdout.splitlines()
    assert "placed on w" in story[0] and "(command " in story[0]
    assert any("kill asked by" in line for line in story)
    assert any("killed by SIGKILL (kill by " in line for line in story)
    assert story[-1].lstrip().startswith(f"now: {id} on w") and "is dead" in story[-1]
    assert corps.corps("why", "--all", "-o", "name").stdout == f"{id}\n"


def test_usage_of_targets_has_a_row_for_each_instance(corps: Cluster) -> None:
    id = _launch(corps, "exec sleep 100", "--on", "w1")
    assert corps.corps("usage", id, "-o", "name").stdout.split() == ["w1", id]
    assert corps.corps("usage", "w1", "-o", "name").stdout.split()[0] == "w1"


def test_since_leaves_out_what_is_older(corps: Cluster) -> None:
    assert _json(corps, "events", "--since", "1d") == _json(corps, "events")
    assert _json(corps, "events", "--since", "2999-01-01T00:00:00Z") == []
    assert _json(corps, "audit", "--since", "2999-01-01T00:00:00Z") == []


def test_events_follow_until_interrupted(corps: Cluster) -> None:
    words = _command(corps, "events", "-f", "-o", "jsonl")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None and follower.stderr is not None
        follower.stdout.readline()
        id = _launch(corps, "true")
        while id not in json.loads(follower.stdout.readline())["subject"]:
            pass
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        assert follower.stderr.read() == b"corps: interrupted\n"


# Logs

DIRTY = b"\x1b[31mred\x1b[0m\r\n\x07\xff\xfe\x00 \xe2\x80\xae\n"


def test_piped_logs_are_the_bytes_of_the_app(corps: Cluster) -> None:
    id = _launch(
        corps, "printf '\\033[31mred\\033[0m\\r\\n\\007\\377\\376\\000 \\342\\200\\256\\n'"
    )
    corps.wait_dead(id)
    done = subprocess.run(_command(corps, "logs", id), capture_output=True)
    assert done.stdout == DIRTY


def test_a_terminal_gets_no_control_character_of_an_app(corps: Cluster) -> None:
    id = _launch(
        corps, "printf '\\033[31mred\\033[0m\\r\\n\\007\\377\\376\\000 \\342\\200\\256\\n'"
    )
    corps.wait_dead(id)
    with Terminal(_command(corps, "logs", id), os.environ) as terminal:
        assert terminal.wait() == 0
    assert terminal.seen == (b"\\x1b[31mred\\x1b[0m\\r\r\n\\x07\\xff\\xfe\\x00 \\u202e\r\n")


def test_both_streams_one_stream_and_last_lines(corps: Cluster) -> None:
    id = _launch(corps, "seq 1 1000; seq 2001 2020 >&2")
    corps.wait_dead(id)
    lines = corps.corps("logs", id).stdout.split()
    assert lines == [str(n) for n in [*range(1, 1001), *range(2001, 2021)]]
    assert corps.corps("logs", id, "--stream", "stderr").stdout.split() == lines[1000:]
    last = corps.corps("logs", id, "-n", "2").stdout.split()
    assert last == ["2019", "2020"]
    assert corps.corps("logs", id, "-n", "22").stdout.split() == lines[-22:]
    assert corps.corps("logs", id, "-n", "0").stdout == ""
    assert (
        corps.corps("logs", id, "-n", "5000", "--stream", "stdout").stdout.split() == lines[:1000]
    )


def test_last_lines_of_a_long_log(corps: Cluster) -> None:
    id = _launch(corps, "seq 1 300000")
    corps.wait_dead(id)
    words = ["logs", id, "--stream", "stdout"]
    last = corps.corps(*words, "-n", "50000").stdout.split()
    assert last == [str(n) for n in range(250_001, 300_001)]
    assert len(corps.corps(*words).stdout.split()) == 300_000


def test_the_logs_of_several_say_whose_each_line_is(corps: Cluster) -> None:
    first, second = (_launch(corps, f"echo {word}; printf {word}2") for word in ("one", "two"))
    corps.wait_dead(first)
    corps.wait_dead(second)
    lines = corps.corps("logs", first, second).stdout.splitlines()
    assert sorted(lines, key=lambda line: line.split()[0]) == [
        f"{first} | one",
        f"{first} | one2",
        f"{second} | two",
        f"{second} | two2",
    ]
    assert corps.corps("logs", "do").stdout.splitlines() == lines


def test_following_ends_with_the_app_and_misses_nothing(corps: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    id = _launch(corps, f"echo a; echo b >&2; while [ ! -e {go} ]; do sleep 0.02; done; seq 1 2000")
    until(lambda: corps.log_of(id, "stderr") == "b\n")
    with subprocess.Popen(_command(corps, "logs", "-f", id), stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        begun = {follower.stdout.readline(), follower.stdout.readline()}
        assert begun == {b"a\n", b"b\n"}
        go.touch()
        rest = follower.stdout.read()
        assert follower.wait(10) == 0
    assert rest.split() == [b"%d" % n for n in range(1, 2001)]


def test_following_is_left_by_an_interrupt_and_the_app_goes_on(corps: Cluster) -> None:
    id = _launch(corps, "echo ready; exec sleep 100")
    with subprocess.Popen(
        _command(corps, "logs", "-f", id), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"ready\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
    assert corps.get(id).state == "running"


def test_a_log_is_brought_back_whole_and_goes_on_where_it_broke_off(
    corps: Cluster, tmp_path: Path
) -> None:
    id = _launch(corps, "seq 1 200000; printf '\\377\\000' >&2")
    row = corps.wait_dead(id)
    expected = "".join(f"{n}\n" for n in range(1, 200_001)).encode()
    file = tmp_path / "out.log"
    done = corps.corps("logs", id, "-o", str(file))
    assert file.read_bytes() == expected + b"\xff\x00"
    assert done.stdout == ""
    assert done.stderr == f"corps: {len(expected) + 2} bytes of {id} in {file}\n"
    begun = tmp_path / f".out.log.{id}.1.{row.started_at}.stdout.0.part"
    begun.write_bytes(b"#" * 1000)
    corps.corps("logs", id, "--stream", "stdout", "-o", str(file))
    assert file.read_bytes() == b"#" * 1000 + expected[1000:]
    assert [path.name for path in tmp_path.iterdir()] == ["out.log"]


def test_bringing_back_takes_one_whole_log(corps: Cluster, tmp_path: Path) -> None:
    id = _launch(corps, "true")
    _launch(corps, "true")
    file = str(tmp_path / "x")
    for words in (["do", "-o", file], [id, "-f", "-o", file], [id, "-n", "1", "-o", file]):
        done = corps.corps("logs", *words, check=False)
        assert done.returncode == 2 and "-o FILE" in done.stderr
    done = corps.corps("logs", id, "-o", "/nonexistent/x", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "corps: cannot write '/nonexistent/x': no such file or directory\n",
    )


# Interrupts and pipes


def test_an_interrupted_command_says_its_id_and_goes_on(corps: Cluster) -> None:
    id = _launch(corps, "trap '' INT; echo ready; while :; do sleep 0.05; done")
    until(lambda: corps.log_of(id) == "ready\n")
    with subprocess.Popen(
        _command(corps, "stop", id, "--grace", "2"), stderr=subprocess.PIPE, text=True
    ) as stop:
        until(lambda: corps.get(id).state == "stopping")
        stop.send_signal(signal.SIGINT)
        assert stop.wait(10) == 130
        assert stop.stderr is not None
        told = stop.stderr.read()
    assert " goes on; " in told
    command = told.split()[2]
    assert len(command) == 32
    assert "SIGKILL" in corps.wait_dead(id).death.message  # type: ignore[union-attr]  # it is dead


@pytest.mark.parametrize("words", [["events"], ["ps", "-o", "json"], ["--help"], ["logs", "do"]])
def test_a_closed_stdout_is_exit_141_without_a_word(corps: Cluster, words: list[str]) -> None:
    _launch(corps, "seq 1 100")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(_command(corps, *words), stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_streams_that_the_caller_closed_are_no_bug(corps: Cluster) -> None:
    words = " ".join(_command(corps, "ps"))
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def test_no_colour_and_twenty_columns(corps: Cluster) -> None:
    _launch(corps, "exec sleep 100")
    env = {**os.environ, "NO_COLOR": "1", "LC_ALL": "C"}
    with Terminal(_command(corps, "ps", "-o", "wide"), env, columns=20) as terminal:
        assert terminal.wait() == 0
    assert b"\x1b" not in terminal.seen and b"Traceback" not in terminal.seen


def test_a_person_is_asked(corps: Cluster) -> None:
    corps.corps("launch", "do", "--on", "all", "--", "exec sleep 100")
    with Terminal(_command(corps, "kill", "do"), os.environ) as terminal:
        terminal.expect("kill 2 instances (do.")
        terminal.expect("[y/N]")
        terminal.send("n\r")
        assert terminal.wait() == 1
    assert b"nothing done" in terminal.seen
    assert len(_json(corps, "ps")) == 2
    with Terminal(_command(corps, "kill", "do"), os.environ) as terminal:
        terminal.expect("[y/N]")
        terminal.send("y\r")
        assert terminal.wait() == 0
    assert _json(corps, "ps") == []


def test_a_copy_on_a_terminal_is_as_good(corps: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "large"
    program.write_bytes(b"#!/bin/sh\nexit 0\n" + os.urandom(8 << 20))
    program.chmod(0o755)
    with Terminal(_command(corps, "copy", str(program)), os.environ) as terminal:
        assert terminal.wait() == 0
    table = terminal.seen.rpartition(b"RESULT")[2]  # behind the bars
    assert table.count(b"installed") == 2
    corps.corps("delete", "large")
