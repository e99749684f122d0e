"""Settings: what may be said, and what is refused with its range."""

from __future__ import annotations

from pathlib import Path

import pytest

from corps.config import load_settings
from corps.errors import Invalid


@pytest.fixture(autouse=True)
def _no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize("sample_s", [0.0, 0.1, 5.0, 3_600.0])
def test_samples_may_be_far_apart_or_none(sample_s: float) -> None:
    assert load_settings(sample_s=sample_s).sample_s == sample_s


@pytest.mark.parametrize("sample_s", [-1.0, 0.01, 3_601.0, float("nan"), float("inf")])
def test_other_intervals_are_refused(sample_s: float) -> None:
    with pytest.raises(Invalid, match="sample_s is"):
        load_settings(sample_s=sample_s)


def test_the_file_says_it_as_well(tmp_path: Path) -> None:
    (tmp_path / "corps").mkdir()
    (tmp_path / "corps" / "corps.toml").write_text("sample_s = 30\n")
    assert load_settings().sample_s == 30.0
    assert load_settings(sample_s=1.0).sample_s == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"listen = ", "cannot read .*corps.toml: Invalid value"),
        (b'listen = "a"\nlisten = "b"', "cannot read .*corps.toml: Cannot overwrite a value"),
        (b'lisen = "x"', "corps.toml: unknown key 'lisen'; did you mean 'listen'"),
        (b"listen = 5", "bad setting: Expected `str`, got `int`"),
        (b'heartbeat_s = "1"', "bad setting: Expected `float`, got `str`"),
        (b"heartbeat_s = nan", "heartbeat_s is nan"),
        (b'dir = "\\u0000"', "a NUL"),
        (b"\xff\xfe", "cannot read .*corps.toml: 'utf-8' codec"),
        pytest.param(b"x = " + b"[" * 100_000, "nested too deep", id="nested"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_reason(
    tmp_path: Path, text: bytes, said: str
) -> None:
    (tmp_path / "corps").mkdir()
    (tmp_path / "corps" / "corps.toml").write_bytes(text)
    with pytest.raises(Invalid, match=said):
        load_settings()
