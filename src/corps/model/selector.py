"""SELECTOR: which workers an operator means.

`all`, or a comma-separated list of names (`w1,w3`), ranges (`w[1-8]`) and labels (`zone=a`).
A worker is meant when it is one of the names (if any are given) and has every label given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from corps.errors import Invalid, NotFound
from corps.model.name import check_name, did_you_mean
from corps.model.worker import Worker

TERMS_MAX = 1_000
RANGE_MAX = 10_000
ALL = "all"
_RANGE = re.compile(r"([a-z0-9._-]*)\[([0-9]{1,9})-([0-9]{1,9})\]([a-z0-9._-]*)")
_LABEL = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9._/-]{0,62})=([a-zA-Z0-9._/-]{0,63})")


class Selector(msgspec.Struct, frozen=True):
    """Parsed SELECTOR; empty names mean every worker."""

    names: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


def check_label(text: str) -> tuple[str, str]:
    """`zone=a` -> ("zone", "a"); raise Invalid for anything else."""
    match = _LABEL.fullmatch(text)
    if match is None:
        raise Invalid(f"bad label {text[:80]!r}: spelled KEY=VALUE, as in zone=a", field="label")
    return match[1], match[2]


def parse_selector(text: str) -> Selector:
    """Raise Invalid when `text` is not a SELECTOR."""
    if text == ALL:
        return Selector()
    terms = text.split(",")
    if len(terms) > TERMS_MAX:
        raise Invalid(f"selector of {len(terms)} terms: at most {TERMS_MAX}", field="selector")
    names: dict[str, None] = {}
    labels: dict[tuple[str, str], None] = {}
    for term in terms:
        if "=" in term:
            labels[check_label(term)] = None
        else:
            names.update(dict.fromkeys(_expand(term)))
        if len(names) > RANGE_MAX:
            raise Invalid(f"selector of over {RANGE_MAX} names", field="selector")
    return Selector(tuple(names), tuple(labels))


def select(selector: Selector, workers: Iterable[Worker]) -> list[Worker]:
    """The workers meant, by name; raise NotFound for a name nobody has."""
    by_name = {worker.name: worker for worker in workers}
    for name in selector.names:
        if name not in by_name:
            raise NotFound(f"no worker {name!r}{did_you_mean(name, by_name)}", worker=name)
    chosen = selector.names or tuple(sorted(by_name))
    return [
        by_name[name]
        for name in chosen
        if all(by_name[name].labels.get(key) == value for key, value in selector.labels)
    ]


def _expand(term: str) -> list[str]:
    match = _RANGE.fullmatch(term)
    if match is None:
        return [check_name("worker", term)]
    head, first, last, tail = match[1], match[2], match[3], match[4]
    count = int(last) - int(first) + 1
    if not 0 < count <= RANGE_MAX:
        raise Invalid(
            f"bad range {term!r}: it must count up, at most {RANGE_MAX}", field="selector"
        )
    width = len(first) if first.startswith("0") else 0
    return [
        check_name("worker", f"{head}{number:0{width}d}{tail}")
        for number in range(int(first), int(last) + 1)
    ]
