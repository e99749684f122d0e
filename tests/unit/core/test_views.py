"""The rows an operator sees."""

from __future__ import annotations

import msgspec
import pytest

from corps.core.records import Event
from corps.core.usage import view_instance_usage
from corps.core.views import (
    rfc3339,
    view_event,
    view_instance,
    view_usage,
    view_worker,
)
from corps.model.instance import (
    Cause,
    Death,
    Exited,
    InstanceState,
    Signaled,
    SpawnFailed,
    Usage,
    Vanished,
)
from corps.model.view import UsageView
from corps.wire.worker import LiveUsage
from tests.support.build import NOW, a_dead_instance, a_worker, an_instance

USED = Usage(cpu_user_s=1.0, cpu_system_s=0.5, max_rss_bytes=4096)
LIVE = LiveUsage(key="web.1#1", os_state="sleeping", usage=USED)


def test_times_are_rfc3339_in_utc_and_missing_ones_null() -> None:
    assert rfc3339(NOW + 0.1234) == "2025-06-15T15:06:40.123Z"
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(None) is None


def test_a_row_of_what_lives_says_what_the_system_says() -> None:
    row = view_instance(an_instance(), LIVE)
    assert (row.id, row.app, row.worker, row.pid, row.attempt) == ("web.1", "web", "w1", 100, 1)
    assert (row.state, row.os_state, row.death, row.ended_at) == ("running", "sleeping", None, None)
    assert row.started_at == "2025-06-15T15:06:40.000Z"
    assert row.usage.cpu_user_s == 1.0


def test_what_could_not_be_asked_is_null_and_never_zero() -> None:
    row = view_instance(an_instance(state=InstanceState.UNKNOWN))
    assert row.os_state is None
    assert row.usage == UsageView(
        cpu_user_s=None, cpu_system_s=None, max_rss_bytes=None, rss_bytes=None
    )
    assert view_usage(None) == row.usage


def test_a_late_word_of_the_living_does_not_touch_the_dead() -> None:
    final = Usage(cpu_user_s=9.0, cpu_system_s=9.0, max_rss_bytes=9)
    row = view_instance(a_dead_instance(usage=final), LIVE)
    assert (row.os_state, row.usage.cpu_user_s) == (None, 9.0)


@pytest.mark.parametrize(
    ("death", "expected"),
    [
        (Exited(code=3), {"kind": "exited", "code": 3}),
        (
            Signaled(signal=9, core_dumped=True),
            {"kind": "signaled", "signal": 9, "core_dumped": True},
        ),
        (
            SpawnFailed(stage="execve", errno=2, message="x"),
            {"kind": "spawn_failed", "stage": "execve", "errno": 2},
        ),
        (Vanished(reason="x"), {"kind": "vanished"}),
    ],
)
def test_a_death_shows_what_applies_and_null_for_the_rest(
    death: Death, expected: dict[str, object]
) -> None:
    row = view_instance(a_dead_instance(death=death)).death
    assert row is not None
    shown = {key: value for key, value in msgspec.to_builtins(row).items() if value is not None}
    assert shown == {**expected, "cause": Cause.SELF, "message": "exited 0"}


def test_rows_of_usage_workers_and_events() -> None:
    usage = view_instance_usage(an_instance(), LIVE)
    assert (usage.id, usage.state, usage.cpu_system_s) == ("web.1", "running", 0.5)
    worker = view_worker(a_worker(labels={"zone": "a"}), 0.25, 3)
    assert (worker.name, worker.last_seen_s, worker.instances) == ("w1", 0.25, 3)
    event = Event(seq=7, at=NOW, kind="died", subject="web.1", message="exited 0", worker="w1")
    assert view_event(event).at == "2025-06-15T15:06:40.000Z"
