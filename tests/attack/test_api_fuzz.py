"""Every operation of the OpenAPI document, with what its schema allows and what it does not, asked
by every role and by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from corps.master.permissions import ROUTES, Access
from corps.model.token import format_token
from corps.model.trust import MAY, Permission, Role
from tests.attack.shapes import EXAMPLES
from tests.support.cluster import Cluster
from tests.support.people import HTTPS, Remote, add_person

Case: TypeAlias = schemathesis.Case[Any]

NOBODY = "nobody"
SHUTDOWN = "/v1/shutdown"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
FUZZ_API = settings(
    max_examples=max(1, EXAMPLES // 3),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Api(NamedTuple):
    cluster: Cluster
    url: str
    authority: str
    headers: dict[str, dict[str, str]]  # by who asks
    cases: st.SearchStrategy[Case]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    made = Cluster(tmp_path_factory.mktemp("api"))
    try:
        made.start_master(*HTTPS)
        remote = Remote(made)
        tokens = {role: add_person(made, role.value, role) for role in Role}
        headers: dict[str, dict[str, str]] = {
            role.value: {"Authorization": f"Bearer {format_token(token)}"}
            for role, token in tokens.items()
        }
        with remote.bearer(tokens[Role.VIEWER]) as person:
            _, document = person.ask("GET", "/v1/schema/openapi.json")
        authority = str(made.settings.master_dir / "trust" / "ca.pem")
        url = f"https://{remote.address[0]}:{remote.address[1]}"
        yield Api(made, url, authority, {NOBODY: {}} | headers, _cases(document))
    finally:
        made.end()


def _cases(document: Any) -> st.SearchStrategy[Case]:
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert {one.path for one in operations} >= {path for _, path in ROUTES if "openapi" not in path}
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return st.one_of(
        [one.as_strategy(generation_mode=mode) for one in operations for mode in modes]
    )


@pytest.mark.parametrize("who", [NOBODY, *Role])
def test_no_request_is_a_bug_or_more_than_its_sender_may(api: Api, who: str) -> None:
    @FUZZ_API
    @given(case=api.cases)
    def ask(case: Case) -> None:
        if case.path == SHUTDOWN and who == Role.ADMIN:
            return  # that would be carried out
        case.query = {**(case.query or {}), "wait_s": 0.05}
        answer = case.call(
            base_url=api.url, headers=api.headers[who], verify=api.authority, timeout=30
        )
        case.validate_response(answer, checks=CHECKS)
        _check_access(case, who, answer.status_code)

    ask()
    assert api.cluster.returncode("master") is None
    assert " a bug in a route" not in api.cluster.log("master")


def _check_access(case: Case, who: str, status: int) -> None:
    needed = ROUTES[case.method, case.path]
    if who == NOBODY and needed is not Access.ANYONE:
        assert status in {400, 401, 405, 414, 421, 431}, "nothing for a stranger"
    elif isinstance(needed, Permission) and needed not in MAY[Role(who)]:
        # 401: what was generated may have another token in place of theirs
        assert status in {400, 401, 403, 405, 414, 421, 431}, "nothing that a role may not"
