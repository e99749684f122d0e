"""Routes about trust: who asks, people and tokens, and what pins this cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.datastructures import State

from corps.master.certificates import hosts_of
from corps.master.rotation import view_ca
from corps.model.access import CallerView, HelloView, TrustView
from corps.model.trust import CaView, TokenView, UserView
from corps.net.address import format_address, parse_address

if TYPE_CHECKING:
    from corps.master.http import Master


@get("/v1/hello", summary="Which cluster this is, and its CA: for anyone")
async def hello(state: State) -> HelloView:
    """For whoever has the pin in a token, and looks whether this is the master it pins."""
    master = _of(state)
    return HelloView(
        cluster=master.driver.core.cluster.meta.cluster,
        authorities=master.certificates.authority.bundle_pem.decode("ascii"),
        former=master.certificates.authority.former_pem.decode("ascii"),
    )


@get("/v1/trust", summary="What pins this cluster, and where it is reached")
async def trust(state: State) -> TrustView:
    master = _of(state)
    return TrustView(
        cluster=master.driver.core.cluster.meta.cluster,
        pin=master.certificates.authority.pin,
        workers_at=_reached(master.address, master.host),
        api_at=master.api_address and _reached(master.api_address, master.host),
    )


@get("/v1/ca", summary="The CA, and how far its rotation is")
async def authorities(state: State) -> CaView:
    master = _of(state)
    await master.driver.settled()
    return view_ca(master.driver, master.certificates.authority)


@get("/v1/whoami", summary="Who asks, and what they may do")
async def whoami(request: Request[Any, Any, Any], state: State) -> CallerView:
    return _of(state).people.view(request.user)


@get("/v1/tokens", summary="Tokens by which workers may join, and those of people")
async def tokens(state: State) -> list[TokenView]:
    master = _of(state)
    await master.driver.settled()
    return master.people.tokens()


@get("/v1/users", summary="People and their roles")
async def users(state: State) -> list[UserView]:
    master = _of(state)
    await master.driver.settled()
    return master.people.users()


def _reached(address: str, host: str | None) -> str:
    """From elsewhere: where we listen on every address, by the name of the machine."""
    ours, port = parse_address(address)
    return format_address((next(iter(hosts_of([host or ours])), ours), port))


def _of(state: State) -> Master:
    master: Master = state.master
    return master
