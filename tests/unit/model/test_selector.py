"""Which workers an operator means."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Invalid, NotFound
from corps.model.selector import RANGE_MAX, TERMS_MAX, Selector, check_label, parse_selector, select
from tests.support.build import a_worker

WORKERS = [
    a_worker("w2", labels={"zone": "a"}),
    a_worker("w1", labels={"zone": "a", "disk": "ssd"}),
    a_worker("w10", labels={"zone": "b"}),
]


def chosen(text: str) -> list[str]:
    return [worker.name for worker in select(parse_selector(text), WORKERS)]


def test_all_is_every_worker_by_name() -> None:
    assert chosen("all") == ["w1", "w10", "w2"]


def test_names_are_meant_in_the_order_given_and_each_once() -> None:
    assert chosen("w2,w1,w2") == ["w2", "w1"]


def test_a_range_counts_up() -> None:
    assert chosen("w[1-2]") == ["w1", "w2"]
    assert parse_selector("w[08-11].x").names == ("w08.x", "w09.x", "w10.x", "w11.x")
    assert parse_selector("[1-2]").names == ("1", "2")


def test_labels_must_all_hold() -> None:
    assert chosen("zone=a") == ["w1", "w2"]
    assert chosen("zone=a,disk=ssd") == ["w1"]
    assert chosen("w[1-2],disk=ssd") == ["w1"]
    assert chosen("zone=c") == chosen("zone=") == []


def test_a_name_that_nobody_has_is_not_found() -> None:
    with pytest.raises(NotFound, match="no worker 'w3'"):
        chosen("w1,w3")
    with pytest.raises(NotFound, match=r"no worker 'w11'; did you mean 'w1(0)?'\?"):
        chosen("w11")


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "w1,", "W1", "w[2-1]", "w[1-]", "w[1-2", "w[a-b]", "w[1-2][3-4]", "=a",
        "a b=c", "w[0-10000]", "w[1-999999999]", "w[1-9999999999]",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_selector(text)


def test_a_selector_has_a_limit() -> None:
    with pytest.raises(Invalid, match="terms: at most"):
        parse_selector(",".join(["w1"] * (TERMS_MAX + 1)))
    with pytest.raises(Invalid, match=f"over {RANGE_MAX} names"):
        parse_selector(f"a[1-{RANGE_MAX}],b[1-{RANGE_MAX}]")


def test_a_label_is_key_and_value() -> None:
    assert check_label("zone=a") == ("zone", "a")
    for text in ("zone", "=", "zone=a=b", "zo ne=a", "zone=a\n"):
        with pytest.raises(Invalid, match="bad label"):
            check_label(text)


@given(st.lists(st.sampled_from(["w1", "w2", "w10", "w[1-2]", "zone=a", "disk=ssd"]), min_size=1))
def test_what_is_meant_has_every_label_and_is_named_if_any_is(terms: list[str]) -> None:
    selector = parse_selector(",".join(terms))
    for worker in select(selector, WORKERS):
        assert not selector.names or worker.name in selector.names
        assert all(worker.labels.get(key) == value for key, value in selector.labels)


@given(st.text(alphabet="abw0123[]-,=. ", max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert isinstance(parse_selector(text), Selector)
