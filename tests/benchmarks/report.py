"""The table on the screen and the file beside it."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .footprint import Footprint
from .open_loop import OpenLoopSample
from .runs import Results
from .samples import Sample
from .workloads import OPEN_LOOP_GOALS, OURS, PUBLISHED, REFERENCE, UNBOUNDED, Goal, Workload


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times the pace of the reference: medians over the rounds, and the rounds' ends."""

    wall: float
    slowest: float
    fastest: float
    processor: float


@dataclass(frozen=True, slots=True)
class Row:
    """A workload, measured: microseconds per call of each peer, and ratios to the reference."""

    workload: Workload
    microseconds: dict[str, float]
    ratios: dict[str, Ratio]
    errors: dict[str, dict[str, int]]

    @property
    def goal(self) -> Goal | None:
        return self.workload.goal

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is met; None where there is none. A failed call misses every goal."""
        if self.goal is None:
            return None
        ours = self.ratios.get(OURS)
        return (
            ours is not None
            and not self.errors.get(OURS)
            and self.goal.is_reached(ours.wall, ours.processor)
        )


def row_of(workload: Workload, samples: Iterable[Sample]) -> Row:
    """Put the rounds of one row together; each ratio is taken within its round."""
    rounds: dict[str, dict[int, Sample]] = {}
    errors: dict[str, dict[str, int]] = {}
    for sample in samples:
        rounds.setdefault(sample.peer, {})[sample.round] = sample
        for error, count in sample.errors.items():
            counts = errors.setdefault(sample.peer, {})
            counts[error] = counts.get(error, 0) + count
    microseconds = {
        peer: statistics.median(sample.wall_each for sample in of_peer.values()) * 1e6
        for peer, of_peer in rounds.items()
    }
    reference = rounds.get(workload.reference, {})
    ratios = {
        peer: _ratio([(reference[number], of_peer[number]) for number in of_peer])
        for peer, of_peer in rounds.items()
        if peer != workload.reference and of_peer.keys() <= reference.keys()
    }
    return Row(workload, microseconds, ratios, errors)


def _ratio(pairs: Sequence[tuple[Sample, Sample]]) -> Ratio:
    walls = [_quotient(theirs.wall_each, peers.wall_each) for theirs, peers in pairs]
    processors = [_quotient(theirs.processor_each, peers.processor_each) for theirs, peers in pairs]
    median = statistics.median
    return Ratio(median(walls), min(walls), max(walls), median(processors))


def _quotient(reference: float, peer: float) -> float:
    """A peer that did nothing has no pace: 0, also beside a reference that did nothing either."""
    return reference / peer if math.isfinite(peer) and peer > 0 else 0.0


def rows_of(results: Results, section: str, workloads: Sequence[Workload]) -> list[Row]:
    by_name: dict[str, list[Sample]] = {}
    for sample in results.samples:
        if sample.section == section:
            by_name.setdefault(sample.row, []).append(sample)
    return [
        row_of(workload, by_name[workload.name])
        for workload in workloads
        if workload.name in by_name
    ]


def print_rows(console: Console, title: str, rows: Sequence[Row]) -> None:
    """One line per workload: our time and the reference's, all ratios, the goal."""
    known = (UNBOUNDED, PUBLISHED)
    others = [peer for peer in known if any(peer in row.ratios for row in rows)]
    reference = rows[0].workload.reference
    table = _table(title)
    table.add_column("work")
    table.add_column("callers", justify="right")
    table.add_column("ours µs", justify="right")
    table.add_column(f"{reference} µs", justify="right")
    table.add_column("ratio", justify="right", style="bold")
    table.add_column("rounds", justify="right", style="dim")
    table.add_column("cpu ratio", justify="right")
    for other in others:
        table.add_column(other.removeprefix(f"{OURS}, "), justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    for work in dict.fromkeys(row.workload.work for row in rows):
        table.add_section()
        for row in (row for row in rows if row.workload.work == work):
            ours = row.ratios.get(OURS)
            table.add_row(
                work,
                f"{row.workload.callers:,}",
                _microseconds(row, OURS),
                _microseconds(row, reference),
                "" if ours is None else _times(ours.wall),
                "" if ours is None else f"{_times(ours.slowest)} to {_times(ours.fastest)}",
                "" if ours is None else _times(ours.processor),
                *(_times(row.ratios[peer].wall) if peer in row.ratios else "" for peer in others),
                "" if row.goal is None else str(row.goal),
                _verdict(row.is_reached),
            )
    console.print(table)
    for row in rows:
        for peer, errors in row.errors.items():
            what = ", ".join(f"{count} {error}" for error, count in errors.items())
            console.print(Text(f"  {row.workload.name}: {peer}: {what}", style="red"))


def print_peers(console: Console, title: str, rows: Sequence[Row]) -> None:
    """One line per peer, with its ratio in each row; nothing where nobody but us is compared."""
    peers = dict.fromkeys(peer for row in rows for peer in row.ratios)
    if peers.keys() <= {OURS, UNBOUNDED, PUBLISHED}:
        return
    compared = [row for row in rows if len(row.ratios.keys() - {UNBOUNDED, PUBLISHED}) > 1]
    table = _table(f"{title}: every peer, {compared[0].workload.reference} = 1")
    table.add_column("peer")
    for row in compared:
        table.add_column(row.workload.name, justify="right")
    for peer in peers:
        ratios = [_times(row.ratios[peer].wall) if peer in row.ratios else "" for row in compared]
        table.add_row(peer, *ratios)
    console.print(table)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
    )


