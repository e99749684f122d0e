"""Libraries that a program opens while it runs: seen by running it once."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from corps.errors import Invalid
from corps.pack.build import pack
from corps.pack.libraries import Choice
from corps.pack.opened import Trace, trace
from corps.pack.parcel import Packed
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from tests.support.compiled import compile_c

# long enough for a program that ends by itself, on whatever machine
LONG_S = 60.0
OPENER = r"""
#include <dlfcn.h>
#include <stdio.h>
/* Opens argv[1], and says what it says. */
int main(int argc, char **argv) {
    void *library = dlopen(argv[1], RTLD_NOW);
    const char *(*word)(void);
    if (library == NULL) { fprintf(stderr, "%s\n", dlerror()); return 3; }
    word = (const char *(*)(void))dlsym(library, "word");
    puts(word());
    return 0;
}
"""
PLUGIN = "const char *deep(void);\nconst char *word(void) { return deep(); }\n"
DEEP = 'const char *deep(void) { return "from the deep"; }\n'


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """libplug.so.1.2, opened by whatever name; it needs libdeep.so, which it finds beside it."""
    plugins = tmp_path / "plugins"
    compile_c(plugins, "libdeep.so", DEEP, "-shared", "-fPIC")
    path = compile_c(
        plugins, "libplug.so.1.2", PLUGIN, "-shared", "-fPIC", "-Wl,-soname,libplug.so.1",
        f"-L{plugins}", "-ldeep", "-Wl,-rpath,$ORIGIN",
    )  # fmt: skip
    (plugins / "libplug.so").symlink_to(path.name)
    (plugins / "libplug.so.1").symlink_to(path.name)
    return path


@pytest.fixture
def opener(tmp_path: Path, plugin: Path) -> Path:
    return compile_c(tmp_path / "bin", "opener", OPENER, f"-Wl,-rpath,{plugin.parent}")


def pack_traced(
    source: Path, found: Trace, entry: str | None = None, is_alone: bool = False
) -> Packed:
    choice = Choice(opened=found.mapped, is_alone=is_alone)
    return pack(source, entry=entry, libraries=(), with_libraries=True, choice=choice)


def paths(packed: Packed) -> list[str]:
    return [file.path for file in packed.manifest.files]


def installed(directory: Path, packed: Packed) -> tuple[str, str]:
    """As on a worker: the program, and its LD_LIBRARY_PATH."""
    blobs = BlobStore(directory, durable=False)
    for path in packed.sources.values():
        blobs.put_bytes(path.read_bytes())
    blobs.put_bytes(packed.manifest_bytes)
    trees = Trees(directory, blobs)
    trees.build(packed.digest)
    return trees.launch_paths(packed.digest)


NAMES = ["libplug.so", "libplug.so.1", "libplug.so.1.2"]


@pytest.mark.parametrize("name", NAMES)
def test_a_library_opened_by_its_name_travels_with_its_needs(
    tmp_path: Path, opener: Path, plugin: Path, name: str
) -> None:
    found = trace([str(opener), name], LONG_S)
    assert (found.status, found.is_over) == (0, True)
    packed = pack_traced(opener, found)
    assert paths(packed) == ["lib/libdeep.so", *(f"lib/{name}" for name in NAMES), "opener"]
    assert packed.warnings == ()
    rows = {row.name: row.why for row in packed.libraries if row.travels}
    assert rows["libplug.so"] == "opened while it was traced"
    assert rows["libdeep.so"] == "no library of the system"
    entry, library_path = installed(tmp_path / "worker", packed)
    shutil.rmtree(plugin.parent)
    env = {"LD_LIBRARY_PATH": library_path}
    run = subprocess.run([entry, name], env=env, capture_output=True, text=True, check=True)
    assert run.stdout == "from the deep\n"


def test_without_a_trace_nothing_is_known_of_it(opener: Path) -> None:
    assert paths(pack(opener, entry=None, libraries=(), with_libraries=True)) == ["opener"]


def test_a_library_opened_by_its_path_travels_but_the_program_must_be_told(
    tmp_path: Path, opener: Path, plugin: Path
) -> None:
    away = tmp_path / "away"
    shutil.move(plugin.parent, away)
    found = trace([str(opener), str(away / "libplug.so")], LONG_S)
    packed = pack_traced(opener, found)
    assert "lib/libplug.so.1.2" in paths(packed)
    assert packed.warnings == (
        f"'opener' opened '{away}/libplug.so.1.2' by its path: its copy is 'lib/libplug.so.1.2', "
        "so tell the program, or put it on each worker",
    )


def test_in_a_directory_a_plugin_stays_where_it_is_and_its_needs_come_too(
    tmp_path: Path, opener: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plugins/libplug.so is inside; libdeep.so, moved out of it, is not."""
    app = tmp_path / "app"
    shutil.copytree(opener.parent, app / "bin")
    (app / "plugins").mkdir()
    shutil.copy(plugin, app / "plugins" / "mine.so")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(plugin.parent))
    found = trace([str(app / "bin" / "opener"), str(app / "plugins" / "mine.so")], LONG_S)
    packed = pack_traced(app, found, entry="bin/opener")
    assert ".corps-lib/libdeep.so" in paths(packed)
    assert not [path for path in paths(packed) if "libplug" in path]
    assert packed.warnings == ()


