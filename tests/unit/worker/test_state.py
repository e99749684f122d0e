"""worker.json: starts are counted, a copy is known, what cannot be read stops the worker."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from corps.errors import Unavailable
from corps.worker.state import WorkerFile, begin, save


def test_each_start_is_counted_and_the_identity_stays(tmp_path: Path) -> None:
    first, second = begin(tmp_path), begin(tmp_path)
    assert (first.incarnation, second.incarnation) == (1, 2)
    assert first.state_id == second.state_id
    assert not second.is_copy


def test_a_copy_is_known_until_that_is_noted(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    begin(there)
    copy = tmp_path / "copy"
    shutil.copytree(there, copy)
    begun = begin(copy)
    assert begun.is_copy
    assert begin(copy).is_copy, "nobody was told yet"
    save(copy, msgspec.structs.replace(begun, is_copy=False))
    assert not begin(copy).is_copy
    assert not begin(there).is_copy


def test_a_directory_that_was_moved_is_no_copy(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    begin(there)
    assert not begin(there.rename(tmp_path / "elsewhere")).is_copy


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "worker.json").write_text('{"state_id":"s","cluster":"c"}')
    begun = begin(tmp_path)
    assert (begun.state_id, begun.cluster, begun.incarnation) == ("s", "c", 1)
    assert not begun.is_copy


def test_a_file_that_is_none_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "worker.json"
    file.write_text("{")
    with pytest.raises(Unavailable, match=r"worker\.json.*nothing was changed and nothing ended"):
        begin(tmp_path)
    assert file.read_text() == "{"


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    saved = save(tmp_path, WorkerFile(state_id="s", epoch=7, life="l", heard_seq=9))
    begun = begin(tmp_path)
    assert (begun.epoch, begun.life, begun.heard_seq) == (7, "l", 9)
    assert saved.handle != begun.handle
