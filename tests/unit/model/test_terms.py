"""The terms of a launch: what is spelled wrong or cannot be is refused, naming the field."""

from __future__ import annotations

import math

import pytest

from corps.errors import Invalid
from corps.model.terms import (
    LOG_MIN_BYTES,
    UNLIMITED,
    Limits,
    Restart,
    Terms,
    check_terms,
    parse_limits,
    parse_restart,
    parse_size,
    parse_umask,
    show_restart,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65_536),
        ("512M", 512 << 20),
        ("1.5g", 3 << 29),
        ("2GiB", 2 << 30),
        ("1kb", 1024),
        ("1T", 1 << 40),
    ],
)
def test_a_size_counts_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size("memory", text) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "1e9G", "M", "1 M", "0x10", "1" * 16, "५"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="memory"):
        parse_size("memory", text)


def test_limits_are_given_together_or_one_by_one() -> None:
    found = parse_limits(("nofile=64,core=0", "as=1G", "cpu=unlimited"))
    assert found == {"nofile": 64, "core_bytes": 0, "as_bytes": 1 << 30, "cpu_s": UNLIMITED}
    assert parse_limits(()) == {}


@pytest.mark.parametrize("text", ["files=1", "nofile", "nofile=", "nofile=-1", "nofile=1.5", ""])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_limits((text,))


def test_a_limit_given_twice_is_refused() -> None:
    with pytest.raises(Invalid, match="twice"):
        parse_limits(("nofile=1,nofile=2",))


@pytest.mark.parametrize(("text", "umask"), [("0", 0), ("027", 0o27), ("0777", 0o777)])
def test_a_umask_is_octal(text: str, umask: int) -> None:
    assert parse_umask(text) == umask


@pytest.mark.parametrize("text", ["", "8", "1000", "-1", "0o22"])
def test_what_is_no_umask_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="umask"):
        parse_umask(text)


def test_terms_that_can_be_pass() -> None:
    limits = Limits(nofile=UNLIMITED, cpus=0.5, pids=1, memory_bytes=1 << 20)
    check_terms(Terms())
    check_terms(Terms(limits=limits, user="nobody:nogroup", nice=-20, umask=0))


@pytest.mark.parametrize(
    "terms",
    [
        Terms(limits=Limits(nofile=-2)),
        Terms(limits=Limits(memory_bytes=0)),
        Terms(limits=Limits(cpus=0.0)),
        Terms(limits=Limits(cpus=math.nan)),
        Terms(limits=Limits(cpus=math.inf)),
        Terms(limits=Limits(pids=0)),
        Terms(nice=20),
        Terms(umask=0o1000),
        Terms(log_max_bytes=LOG_MIN_BYTES - 1),
        Terms(user=""),
        Terms(user="a b"),
        Terms(user="root:"),
        Terms(user="x" * 65),
    ],
)
def test_terms_that_cannot_be_are_refused(terms: Terms) -> None:
    with pytest.raises(Invalid):
        check_terms(terms)


@pytest.mark.parametrize(
    ("text", "policy", "failures_max"),
    [
        ("never", Restart.NEVER, None),
        ("always", Restart.ALWAYS, None),
        ("on-failure", Restart.ON_FAILURE, None),
        ("on-failure:5", Restart.ON_FAILURE, 5),
    ],
)
def test_a_restart_policy_is_shown_as_it_is_read(
    text: str, policy: Restart, failures_max: int | None
) -> None:
    assert parse_restart(text) == (policy, failures_max)
    assert show_restart(policy, failures_max) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sometimes",
        "Always",
        "always:3",
        "never:1",
        "on-failure:",
        "on-failure:0",
        "on-failure:-1",
        "on-failure:1.5",
        "on-failure:10001",
        "on-failure:٣",
        ":5",
    ],
)
def test_no_other_restart_policy_is_taken(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_restart(text)
    assert caught.value.details["field"] in ("restart", "failures_max")