CHILDREN = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *open_it(void *name) { return dlopen(name, RTLD_NOW); }
/* argv[1] in a child that does not exec, argv[2] in a thread; then another program, argv[3]. */
int main(int argc, char **argv) {
    pthread_t thread;
    void *library;
    if (fork() == 0) _exit(open_it(argv[1]) == NULL);
    wait(NULL);
    pthread_create(&thread, NULL, open_it, argv[2]);
    pthread_join(thread, &library);
    if (library == NULL) return 4;
    if (vfork() == 0) { execv(argv[3], argv + 3); _exit(5); }
    wait(NULL);
    return 0;
}
"""


def test_children_threads_and_other_programs_of_a_directory_are_seen(
    tmp_path: Path, opener: Path, plugin: Path
) -> None:
    app, libs = tmp_path / "app", tmp_path / "libs"
    rpath = f"-Wl,-rpath,{libs}:{plugin.parent}"
    compile_c(app, "main", CHILDREN, "-pthread", rpath)
    shutil.copy(opener, app / "tool")
    for name in ("child", "thread"):
        compile_c(libs, f"lib{name}.so", "int x;\nint f(void) { return x; }\n", "-shared", "-fPIC")
    command = [str(app / "main"), "libchild.so", "libthread.so", str(app / "tool"), "libplug.so"]
    found = trace(command, LONG_S)
    assert found.status == 0
    for unwanted in app.glob("*.c"):
        unwanted.unlink()
    packed = pack_traced(app, found, entry="main")
    names = {"libchild.so", "libthread.so", "libdeep.so", *NAMES}
    assert set(paths(packed)) == {"main", "tool", *(f".corps-lib/{name}" for name in names)}


def test_a_script_brings_the_libraries_of_the_programs_of_its_directory(
    tmp_path: Path, opener: Path
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    shutil.copy(opener, app / "tool")
    script = app / "run"
    script.write_text('#!/bin/sh\nexec "$(dirname "$0")/tool" libplug.so\n')
    script.chmod(0o755)
    packed = pack_traced(app, trace([str(script)], LONG_S), entry="run")
    assert ".corps-lib/libplug.so" in paths(packed)
    needs = packed.manifest.needs
    assert (needs.programs, needs.machine) == (("/bin/sh",), "x86_64")
    alone = pack_traced(script, trace([str(script)], LONG_S))
    assert paths(alone) == ["run"]
    (warning,) = alone.warnings
    assert warning.startswith("nothing that was traced travels: 'run' is run by '")


def test_the_c_librarys_own_plugins_stay(tmp_path: Path) -> None:
    """A character set comes as a library that only the libc of its own build can load."""
    source = '#include <iconv.h>\nint main(void) { return iconv_open("UTF-16", "CP1251") == 0; }'
    program = compile_c(tmp_path, "prog", source)
    found = trace([str(program)], LONG_S)
    assert any("/gconv/" in path for path in found.mapped[str(program)])
    packed = pack_traced(program, found)
    assert paths(packed) == ["prog"]
    assert packed.warnings == ()


def test_left_out_is_left_out_though_it_was_opened(opener: Path) -> None:
    found = trace([str(opener), "libplug.so"], LONG_S)
    assert paths(pack_traced(opener, found, is_alone=True)) == ["opener"]


# ---- how it is run

DAEMON = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <dlfcn.h>
/* Closes what it did not open, as daemons do; what it then opens is its own. */
int main(int argc, char **argv) {
    for (int fd = 3; fd < 1024; fd++) close(fd);
    for (int i = 0; i < 8; i++) {
        int fd = open(argv[1], O_RDWR | O_CREAT | O_APPEND, 0644);
        if (fd < 0 || write(fd, "data\n", 5) != 5) return 9;
    }
    return dlopen(argv[2], RTLD_NOW) == NULL;
}
"""


