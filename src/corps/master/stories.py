"""`why`: the chain of causes of instances, told from records, events and what runs now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from corps.core.records import Event
from corps.core.story import Now, tell, tell_now, view_sentences
from corps.core.targets import find_instances
from corps.core.views import view_certificate, view_event, view_instance
from corps.errors import Invalid, NotFound
from corps.master.driver import MasterDriver
from corps.master.usage import live_usage
from corps.model.certificate import Certificate, certify
from corps.model.instance import Instance
from corps.model.view import WhyView
from corps.wire.worker import LiveUsage

WHY_MAX = 1_000
_Events = dict[str, list[Event]]


async def tell_why(
    driver: MasterDriver, targets: Sequence[str], attempt: int | None, limit: int
) -> list[WhyView]:
    """In the order of `ps`. Raise NotFound for an attempt that is not known."""
    if not 0 < limit <= WHY_MAX:
        raise Invalid(f"limit is {limit}: from 1 to {WHY_MAX}", field="limit")
    chosen = find_instances(driver.core.cluster, targets, with_dead=True)
    if len(chosen) > limit:
        newest = sorted(chosen, key=lambda instance: instance.state_since)[-limit:]
        ids = {instance.id for instance in newest}
        chosen = [instance for instance in chosen if instance.id in ids]
    live = await live_usage(driver, chosen, whole=False)
    events = _by_subject(driver.core.cluster.events, chosen)
    return [_why(driver, i, attempt, events, live.get(i.key)) for i in chosen]


def _why(
    driver: MasterDriver,
    instance: Instance,
    attempt: int | None,
    events: _Events,
    live: LiveUsage | None,
) -> WhyView:
    cluster = driver.core.cluster
    certificates = cluster.certificates_of(instance.id)
    if not instance.is_live and not any(one.key == instance.key for one in certificates):
        certificates.append(certify(instance))  # the record itself has gone before its instance
    story = _story(driver, instance, events)
    told, earlier = _attempt(instance, certificates, attempt)
    later = [*(one.timings.placed_at for one in certificates), instance.timings.placed_at]
    next_at = min((at for at in later if at > told.timings.placed_at), default=float("inf"))
    chain = tell(told, earlier, (event for event in story if event.at < next_at))
    if attempt is None:
        os_state = live.os_state if live is not None else None
        now = Now(driver.clock(), cluster.workers[instance.worker], os_state)
        chain.append(tell_now(instance, now))
    return WhyView(
        instance=view_instance(instance, live, driver.clock()),
        story=tuple(map(view_event, story)),
        sentences=view_sentences(chain),
        certificates=tuple(map(view_certificate, certificates)),
    )


def _attempt(
    instance: Instance, certificates: Sequence[Certificate], attempt: int | None
) -> tuple[Instance | Certificate, Sequence[Certificate]]:
    """The attempt to tell in full, and the deaths before it."""
    number = instance.attempt if attempt is None else attempt
    earlier = [one for one in certificates if one.attempt < number]
    for one in certificates:
        if one.attempt == number:
            return one, earlier if attempt is None else ()
    if number == instance.attempt:
        return instance, earlier if attempt is None else ()
    known = ", ".join(str(one.attempt) for one in certificates) or str(instance.attempt)
    raise NotFound(
        f"no attempt {number} of {instance.id!r}: known are {known}", instance=instance.id
    )


def _by_subject(events: Iterable[Event], chosen: Sequence[Instance]) -> _Events:
    found: _Events = {name: [] for i in chosen for name in (i.id, i.worker)}
    for event in events:
        if event.subject in found:
            found[event.subject].append(event)
    return found


def _story(driver: MasterDriver, instance: Instance, events: _Events) -> list[Event]:
    """Its own events, and those of its worker while it was there."""
    begin, end = instance.timings.placed_at, instance.ended_at or driver.clock()
    mine = events[instance.id] + [
        event for event in events[instance.worker] if begin <= event.at <= end
    ]
    return sorted(mine, key=lambda event: event.seq)
