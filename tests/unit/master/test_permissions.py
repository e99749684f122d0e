"""Who may give which command, in the words that it was given with."""

from __future__ import annotations

from typing import get_args

import pytest

from corps.cli.tree import MODULES
from corps.errors import Denied
from corps.master.permissions import SPELLED, check_command
from corps.model.access import Caller
from corps.model.command import AnyCommand, Remove
from corps.model.trust import RevokeWorker, Role

VERA = Caller(name="vera", role=Role.VIEWER, source="10.0.0.7")


@pytest.mark.parametrize(
    ("command", "said"),
    [(Remove(targets=("web.1",)), "rm"), (RevokeWorker(worker="w7"), "worker revoke")],
)
def test_what_is_denied_is_called_as_it_was_typed(command: AnyCommand, said: str) -> None:
    with pytest.raises(Denied) as denied:
        check_command(VERA, command)
    assert f"vera is viewer here and may not {said}: it takes the permission" in str(denied.value)


def test_every_spelling_is_a_command_line() -> None:
    assert set(SPELLED) <= set(get_args(AnyCommand))
    for words in SPELLED.values():
        assert words.split()[0] in MODULES
