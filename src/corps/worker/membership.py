"""Joining a cluster by a token, before the daemon begins.

    joining/ID.pem              the key of a worker that asks by token ID, until it has joined
    workers/NAME/trust/         what it got (trust/credentials.py)

Whoever lost the answer asks again with the same key, which costs no second use of the token.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from corps.config import Settings
from corps.daemon import make_private
from corps.errors import Conflict, Invalid, Unavailable
from corps.model.name import WorkerName, check_name
from corps.model.token import Token, TokenKind, parse_token
from corps.net.address import format_address
from corps.net.join_client import join
from corps.trust.authority import key_pem
from corps.trust.credentials import DIRECTORY, Credentials, read_key
from corps.trust.files import write_private
from corps.trust.names import identity_of
from corps.worker.facts import default_name, members

JOINING = "joining"


def become_member(
    settings: Settings, address: tuple[str, int], text: str, name: WorkerName | None
) -> WorkerName:
    """Join by the token `text`, unless a worker here did so before; which one. Raise CorpsError."""
    token = parse_token(text, TokenKind.JOIN)
    if name is not None:
        check_name("worker", name)
    for member in members(settings.worker_dir("")):
        if name in (None, member) and _credentials(settings, member).token == token.id:
            return member
    waiting = settings.state_dir / JOINING / f"{token.id}.pem"
    try:
        return _join(settings, address, token, name, waiting)
    except OSError as error:
        where, why = format_address(address), error.strerror or error
        raise Unavailable(
            f"cannot join at {where}: {why}; the token is as good as before"
        ) from error


def _join(
    settings: Settings,
    address: tuple[str, int],
    token: Token,
    name: WorkerName | None,
    waiting: Path,
) -> WorkerName:
    key = _waiting_key(waiting)
    joined = join(address, token, name, name or _host(), key)
    name = check_name("worker", joined.worker)
    make_private(settings.worker_dir(name))
    credentials = _credentials(settings, name)
    _check_no_other_cluster(credentials, joined.certificate)
    credentials.save(key, joined.certificate, joined.authorities, token.id)
    waiting.unlink()
    return joined.worker


def _check_no_other_cluster(credentials: Credentials, certificate: bytes) -> None:
    """Raise Conflict. The name may be the master's choice: none takes the key for another's."""
    if not credentials.are_there:
        return
    theirs = identity_of(ssl.PEM_cert_to_DER_cert(certificate.decode("ascii")))
    if (ours := credentials.identity()).cluster != theirs.cluster:
        raise Conflict(
            f"worker {theirs.worker} here is of another cluster, {ours.cluster}, and stays so: "
            "join with another --name or --dir, by a new token"
        )


def _waiting_key(path: Path) -> ec.EllipticCurvePrivateKey:
    make_private(path.parent)
    if path.exists():
        return read_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, key_pem(key))
    return key


def _host() -> WorkerName:
    """What to be called if neither the token nor anybody here says it; it may be nothing."""
    try:
        return default_name()
    except Invalid:
        return ""


def _credentials(settings: Settings, name: WorkerName) -> Credentials:
    return Credentials(settings.worker_dir(name) / DIRECTORY)
