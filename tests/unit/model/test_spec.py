"""What may be launched."""

from __future__ import annotations

import pytest

from corps.errors import Invalid
from corps.model.command import ARGS_MAX, Launch
from corps.model.spec import ARG_MAX_BYTES, check_env_pair, check_launch, parse_signal


def test_arguments_are_literal() -> None:
    args = ("", " ", "a\nb", "$(rm -rf /)", "*", "-x", "ü", "\u202e")
    check_launch(Launch(artifact="web", args=args, env={"A": "", "b c": "x=y"}, cwd="/a b"))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"args": ("ok", "a\0b")}, r"argument args\[1\] has a NUL"),
        ({"args": ("x" * (ARG_MAX_BYTES + 1),)}, "has 131072 bytes: at most 131071"),
        ({"args": ("\ud800",)}, "is not UTF-8"),
        ({"args": ("x" * 131_000,) * 5}, "arguments and environment have 655005 bytes"),
        ({"args": ("x",) * (ARGS_MAX + 1)}, "more than 10000 arguments"),
        ({"env": {"": "x"}}, "bad variable name"),
        ({"env": {"A=B": "x"}}, "bad variable name"),
        ({"env": {"A\0": "x"}}, "bad variable name"),
        ({"env": {"A": "x\0"}}, "variable env.A has a NUL"),
        ({"env": {"CORPS_INSTANCE": "x"}}, "is set by corps"),
        ({"env": {"LD_PRELOAD": "x"}}, "would load foreign code"),
        ({"env": {"LD_AUDIT": "x"}}, "would load foreign code"),
        ({"cwd": "tmp"}, "is not absolute"),
        ({"cwd": ""}, "is not absolute"),
        ({"cwd": "/a\0"}, "directory cwd has a NUL"),
        ({"cwd": "/" + "x" * 4_095}, "has over 4095 bytes"),
    ],
)
def test_what_execve_would_refuse_is_refused_before(facts: dict[str, object], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        check_launch(Launch(artifact="web", **facts))  # type: ignore[arg-type] # of any kind


def test_the_largest_that_the_kernel_takes_is_taken() -> None:
    check_launch(Launch(artifact="web", args=("x" * ARG_MAX_BYTES,), cwd="/" + "x" * 4_094))


def test_a_pair_is_name_and_value() -> None:
    assert check_env_pair("A=b=c") == ("A", "b=c")
    assert check_env_pair("A=") == ("A", "")
    for text in ("A", "=b", "CORPS_X=1"):
        with pytest.raises(Invalid):
            check_env_pair(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("INT", 2), ("SIGINT", 2), ("int", 2), ("2", 2), ("09", 9), ("RTMIN", 34), ("64", 64)],
)
def test_a_signal_is_a_name_or_a_number(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "FOO", "SIGFOO", "9" * 5_000, "²", "SIG"])
def test_a_signal_that_there_is_not_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(Invalid, match="one of ABRT ALRM BUS"):
        parse_signal(text)
