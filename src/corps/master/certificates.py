"""The master's CA, its own certificate and the TLS of its ports, each made at first need.

A master on loopback whose workers join without a token never needs them, and so does not load what
makes them: 8 MB and a sixth of a second.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corps.errors import Unavailable

if TYPE_CHECKING:
    from corps.trust.authority import Authority

ALWAYS = ("127.0.0.1", "::1", "localhost")
_DNS = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class Certificates:
    """Those in `directory`. For one thread: the event loop's. `hosts`: names and addresses by which
    the master is reached; `now`: unix seconds."""

    def __init__(
        self, directory: Path, cluster: str, now: Callable[[], float], hosts: Sequence[str] = ()
    ) -> None:
        self._directory, self._cluster, self._now = directory, cluster, now
        self._hosts = sorted({*ALWAYS, *hosts})
        self._authority: Authority | None = None
        self._contexts: dict[bool, ssl.SSLContext] = {}  # by whether clients may show a certificate
        self._renew_at = 0.0
        self._leaf = b""

    @property
    def leaf(self) -> bytes:
        """The certificate, in DER, that the contexts of this moment show."""
        return self._leaf

    @property
    def known(self) -> Authority | None:
        """The CA, if it was ever made: looking makes none."""
        is_made = self._authority is not None or (self._directory / "ca.pem").exists()
        return self.authority if is_made else None

    @property
    def authority(self) -> Authority:
        """Raise Unavailable, or Denied for a key that others can read."""
        if self._authority is None:
            from corps.trust.authority import Authority  # noqa: PLC0415  # see above

            self._authority = Authority(self._directory, self._cluster, self._now())
        return self._authority

    def workers_context(self) -> ssl.SSLContext:
        """For who may show a worker's certificate: control, bulk, swarm, join. A certificate of
        another CA fails in the handshake; whose it is and until when is to be judged after it."""
        return self._context(wants_client=True)

    def people_context(self) -> ssl.SSLContext:
        """For HTTPS: people show tokens."""
        return self._context(wants_client=False)

    def renew(self) -> None:
        """The CA has changed: connections from now on see that."""
        self._contexts.clear()

    def _context(self, *, wants_client: bool) -> ssl.SSLContext:
        from corps.trust.contexts import server_context  # noqa: PLC0415  # see above

        if self._now() >= self._renew_at:
            self._contexts.clear()
        if not self._contexts:
            self._certify()
        if wants_client not in self._contexts:
            try:
                self._contexts[wants_client] = server_context(
                    self._directory / "master.pem",
                    self._directory / "master.key",
                    self.authority.bundle_pem.decode("ascii"),
                    wants_client=wants_client,
                )
            except (OSError, ssl.SSLError) as error:
                raise Unavailable(
                    f"cannot use the master's certificate in {self._directory}: {error}"
                ) from error
        return self._contexts[wants_client]

    def _certify(self) -> None:
        """Have a certificate of this CA, for these hosts, in the first half of its life."""
        authority = self.authority
        renew_at = authority.master_renew_at(self._hosts)
        if renew_at <= self._now():
            authority.issue_master(self._hosts, self._now())
            renew_at = authority.master_renew_at(self._hosts)
        self._renew_at = renew_at
        pem, end, _ = (self._directory / "master.pem").read_text("ascii").partition(ssl.PEM_FOOTER)
        self._leaf = ssl.PEM_cert_to_DER_cert(pem + end)  # its heirs follow (trust/authority.py)


def hosts_of(addresses: Iterable[str]) -> list[str]:
    """What a certificate can say of where we listen: for `0.0.0.0` and `::` the machine's name."""
    names = [socket.gethostname() if _is_any(address) else address for address in addresses]
    return [name for name in names if _DNS.fullmatch(name) or _is_ip(name)]


def _is_any(address: str) -> bool:
    return _is_ip(address) and ipaddress.ip_address(address).is_unspecified


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