def _microseconds(row: Row, peer: str) -> str:
    microseconds = row.microseconds.get(peer)
    if microseconds is None or not math.isfinite(microseconds):
        return "failed"
    return f"{microseconds:.1f}" if microseconds < 100 else f"{microseconds:,.0f}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x"


def _verdict(reached: bool | None) -> Text:
    if reached is None:
        return Text("")
    return Text("reached", style="green") if reached else Text("missed", style="bold red")


def is_open_loop_goal_reached(rate: int, samples: Sequence[OpenLoopSample]) -> bool | None:
    """Whether we served all calls, with a p99 so much sooner than the reference's at that rate."""
    goal = OPEN_LOOP_GOALS.get(rate)
    ours, theirs = (
        [sample for sample in samples if sample.peer == peer and sample.rate == rate]
        for peer in (OURS, REFERENCE)
    )
    if goal is None or not (ours and theirs):
        return None
    all_served = all(sample.served == sample.arrivals for sample in ours)
    p99, reference = (statistics.median(run.p99 for run in runs) for runs in (ours, theirs))
    return all_served and p99 * goal <= reference


def print_open_loop(console: Console, title: str, samples: Sequence[OpenLoopSample]) -> None:
    table = _table(title)
    table.add_column("arrivals a second", justify="right")
    table.add_column("peer")
    for column in ("served", "of", "a second", "p50 ms", "p99 ms", "cpu µs each"):
        table.add_column(column, justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    for rate in sorted({sample.rate for sample in samples}):
        table.add_section()
        for peer in dict.fromkeys(sample.peer for sample in samples):
            runs = [sample for sample in samples if (sample.rate, sample.peer) == (rate, peer)]
            if not runs:
                continue
            median = statistics.median
            goal = OPEN_LOOP_GOALS.get(rate) if peer == OURS else None
            table.add_row(
                f"{rate:,}",
                peer,
                f"{sum(run.served for run in runs):,}",
                f"{sum(run.arrivals for run in runs):,}",
                f"{median(run.in_time_per_second for run in runs):,.0f}",
                f"{median(run.p50 for run in runs):.1f}",
                f"{median(run.p99 for run in runs):.1f}",
                f"{median(run.processor_each for run in runs) * 1e6:.0f}",
                "" if goal is None else f"all, p99 {goal:g}x sooner",
                _verdict(is_open_loop_goal_reached(rate, samples) if peer == OURS else None),
            )
    console.print(table)


def print_footprint(console: Console, footprint: Footprint) -> None:
    table = _table("footprint")
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    for name, cost in footprint.imports.items():
        table.add_row(name, f"{cost.seconds * 1000:.0f} ms", f"{cost.modules} modules")
    table.add_section()
    for name, idle in footprint.idle.items():
        held = f"{idle.kilobytes:.0f} KB", f"{idle.threads:.1f} threads"
        table.add_row(f"one more idle {name}", *held)
    console.print(table)


def write_json(path: Path, results: Results) -> None:
    """Indented but for the samples, of which each has a line."""
    # msgspec writes what is not a number as null, where the standard library leaves JSON.
    written = msgspec.json.format(msgspec.json.encode(results.as_json()), indent=1)
    lines = re.sub(rb"(?m)^  \{\n(?:   .*\n)+?  \}", _on_one_line, written)
    path.write_bytes(lines + b"\n")


def _on_one_line(sample: re.Match[bytes]) -> bytes:
    return b"  " + msgspec.json.format(sample[0].strip(), indent=0)
