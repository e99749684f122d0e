"""Secrets by name: how a launch names them, and that no value is ever spelled."""

from __future__ import annotations

import msgspec
import pytest

from corps.errors import Invalid
from corps.model.command import Launch, Submission
from corps.model.secret import (
    SECRET_MAX_BYTES,
    USES_MAX,
    AsFd,
    AsFile,
    AsVariable,
    Clear,
    Revealed,
    SetSecret,
    check_content,
    check_uses,
    parse_uses,
    told_by,
)
from corps.model.spec import check_launch
from corps.model.terms import Terms


def test_what_an_operator_writes_is_what_is_meant() -> None:
    uses = parse_uses(["db", "tls.key=key.pem"], ["db=9"], ["TOKEN=api-token"])
    assert uses == (
        AsFile(name="db", file="db"),
        AsFile(name="tls.key", file="key.pem"),
        AsFd(name="db", fd=9),
        AsVariable(name="api-token", variable="TOKEN"),
    )
    check_uses(uses)
    assert told_by("tls.key-2") == "CORPS_SECRET_TLS_KEY_2_FILE"


@pytest.mark.parametrize(
    ("files", "fds", "variables", "message"),
    [
        (["DB"], [], [], "bad secret name 'DB'"),
        (["db=../x"], [], [], "bad file name"),
        (["db="], [], [], "bad file name ''"),
        (["db=.x"], [], [], "bad file name"),
        (["db", "db"], [], [], "two secrets would be in file 'db'"),
        (["a=x", "b=x"], [], [], "two secrets would be in file 'x'"),
        (["a-b", "a.b"], [], [], "two secrets would be in variable CORPS_SECRET_A_B_FILE"),
        ([], ["db"], [], "bad --secret-fd 'db'"),
        ([], ["db=x"], [], "bad --secret-fd"),
        ([], ["db=2"], [], "descriptor 2 for a secret: from 3 to 63"),
        ([], ["db=64"], [], "descriptor 64"),
        ([], ["a=3", "b=3"], [], "two secrets would be in descriptor 3"),
        ([], [], ["TOKEN"], "bad --secret-env 'TOKEN'"),
        ([], [], ["A B=db"], "bad variable name 'A B'"),
        ([], [], ["CORPS_X=db"], "'CORPS_X' may be no secret"),
        ([], [], ["LD_PRELOAD=db"], "'LD_PRELOAD' may be no secret"),
        ([], [], ["X=a", "X=b"], "two secrets would be in variable X"),
        ([f"s{n}" for n in range(USES_MAX + 1)], [], [], "17 secrets: at most 16"),
    ],
)
def test_what_cannot_be_given_is_refused(
    files: list[str], fds: list[str], variables: list[str], message: str
) -> None:
    with pytest.raises(Invalid, match=message.replace("(", "\\(")):
        check_launch(Launch(artifact="web", terms=Terms(secrets=parse_uses(files, fds, variables))))


@pytest.mark.parametrize("size", [0, SECRET_MAX_BYTES + 1])
def test_a_value_is_something_and_not_too_much(size: int) -> None:
    check_content("db", b"x" * SECRET_MAX_BYTES)
    with pytest.raises(Invalid, match=f"has {size} bytes"):
        check_content("db", b"x" * size)


def test_no_value_is_in_what_is_printed_of_it() -> None:
    command = SetSecret(name="db", content=Clear(value=b"hunter2"))
    for thing in (
        command,
        Submission(id="12345678", command=command),
        Revealed(name="db", version=3, value=b"hunter2"),
    ):
        assert "hunter2" not in repr(thing) and "hunter2" not in str(thing)
    back = msgspec.json.decode(msgspec.json.encode(command), type=SetSecret)
    assert back == command, "on its way it is whole"
