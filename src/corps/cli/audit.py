"""audit: performance records, the usage of runs over time, and versions compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

import click

from corps.cli import render
from corps.cli.moment import parse_since, unix
from corps.cli.operator import Operator
from corps.cli.options import TARGET, Aim, Verb, all_option, figures_option, verb
from corps.cli.plot import Series, has_blocks, plot, terminal_width
from corps.cli.render import MISSING, Column, Listing, Output
from corps.errors import Malformed
from corps.model.view import AuditView, CompareView, SampleView, VersionView

RUN = "run"
PHASES = ("send", "fetch", "fork", "exec", "install", "upload")


class AuditOptions(TypedDict):
    targets: tuple[str, ...]
    is_all: bool
    since: str | None
    is_plot: bool
    has_series: bool
    is_compare: bool
    output: Output


class Audit(Verb):
    """Performance, or with one of these words first the audit trail; loaded when it is asked for.

    An app of such a name is told apart by `--` before it.
    """

    WORDS = ("trail", "verify", "export")

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if not args or args[0] not in self.WORDS:
            return super().make_context(info_name, args, parent, **extra)
        from corps.cli import trail  # noqa: PLC0415  # figures need none of it

        command = getattr(trail, args[0])
        assert isinstance(command, click.Command)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)


@verb("audit", Audit)
@click.argument("targets", nargs=-1, type=TARGET, metavar="[TARGET...]")
@all_option
@click.option("--since", metavar="T", help="RFC 3339, or how long ago: 10m.")
@click.option("--plot", "is_plot", is_flag=True, help="Draw the usage of runs over time.")
@click.option("--series", "has_series", is_flag=True, help="Usage over time, in JSON and CSV.")
@click.option(
    "--compare", "is_compare", is_flag=True, help="TARGET is NAME, or NAME@A NAME@B: versions."
)
@figures_option
@click.pass_obj
def audit(operator: Operator, **options: Unpack[AuditOptions]) -> None:
    """Performance records: each copy, launch and run with phases, bytes, rates and durations.

    In JSON the runs of named TARGETs have their usage over time. --compare tells how the versions
    of an app differ in memory, CPU time, time to start and failures.

    'corps audit trail' tells who did what, 'corps audit verify' proves it, 'corps audit export'
    writes it down.
    """
    targets, output = options["targets"], options["output"]
    if sum((options["is_plot"], options["has_series"], options["is_compare"])) > 1:
        raise Malformed("give one of --plot, --series and --compare")
    if options["is_compare"]:
        if options["is_all"] or options["since"] is not None or not targets:
            raise Malformed("--compare takes NAME, or NAME@A NAME@B, and nothing else")
        _show_comparison(operator.client.compare(targets), output)
        return
    if options["is_all"]:
        Aim(targets, options["is_all"]).check()
    since = None if options["since"] is None else parse_since(options["since"], operator.now)
    is_json = output in (Output.JSON, Output.JSONL)
    wants = options["has_series"] or options["is_plot"] or (is_json and bool(targets))
    rows = operator.client.audit(targets, since, with_series=wants)
    if options["is_plot"]:
        _check_table(output, "--plot")
        render.write_lines(_plots(rows))
    elif options["has_series"] and not is_json:
        lines = [(row, sample) for row in rows for sample in row.samples or ()]
        render.show(lines, SAMPLES, output)
    else:
        render.show(rows, AUDIT, output)


def _check_table(output: Output, what: str) -> None:
    if output not in (Output.TABLE, Output.WIDE):
        raise Malformed(f"{what} draws: it cannot be -o {output}")


def _plots(rows: Sequence[AuditView]) -> list[str]:
    width, blocks = terminal_width(), has_blocks()
    lines: list[str] = []
    for row in rows:
        if row.kind != RUN:
            continue
        lines += [f"{row.subject}#{row.attempt} on {row.worker}: {row.outcome}"]
        if row.samples is None:
            lines.append(f"{row.worker} does not answer: its usage over time is kept there")
        elif not row.samples:
            lines.append("nothing is kept of its usage over time")
        else:
            for title, text, series in _curves(row.samples):
                lines += plot(title, series, text, width, blocks=blocks)
            lines.append(f"{row.samples[0].at} to {row.samples[-1].at}")
        lines.append("")
    return lines


def _curves(
    samples: Sequence[SampleView],
) -> list[tuple[str, Callable[[float], str], Series]]:
    at = [unix(sample.at) for sample in samples]

    def gauge(name: str) -> Series:
        return [(when, getattr(s, name)) for when, s in zip(at, samples, strict=True)]

    return [
        ("CPU", lambda value: f"{value:.3g} %", gauge("cpu_percent")),
        ("RSS", _size, gauge("rss_max_bytes")),
        ("threads", lambda value: f"{value:.0f}", gauge("threads")),
        ("fds", lambda value: f"{value:.0f}", gauge("fds")),
        ("read", _rate, _rates(at, [sample.io_read_bytes for sample in samples])),
        ("written", _rate, _rates(at, [sample.io_write_bytes for sample in samples])),
    ]


def _rates(at: Sequence[float], counts: Sequence[int | None]) -> Series:
    """Bytes a second since the sample before."""
    found: list[tuple[float, float | None]] = [(at[0], None)]
    for (begin, before), (end, after) in itertools.pairwise(zip(at, counts, strict=True)):
        rate = None
        if before is not None and after is not None and end > begin:
            rate = (after - before) / (end - begin)
        found.append((end, rate))
    return found


def _size(value: float) -> str:
    return render.size(round(value))


def _rate(value: float) -> str:
    return f"{_size(value)}/s"


def _optional_rate(value: float | None) -> str:
    return MISSING if value is None else _rate(value)


def _show_comparison(comparison: CompareView, output: Output) -> None:
    if output in (Output.JSON, Output.JSONL):
        render.write_json(comparison, is_line=output is Output.JSONL)
        return
    render.show(comparison.versions, VERSIONS, output)
    if output in (Output.TABLE, Output.WIDE):
        render.write_lines(["", *comparison.sentences] if comparison.sentences else [])


def _phases(row: AuditView) -> str:
    return " ".join(f"{name}={seconds:.4f}" for name, seconds in row.phases_s.items()) or MISSING


def _bytes(row: AuditView) -> str:
    if row.bytes_sent is None:
        return MISSING
    return f"{render.size(row.bytes_sent)} of {render.size(row.bytes_total)}"


def _cpu_s(row: AuditView) -> float | None:
    """Of the whole tree where it was sampled, else of the process itself."""
    used = row.tree or row.usage
    if used is None or used.cpu_user_s is None or used.cpu_system_s is None:
        return None
    return used.cpu_user_s + used.cpu_system_s


def _peak(row: AuditView) -> int | None:
    return row.tree.rss_peak_bytes if row.tree else row.usage.max_rss_bytes if row.usage else None


def _phase(name: str) -> tuple[str, Callable[[AuditView], object]]:
    return f"{name}_s", lambda row: row.phases_s.get(name)


SampleLine: TypeAlias = tuple[AuditView, SampleView]
AUDIT: Listing[AuditView] = Listing(
    lambda row: row.subject,
    (
        Column("AT", lambda row: row.at),
        Column("KIND", lambda row: row.kind),
        Column("SUBJECT", lambda row: row.subject),
        Column("ATTEMPT", lambda row: render.number(row.attempt), is_wide=True),
        Column("DIGEST", lambda row: render.short(row.digest or MISSING), is_wide=True),
        Column("WORKER", lambda row: row.worker or MISSING),
        Column("BY", lambda row: row.by),
        Column("COMMAND", lambda row: row.command, is_wide=True),
        Column("SECONDS", lambda row: render.duration(row.seconds)),
        Column("SENT", _bytes),
        Column("FROM PEERS", lambda row: render.size(row.bytes_from_peers), is_wide=True),
        Column("RATE", lambda row: _optional_rate(row.rate_bytes_s)),
        Column("CPU", lambda row: render.duration(_cpu_s(row))),
        Column("PEAK RSS", lambda row: render.size(_peak(row))),
        Column("PHASES", _phases, is_wide=True),
        Column("OUTCOME", lambda row: row.outcome),
    ),
    (
        *render.csv_fields("at kind subject attempt digest worker by command seconds"),
        *map(_phase, PHASES),
        *render.csv_fields("bytes_sent bytes_total bytes_from_peers rate_bytes_s"),
        *render.csv_fields(
            "cpu_user_s cpu_system_s max_rss_bytes max_rss_source", lambda row: row.usage
        ),
        *render.csv_fields(
            "samples cpu_user_s cpu_system_s rss_mean_bytes rss_peak_bytes processes_max "
            "threads_max fds_max io_read_bytes io_write_bytes",
            lambda row: row.tree,
            "tree_",
        ),
        *render.csv_fields("outcome"),
    ),
)
SAMPLES: Listing[SampleLine] = Listing(
    lambda line: line[0].subject,
    (
        Column("AT", lambda line: line[1].at),
        Column("INSTANCE", lambda line: line[0].subject),
        Column("CPU %", lambda line: _percent(line[1])),
        Column("RSS", lambda line: render.size(line[1].rss_bytes)),
        Column("PROCESSES", lambda line: str(line[1].processes), is_wide=True),
        Column("THREADS", lambda line: str(line[1].threads)),
        Column("FDS", lambda line: render.number(line[1].fds)),
        Column("READ", lambda line: render.size(line[1].io_read_bytes)),
        Column("WRITTEN", lambda line: render.size(line[1].io_write_bytes)),
    ),
    (
        *render.csv_fields("subject attempt", lambda line: line[0]),
        *render.csv_fields(
            "at cpu_percent rss_bytes rss_max_bytes processes threads fds io_read_bytes "
            "io_write_bytes",
            lambda line: line[1],
        ),
    ),
)
VERSIONS: Listing[VersionView] = Listing(
    lambda row: row.version,
    (
        Column("VERSION", lambda row: row.version),
        Column("SINCE", lambda row: row.first_at, is_wide=True),
        Column("RUNS", lambda row: str(row.runs)),
        Column("LIVE", lambda row: str(row.runs_live)),
        Column("FAILED", lambda row: str(row.failures)),
        Column("LAUNCH", lambda row: render.duration(row.launch_s)),
        Column("CPU AN HOUR", lambda row: render.duration(row.cpu_s_per_hour)),
        Column("PEAK RSS", lambda row: render.size(row.rss_peak_bytes)),
        Column("MEAN RSS", lambda row: render.size(row.rss_mean_bytes)),
    ),
    render.csv_fields(
        "version digest first_at runs runs_live failures launch_s cpu_s_per_hour rss_peak_bytes "
        "rss_mean_bytes"
    ),
)


def _percent(sample: SampleView) -> str:
    return MISSING if sample.cpu_percent is None else f"{sample.cpu_percent:.1f}"