def test_nothing_is_written_into_the_files_of_a_program(tmp_path: Path, plugin: Path) -> None:
    """LD_DEBUG would: its descriptor has become the program's."""
    daemon = compile_c(tmp_path, "daemon", DAEMON, f"-Wl,-rpath,{plugin.parent}")
    data = tmp_path / "data"
    found = trace([str(daemon), str(data), "libplug.so"], LONG_S)
    assert found.status == 0
    assert data.read_text() == "data\n" * 8
    assert "lib/libplug.so" in paths(pack_traced(daemon, found))


ENDLESS = r"""
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
/* A daemon behind it, in a session of its own, that ignores SIGTERM; each holds a lock. */
int main(int argc, char **argv) {
    struct flock lock = { .l_type = F_WRLCK };
    if (fork() == 0) { setsid(); signal(SIGTERM, SIG_IGN); argv++; }
    if (fcntl(open(argv[1], O_RDWR | O_CREAT, 0644), F_SETLKW, &lock) != 0) return 9;
    for (;;) pause();
}
"""


def test_a_program_without_end_is_ended_with_all_its_children(tmp_path: Path) -> None:
    program = compile_c(tmp_path, "endless", ENDLESS)
    files = [tmp_path / "one", tmp_path / "two"]
    found = trace([str(program), *map(str, files)], 0.5)
    assert not found.is_over
    assert found.status is not None and found.status < 0
    for file in files:
        if file.exists():  # it may not have come so far
            with file.open("r+b") as opened:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_its_exit_is_told_and_its_output_is_not_ours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = compile_c(
        tmp_path, "prog", '#include <stdio.h>\nint main(void) { puts("hello"); return 7; }'
    )
    assert trace([str(program)], LONG_S).status == 7
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "hello\n")


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program\n")
    with pytest.raises(Invalid, match=r"no program '.*text': give its path"):
        trace([str(text)])
    text.chmod(0o755)
    with pytest.raises(Invalid, match=r"cannot run '.*text': Exec format error"):
        trace([str(text)])
    with pytest.raises(Invalid, match="no program 'nothing-of-this-name'"):
        trace(["nothing-of-this-name"])


def test_a_static_program_opens_nothing(tmp_path: Path) -> None:
    program = compile_c(tmp_path, "prog", "int main(void) { return 0; }", "-static")
    found = trace([str(program)], LONG_S)
    assert found.mapped == {str(program): ()}
    assert paths(pack_traced(program, found)) == ["prog"]
