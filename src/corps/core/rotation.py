"""Rotating the CA under the eyes of all workers: nobody is left behind, nobody has to join anew.

    steady --RotateCa--> spreading --all trust both--> replacing --all have new ones--> steady

The driver makes keys and files; which CAs there are it says by Rooted. What a worker has it says
itself, by Trusting: a lie would only leave that worker behind.
"""

from __future__ import annotations

import msgspec

from corps.core.events import Rooted
from corps.core.ledger import Ledger
from corps.model.identity import MASTER
from corps.model.name import WorkerName
from corps.model.trail import Deed, Outcome
from corps.model.trust import RENEW_GRACE_S, Member
from corps.wire.worker import Trust, Trusting

PINS_MAX = 8
PIN_MAX_CHARS = 64
RENEWALS_A_SECOND = 100.0  # of a whole cluster at once: a quarter of a core


def rooted(ledger: Ledger, event: Rooted) -> None:
    """Other CAs than before: whoever is connected hears of it, others when they come."""
    ledger.rooted = event
    rotation = ledger.cluster.meta.rotation
    if rotation is not None and rotation.pin not in event.pins:
        ledger.save(msgspec.structs.replace(ledger.cluster.meta, rotation=None))
        text = f"the CA of pin {rotation.pin} is trusted no more"
        ledger.happened("ca-rotated", "ca", text)
        ledger.audit(Deed(who=MASTER, act="ca-rotated", outcome=Outcome.DONE, detail=text))
    for name in list(ledger.session_of):
        member = ledger.cluster.roll.members.get(name)
        if member is not None:
            _tell(ledger, member)


def heard(ledger: Ledger, worker: WorkerName, said: Trusting) -> None:
    member = ledger.cluster.roll.members.get(worker)
    words = (*said.pins, said.issuer)
    if member is None or len(words) > PINS_MAX or max(map(len, words)) > PIN_MAX_CHARS:
        return
    if (member.trusts, member.issuer) != (said.pins, said.issuer):
        member = msgspec.structs.replace(member, trusts=said.pins, issuer=said.issuer)
        ledger.save(member)
    _tell(ledger, member)


def lagging(ledger: Ledger) -> tuple[WorkerName, ...]:
    """For whom a rotation waits: those that may come back and would know nobody here."""
    if ledger.rooted is None or ledger.cluster.meta.rotation is None:
        return ()
    ended_at = ledger.now - RENEW_GRACE_S
    return tuple(
        member.worker
        for member in ledger.cluster.roll.members.values()
        if member.revoked_at is None
        and member.expires_at > ended_at
        and not _is_up_to_date(ledger, ledger.rooted, member)
    )


def _is_up_to_date(ledger: Ledger, now: Rooted, member: Member) -> bool:
    rotation = ledger.cluster.meta.rotation
    is_replacing = rotation is not None and rotation.pin != now.pins[0]
    trusts_all = all(pin in member.trusts for pin in now.pins)
    return trusts_all and (not is_replacing or member.issuer == now.pins[0])


def _tell(ledger: Ledger, member: Member) -> None:
    now = ledger.rooted
    if now is None or (member.trusts == now.pins and member.issuer == now.pins[0]):
        return
    spread_s = len(ledger.session_of) / RENEWALS_A_SECOND
    ledger.send_to(member.worker, Trust(authorities=now.authorities, spread_s=spread_s))
