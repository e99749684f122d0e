"""Placement spreads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from corps.core.placement import place

LOADS = st.dictionaries(
    st.sampled_from([f"w{number}" for number in range(12)]),
    st.integers(min_value=0, max_value=20),
    min_size=1,
)


def test_the_least_loaded_is_next_and_of_equals_the_first_by_name() -> None:
    assert place(4, {"w2": 1, "w1": 1, "w3": 0}) == ["w3", "w1", "w2", "w3"]


@given(st.integers(min_value=0, max_value=50), LOADS)
def test_everything_is_placed_on_somebody_who_may_be_chosen(
    count: int, loads: dict[str, int]
) -> None:
    chosen = place(count, loads)
    assert len(chosen) == count
    assert set(chosen) <= set(loads)


@given(st.integers(min_value=0, max_value=50), LOADS)
def test_nobody_is_chosen_who_has_more_than_another_would_have(
    count: int, loads: dict[str, int]
) -> None:
    chosen = place(count, loads)
    after = {name: load + chosen.count(name) for name, load in loads.items()}
    for name in set(chosen):
        assert after[name] <= min(after.values()) + 1


@given(st.integers(min_value=0, max_value=50), LOADS)
def test_the_order_in_which_workers_are_known_does_not_matter(
    count: int, loads: dict[str, int]
) -> None:
    names = sorted(loads, reverse=True)
    assert place(count, {name: loads[name] for name in names}) == place(count, loads)
