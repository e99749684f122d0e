"""Output of real apps: in order, whole, capped, through the death of every daemon."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corps.client import OutputSlice
from corps.model.terms import Restart, Terms
from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.disks import ext4, fill
from tests.support.waiting import until
from tests.unit.cli.terminal import Terminal

# Phase N begins when the file DIRECTORY/N is there: LINES numbered lines to each stream, one
# write(2) each, as fast as it can. After the last phase it ends.
FLOOD = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char name[4096], line[32];
    int phases = atoi(argv[2]), lines = atoi(argv[3]);
    (void)argc;
    puts("ready");
    fflush(stdout);
    for (int phase = 0; phase < phases; phase++) {
        snprintf(name, sizeof name, "%s/%d", argv[1], phase);
        while (access(name, F_OK) != 0) usleep(1000);
        for (int n = phase * lines; n < (phase + 1) * lines; n++) {
            int size = snprintf(line, sizeof line, "o %09d\n", n);
            if (write(1, line, size) != size) return 1;
            line[0] = 'e';
            if (write(2, line, size) != size) return 2;
        }
    }
    return 0;
}
"""
PHASES, LINES = 4, 60_000
# Writes what stdin of a person would: each argument is a step, `o TEXT`, `e TEXT`, or a file that
# must be there before the next step.
STEPS = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void put(int fd, const char *text) {
    if (write(fd, text, strlen(text)) < 0) _exit(errno);
}
int main(int argc, char **argv) {
    for (int n = 1; n < argc; n++) {
        char *step = argv[n], *text = step + 2;
        switch (step[0]) {
        case 'o': put(1, text); put(1, "\n"); break;
        case 'e': put(2, text); put(2, "\n"); break;
        case 'p': put(1, text); break;
        case 't': if (ftruncate(1, atoi(text))) return 8; break;
        case 'c': close(1); break;
        case 'z': close(open("/proc/self/fd/1", O_WRONLY | O_TRUNC)); break;
        case 'w': while (access(text, F_OK) != 0) usleep(1000); break;
        case 'b':
            for (int i = atoi(text); i > 0; i--) put(1, "0123456789abcde\n");
            break;
        }
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def logs(shared: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    shared.copy(compiled.compile_c(tmp_path_factory.mktemp("c"), "steps", STEPS))
    return shared


def _words(cluster: Cluster, *words: str) -> list[str]:
    base = [sys.executable, "-m", "corps.cli.main", "--dir", cluster.settings.dir]
    return [*base, "logs", *words]


def _steps(cluster: Cluster, *steps: str, **fields: object) -> str:
    return cluster.launch_one("steps", *steps, **fields).id


def _lines(cluster: Cluster, *words: str) -> list[str]:
    return cluster.corps("logs", *words).stdout.splitlines()


def _events(cluster: Cluster, kind: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(cluster.corps("events", "-o", "json").stdout)
    return [row for row in rows if row["kind"] == kind]


@contextmanager
def _follower(cluster: Cluster, out: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    with out.open("wb") as file:
        process = subprocess.Popen(
            _words(cluster, "-f", *words), stdout=file, stderr=subprocess.PIPE
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- order


def test_streams_are_merged_in_the_order_of_time(logs: Cluster, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    id = _steps(logs, "e one", f"w {first}", "o two", f"w {second}", "e three", "p four")
    until(lambda: _lines(logs, id) == ["one"])
    first.touch()
    until(lambda: _lines(logs, id) == ["one", "two"])
    second.touch()
    logs.wait_dead(id)
    assert _lines(logs, id) == ["one", "two", "three", "four"]
    assert _lines(logs, id, "-n", "2") == ["three", "four"]
    assert _lines(logs, id, "--stream", "stderr") == ["one", "three"]


def test_instances_are_merged_in_the_order_of_time(logs: Cluster, tmp_path: Path) -> None:
    marks = [tmp_path / str(number) for number in range(3)]
    a = _steps(logs, "o a1", f"w {marks[1]}", "e a2", on="w1")
    until(lambda: _lines(logs, a) == ["a1"])
    b = _steps(logs, "o b1", f"w {marks[2]}", "o b2", on="w2")
    until(lambda: _lines(logs, b) == ["b1"])
    marks[1].touch()
    until(lambda: _lines(logs, a) == ["a1", "a2"])
    marks[2].touch()
    logs.wait_dead(a)
    logs.wait_dead(b)
    expected = [f"{a} | a1", f"{b} | b1", f"{a} | a2", f"{b} | b2"]
    assert [" ".join(line.split()) for line in _lines(logs, a, b)] == expected
    assert [" ".join(line.split()) for line in _lines(logs, a, b, "-n", "3")] == expected[1:]


def test_since_and_times(logs: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    id = _steps(logs, "o old", f"w {go}", "o new")
    until(lambda: _lines(logs, id) == ["old"])
    stamp, old = _lines(logs, id, "-t")[0].split()
    assert old == "old" and stamp.startswith("20") and stamp.endswith("Z")
    go.touch()
    logs.wait_dead(id)
    (_, new) = [line.split() for line in _lines(logs, id, "--timestamps")]
    assert new[1] == "new" and new[0] > stamp
    assert _lines(logs, id, "--since", new[0]) == ["new"]
    assert _lines(logs, id, "--since", stamp) == ["old", "new"]
    assert _lines(logs, id, "--since", "1h") == ["old", "new"]
    assert _lines(logs, id, "--since", "2999-01-01T00:00:00Z") == []
    assert _lines(logs, id, "--since", "1h", "-n", "1") == ["new"]


def test_what_looks_like_our_own_words_is_the_apps(logs: Cluster) -> None:
    fake = "2026-01-01T00:00:00.000000Z web.1 | corps: 5 bytes are gone"
    id, other = _steps(logs, f"o {fake}"), _steps(logs, "o real")
    logs.wait_dead(id)
    logs.wait_dead(other)
    assert _lines(logs, id) == [fake]
    assert f"{id} | {fake}" in [line.replace("  ", " ") for line in _lines(logs, id, other)]
    view = logs.client.output(OutputSlice(instance=id))
    assert [(piece.stream, piece.data) for piece in view.pieces] == [
        ("stdout", fake.encode() + b"\n")
    ]


def test_a_terminal_shows_stderr_dim_and_never_two_streams_in_one_line(
    logs: Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    id = _steps(logs, "p prompt>", f"w {go}", "e oops", "o done")
    until(lambda: logs.log_of(id) == "prompt>")
    env = {**os.environ, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    with Terminal(_words(logs, "-f", id), env) as terminal:
        terminal.expect("prompt>")
        go.touch()
        assert terminal.wait() == 0
    assert b"prompt>\r\n\x1b[2moops\r\n\x1b[0mdone" in terminal.seen or (
        b"prompt>done\r\n\x1b[2moops" in terminal.seen  # both within one look
    )


def test_an_attempt_that_never_was_is_not_found(logs: Cluster) -> None:
    id = _steps(logs, "o once")
    logs.wait_dead(id)
    assert _lines(logs, id, "--attempt", "1") == ["once"]
    done = logs.corps("logs", id, "--attempt", "2", check=False)
    assert (done.returncode, done.stderr) == (4, f"corps: no attempt 2 of '{id}': it is at 1\n")


def test_following_goes_on_with_the_next_attempt(logs: Cluster, tmp_path: Path) -> None:
    id = _steps(logs, "o hello", restart=Restart.ALWAYS)
    out = tmp_path / "out"
    with _follower(logs, out, id) as follower:
        until(lambda: out.read_bytes().count(b"hello\n") >= 3)
        logs.client.kill((id,))
        assert follower.wait(20) == 0
    attempt = logs.get(id).attempt
    assert out.read_bytes() == b"hello\n" * attempt
    for number in range(1, attempt + 1):
        assert _lines(logs, id, "--attempt", str(number)) == ["hello"]


# ---- what apps do to their logs


def test_an_app_that_truncates_its_log_is_told_of_and_followed_on(
    logs: Cluster, tmp_path: Path
) -> None:
    marks = [tmp_path / str(number) for number in range(3)]
    id = _steps(
        logs, "o first", f"w {marks[0]}", "t 0", f"w {marks[1]}", "o second", "z", f"w {marks[2]}",
        "o third",
    )  # fmt: skip
    with _follower(logs, tmp_path / "out", id) as follower:
        until(lambda: (tmp_path / "out").read_bytes() == b"first\n")
        marks[0].touch()
        until(lambda: _events(logs, "log-truncated"))
        marks[1].touch()
        marks[2].touch()
        assert follower.wait(20) == 0
    event = _events(logs, "log-truncated")[0]
    assert event["subject"] == id
    assert event["message"] == "it truncated its stdout to 0 bytes: 6 bytes are gone"
    assert (tmp_path / "out").read_bytes().endswith(b"third\n")
    done = logs.corps("logs", id)
    assert done.stdout.endswith("third\n")
    assert f"{id} stdout: " in done.stderr and "bytes are gone: truncated by the app" in done.stderr


def test_an_app_that_closes_its_log_is_no_trouble(logs: Cluster) -> None:
    id = _steps(logs, "o before", "c", "e after")
    assert logs.wait_dead(id).death is not None
    assert _lines(logs, id) == ["before", "after"]


def test_a_log_is_capped_and_its_offsets_stay(logs: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    count, cap = 100_000, 256 << 10
    terms = Terms(log_max_bytes=cap)
    id = _steps(logs, f"b {count}", f"w {go}", "o last", terms=terms)
    row = logs.get(id)
    file = logs.settings.worker_dir(row.worker) / "instances" / id / "1.stdout"
    with _follower(logs, tmp_path / "out", id) as follower:
        until(lambda: file.exists() and file.stat().st_size == 16 * count)
        until(lambda: file.stat().st_blocks * 512 <= cap * 1.5)
        go.touch()
        assert follower.wait(20) == 0
    done = logs.corps("logs", id)
    lines = done.stdout.splitlines()
    assert lines[-1] == "last" and set(lines[:-1]) == {"0123456789abcde"}
    assert "bytes are gone: beyond the limit of this log" in done.stderr
    gone = int(done.stderr.split(" bytes are gone")[0].split()[-1])
    assert gone + len(done.stdout) == file.stat().st_size == 16 * count + 5
    out = tmp_path / "file"
    done = logs.corps("logs", id, "-o", str(out), "--stream", "stdout")
    assert out.read_text().splitlines() == lines
    assert _lines(logs, id, "-n", "2") == lines[-2:]
    assert set((tmp_path / "out").read_text().splitlines()[:-1]) <= {"0123456789abcde"}


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hard link"])
def test_what_was_planted_as_a_log_is_not_written_to(
    logs: Cluster, tmp_path: Path, kind: str
) -> None:
    app, number = _steps(logs, "o where am I", on="w1").rsplit(".", 1)
    home = logs.settings.worker_dir("w1") / "instances" / f"{app}.{int(number) + 1}"
    home.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    if kind == "fifo":
        os.mkfifo(home / "1.stdout")
    elif kind == "symlink":
        (home / "1.stdout").symlink_to(precious)
    else:
        (home / "1.stdout").hardlink_to(precious)
    row = logs.launch_one("steps", "o overwritten", on="w1")
    assert row.id == home.name
    assert row.death is not None and (row.death.kind, row.death.stage) == ("spawn_failed", "log")
    assert precious.read_text() == "precious"


# ---- a full disk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cluster]:
    """A worker whose state is on a disk of 96 MiB, of which it keeps 8 free."""
    made = Cluster(tmp_path)
    with ext4(tmp_path / "image", made.settings.worker_dir("w1"), 96):
        try:
            made.start_master()
            made.start_worker("w1", "--disk-reserve", "8M")
            made.wait_state(w1="ready")
            made.copy(compiled.compile_c(tmp_path / "c", "steps", STEPS))
            yield made
        finally:
            made.end()


def test_an_app_cannot_fill_the_disk_with_output(small: Cluster) -> None:
    id = _steps(small, f"b {16 << 20}", "o end")  # 256 MiB
    death = small.wait_dead(id, 60).death
    assert death is not None and (death.kind, death.code) == ("exited", 0)
    assert _lines(small, id, "-n", "1") == ["end"]
    done = small.corps("logs", id)
    assert "bytes are gone: given up for the disk's reserve" in done.stderr
    assert set(done.stdout.splitlines()[:-1]) == {"0123456789abcde"}
    again = _steps(small, "o again")
    assert small.wait_dead(again).death is not None
    assert _lines(small, again) == ["again"]


def test_on_a_full_disk_statuses_are_exact_and_nothing_new_starts(
    small: Cluster, tmp_path: Path
) -> None:
    go, disk = tmp_path / "go", small.settings.worker_dir("w1")
    silent = _steps(small, f"w {go}")
    writer = _steps(small, f"w {go}", "b 100000")
    filler = fill(disk, 0)
    until(lambda: [row["subject"] for row in _events(small, "disk-low")] == ["w1"])
    go.touch()
    death = small.wait_dead(silent).death
    assert death is not None and (death.kind, death.code) == ("exited", 0)
    death = small.wait_dead(writer).death
    assert death is not None and (death.kind, death.code) == ("exited", errno.ENOSPC)
    done = small.corps("launch", "steps", check=False)
    assert done.returncode == 1
    assert "is nearly full: " in done.stderr and "say --disk-reserve" in done.stderr
    done = small.corps("copy", "/bin/true", check=False)
    assert done.returncode != 0 and "is nearly full: " in done.stdout + done.stderr
    assert small.returncode("w1") is None
    filler.unlink()
    until(lambda: [row["subject"] for row in _events(small, "disk-ok")] == ["w1"])
    id = _steps(small, "o fine")
    assert small.wait_dead(id).death is not None
    assert _lines(small, id) == ["fine"]
    assert len(_events(small, "disk-low")) == len(_events(small, "disk-ok")) == 1


# ---- nothing lost, nothing doubled


def test_a_flood_is_followed_whole_through_the_death_of_every_daemon(
    alone: Cluster, tmp_path: Path
) -> None:
    alone.copy(compiled.compile_c(tmp_path / "c", "flood", FLOOD))
    go = tmp_path / "go"
    go.mkdir()
    id = alone.launch_one("flood", str(go), str(PHASES), str(LINES)).id
    log = alone.settings.worker_dir("w1") / "instances" / id / "1.stderr"
    out = tmp_path / "out"

    def begin(phase: int) -> None:
        """It is in the midst of it."""
        size = log.stat().st_size
        (go / str(phase)).touch()
        until(lambda: log.stat().st_size > size)

    with _follower(alone, out, id) as follower:
        until(lambda: out.read_bytes() == b"ready\n")
        begin(0)
        alone.kill("w1")
        alone.start_worker("w1")
        begin(1)
        alone.kill("master")
        alone.start_master()
        begin(2)
        keeper = alone.keeper_pid("w1")
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        begin(3)
        alone.kill("w1")
        alone.kill("master")
        alone.start_master()
        alone.start_worker("w1")
        assert follower.wait(100) == 0, follower.stderr.read() if follower.stderr else b""
    expected = [b"%09d" % number for number in range(PHASES * LINES)]
    seen = out.read_bytes().split(b"\n")
    assert (seen.pop(0), seen.pop()) == (b"ready", b"")
    for mark in (b"o", b"e"):
        assert [line[2:] for line in seen if line[:1] == mark] == expected
    assert len(seen) == 2 * len(expected)
    for stream, mark, first in (("stdout", b"o", b"ready\n"), ("stderr", b"e", b"")):
        file = tmp_path / stream
        alone.corps("logs", id, "--stream", stream, "-o", str(file))
        whole = b"".join(b"%b %b\n" % (mark, line) for line in expected)
        assert file.read_bytes() == first + whole
