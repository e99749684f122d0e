"""docs/security.md promises nothing without a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text()
NAMED = re.findall(r"`((?:unit|integration|e2e|attack)/[a-z_/]+\.py)(?:::(\w+))?`", PAGE)


@pytest.mark.parametrize(("path", "name"), NAMED, ids=["::".join(one) for one in NAMED])
def test_the_test_of_a_promise_is_there(path: str, name: str) -> None:
    text = (TESTS / path).read_text()
    assert re.search(rf"^(async )?def {name or 'test_'}", text, re.MULTILINE)


def test_every_promise_names_a_test() -> None:
    promises = PAGE.partition("## What is promised")[2].partition("## What is not promised")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    bare = [row for row in rows if ".py" not in row and not row.startswith("| promise |")]
    assert bare == []
