"""Comparison of the versions of an app: medians over runs, and what differs in words.

A difference is told only when it is at least DIFFERENCE_MIN and the middle halves of both sets of
runs lie apart; with fewer than RUNS_MIN runs nothing is judged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from statistics import median, quantiles

import msgspec

from corps.core.views import rfc3339
from corps.model.name import Digest
from corps.model.view import CompareView, VersionView

RUNS_MIN = 3
DIFFERENCE_MIN = 0.05
DIGITS_MIN = 4
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt came to, or has come to so far; `is_failure` None while it lives."""

    digest: Digest
    placed_at: float
    is_failure: bool | None
    seconds: float | None = None
    launch_s: float | None = None
    cpu_s: float | None = None
    rss_peak_bytes: int | None = None
    rss_mean_bytes: int | None = None

    @property
    def cpu_s_per_hour(self) -> float | None:
        if self.cpu_s is None or not self.seconds:
            return None
        return self.cpu_s * 3_600 / self.seconds


class _Metric(msgspec.Struct, frozen=True):
    """`more`, `less` and `same` stand between the names of two versions."""

    value: Callable[[Run], float | None]
    noun: str
    label: str
    text: Callable[[float], str]
    more: str
    less: str
    same: str


def compare(app: str, runs: Iterable[Run], chosen: Sequence[Digest] = ()) -> CompareView:
    """All versions in the order of their first run, each against the one before; or `chosen`."""
    by_version: dict[Digest, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.placed_at):
        by_version.setdefault(run.digest, []).append(run)
    order = [digest for digest in chosen if digest in by_version] or list(by_version)
    names = _names(app, by_version)
    sentences: list[str] = []
    for old, new in itertools.pairwise(order):
        pair = (names[new], by_version[new]), (names[old], by_version[old])
        sentences += _judge(*pair)
    if len(order) == 1:
        sentences.append(f"{names[order[0]]} is the only version of {app} with runs")
    versions = tuple(_version(names[digest], by_version[digest]) for digest in order)
    return CompareView(app=app, versions=versions, sentences=tuple(sentences))


def _names(app: str, digests: Iterable[Digest]) -> dict[Digest, str]:
    """`web@1a2b`: as many digits as tell them apart."""
    known = list(digests)
    digits = DIGITS_MIN
    while len({digest[:digits] for digest in known}) < len(known):
        digits += 1
    return {digest: f"{app}@{digest[:digits]}" for digest in known}


def _version(name: str, runs: Sequence[Run]) -> VersionView:
    peak, mean = _median(runs, _peak), _median(runs, _mean)
    return VersionView(
        version=name,
        digest=runs[0].digest,
        first_at=rfc3339(runs[0].placed_at),
        runs=len(runs),
        runs_live=sum(run.is_failure is None for run in runs),
        failures=sum(run.is_failure is True for run in runs),
        launch_s=_median(runs, _launch),
        cpu_s_per_hour=_median(runs, _cpu),
        rss_peak_bytes=None if peak is None else round(peak),
        rss_mean_bytes=None if mean is None else round(mean),
    )


def _judge(new: tuple[str, Sequence[Run]], old: tuple[str, Sequence[Run]]) -> list[str]:
    few = [f"{name} has {len(runs)}" for name, runs in (new, old) if len(runs) < RUNS_MIN]
    if few:
        counts = " and ".join(few)
        return [f"too few runs to compare {new[0]} with {old[0]}: {counts}, it takes {RUNS_MIN}"]
    told = [sentence for metric in METRICS if (sentence := _differ(metric, new, old))]
    return [*told, *_failures(new, old)]


def _differ(
    metric: _Metric, new: tuple[str, Sequence[Run]], old: tuple[str, Sequence[Run]]
) -> str | None:
    """None when too few runs were measured."""
    ours, theirs = _values(new[1], metric.value), _values(old[1], metric.value)
    if len(ours) < RUNS_MIN or len(theirs) < RUNS_MIN:
        return None
    now, before = median(ours), median(theirs)
    evidence = (
        f"median {metric.label} {metric.text(now)} against {metric.text(before)}, "
        f"{len(ours)} and {len(theirs)} runs"
    )
    share = abs(now - before) / before if before else float(now > 0)
    if share < DIFFERENCE_MIN:
        return f"{new[0]} {metric.same} {old[0]} ({evidence})"
    if not _lie_apart(ours, theirs):
        return f"no clear difference in {metric.noun} between {new[0]} and {old[0]} ({evidence})"
    words = metric.more if now > before else metric.less
    amount = f"{share * 100:.0f} %" if before else "infinitely"
    return f"{new[0]} {words.format(amount)} {old[0]} ({evidence})"


def _failures(new: tuple[str, Sequence[Run]], old: tuple[str, Sequence[Run]]) -> list[str]:
    counts = []
    for name, runs in (new, old):
        ended = [run for run in runs if run.is_failure is not None]
        counts.append((name, sum(run.is_failure is True for run in ended), len(ended)))
    if not any(failed for _, failed, _ in counts):
        return []
    told = [f"{name} failed in {failed} of {ended}" for name, failed, ended in counts]
    return [f"of the runs that ended {' and '.join(told)}"]


def _lie_apart(first: Sequence[float], second: Sequence[float]) -> bool:
    low, high = sorted((_middle_half(first), _middle_half(second)))
    return low[1] < high[0]


def _middle_half(values: Sequence[float]) -> tuple[float, float]:
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return lower, upper


def _values(runs: Sequence[Run], value: Callable[[Run], float | None]) -> list[float]:
    return [found for run in runs if (found := value(run)) is not None]


def _median(runs: Sequence[Run], value: Callable[[Run], float | None]) -> float | None:
    values = _values(runs, value)
    return median(values) if values else None


def _peak(run: Run) -> float | None:
    return run.rss_peak_bytes


def _mean(run: Run) -> float | None:
    return run.rss_mean_bytes


def _cpu(run: Run) -> float | None:
    return run.cpu_s_per_hour


def _launch(run: Run) -> float | None:
    return run.launch_s


def _size(value: float) -> str:
    unit = 0
    while value >= 1023.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if value < 100 else f"{value:.0f} {_UNITS[unit]}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


METRICS = (
    _Metric(
        _peak,
        "memory",
        "peak",
        _size,
        "uses {} more memory than",
        "uses {} less memory than",
        "uses as much memory as",
    ),
    _Metric(
        _mean,
        "memory on average",
        "mean",
        _size,
        "uses {} more memory on average than",
        "uses {} less memory on average than",
        "uses as much memory on average as",
    ),
    _Metric(
        _cpu,
        "CPU time",
        "CPU an hour",
        _seconds,
        "uses {} more CPU time than",
        "uses {} less CPU time than",
        "uses as much CPU time as",
    ),
    _Metric(
        _launch,
        "the time of a launch",
        "launch",
        _seconds,
        "takes {} longer to start than",
        "takes {} less long to start than",
        "starts as fast as",
    ),
)
