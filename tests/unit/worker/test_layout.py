"""Where the files of an attempt lie, and which of them stay."""

from __future__ import annotations

from pathlib import Path

from corps.worker.attempt_log import STREAMS
from corps.worker.layout import ATTEMPTS_KEPT, Layout


def test_the_logs_of_the_newest_attempts_stay_and_no_other_file_goes(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (Path(layout.make("web.1#1")) / "1.stdout").write_text("the program's own")
    for attempt in range(1, ATTEMPTS_KEPT + 4):
        if attempt == 2:
            continue  # it never began
        key = f"web.1#{attempt}"
        layout.make(key)
        for stream in STREAMS:
            Path(layout.log(key, stream)).write_text(f"{attempt}")
    home = Path(layout.home("web.1#1"))
    kept = {int(path.name.partition(".")[0]) for path in home.glob("*.std*")}
    assert kept == set(range(4, ATTEMPTS_KEPT + 4))
    assert (home / "work" / "1.stdout").read_text() == "the program's own"


def test_another_instance_keeps_its_logs(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make("web.1#1")
    log = Path(layout.log("web.1#1", "stdout"))
    log.write_text("x")
    layout.make("web.2#50")
    assert log.exists()
