"""Write the tables and charts of benchmarks.md from the figures of a run.

Run `python docs/benchmark_page.py`. With `--check` it writes nothing, and fails if the page is out of date.
The figures are benchmarks/figures.json, written by `nox -s bench -- --page --json docs/benchmarks/figures.json`.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
from benchmark_charts import THEMES, Theme, bars, lines
from benchmark_figures import OURS, PLAIN, PROTOCOL, REFERENCE, Figures
from marked_places import filled, put

PAGE = Path(__file__).parent / "benchmarks.md"
FOLDER = PAGE.with_suffix("")

HIT = "retrieve, hit, 100 B"
TASKS = {f"{HIT}, {n} task{'' if n == '1' else 's'}": n for n in ("1", "10", "100", "1,000")}
THREADS = {f"{HIT}, {n} thread{'' if n == '1' else 's'}": n for n in ("1", "8", "32")}
AT_100 = {
    "retrieve, hit, 100 B, 100 tasks": "retrieve 100 B",
    "store, 100 B, max_size 1,000, 1,000 keys, 100 tasks": "store 100 B",
    "retrieve, hit, 10 KB, 100 tasks": "retrieve 10 KB",
}
NEAR_MISS = {f"{HIT}, near miss, {n} task{'' if n == '1' else 's'}": n for n in ("1", "10", "100")}
NEAR_HIT = "near hit, 100 B, 1 task"
NO_SERIALIZER = {
    f"{HIT}, no serializer, {n} task{'' if n == '1' else 's'}": n for n in TASKS.values()
}
ON_UVLOOP = {**TASKS, "retrieve_many of 100, 100 B, 1 task": "100 keys at once"}
LOST = 0.95
"""Speed relative to a peer below which a row counts as lost. Above it, equal clients change places."""


def main() -> None:
    figures = msgspec.json.decode((FOLDER / "figures.json").read_bytes(), type=Figures)
    tables = {name: table(figures) for name, table in TABLES.items()}
    wanted = {PAGE: filled(PAGE, tables, Path(__file__).name)}
    for name, draw in PICTURES.items():
        for theme in THEMES:
            wanted[FOLDER / f"{name}-{theme}.svg"] = draw(THEMES[theme], figures)
    put(wanted, Path(__file__).name)


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a Markdown table; all columns but the first are right-aligned."""
    head = list(head)
    table = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def paces(
    figures: Figures, section: str, rows: Mapping[str, str], reference: str = REFERENCE
) -> list[list[str]]:
    """Return a row for each peer: microseconds per call, and the speed relative to the reference."""
    table: list[list[str]] = []
    for peer in figures.peers(section, *rows):
        cells = [peer]
        for row in rows:
            pace = figures.pace(section, row, peer, reference)
            cell = ""
            if figures.rounds(section, row, peer):
                cell = microseconds(figures, section, row, peer)
            if peer != reference and pace is not None:
                cell += f" ({number(pace)}x)"
            cells.append(f"**{cell}**" if peer == OURS and cell else cell)
        if peer == OURS:
            cells[0] = f"**{peer}**"
        table.append(cells)
    return table


def number(value: float) -> str:
    """Format with at most three digits, and no more than the precision of the measurement."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def compared(
    section: str, rows: Mapping[str, str], what: str, reference: str = REFERENCE
) -> Callable[[Figures], str]:
    def table(figures: Figures) -> str:
        return grid([what, *rows.values()], paces(figures, section, rows, reference))

    return table


def open_loop(figures: Figures) -> str:
    head = ("calls per second", "", "completed", "p50", "p99", "client CPU per call")
    rows: list[list[str]] = []
    of_asyncio = [sample for sample in figures.open_loop if sample.section == "asyncio"]
    for rate in sorted({sample.rate for sample in of_asyncio}):
        for peer in (OURS, REFERENCE):
            runs = [sample for sample in of_asyncio if (sample.rate, sample.peer) == (rate, peer)]
            served = sum(run.served for run in runs) / sum(run.arrivals for run in runs)
            p50, p99 = (
                statistics.median(getattr(run, cut) or float("nan") for run in runs)
                for cut in ("p50", "p99")
            )
            processor = statistics.median(run.processor_each for run in runs)
            rows.append(
                [
                    f"{rate:,}",
                    f"**{peer}**" if peer == OURS else peer,
                    f"{served:.0%}",
                    f"{p50:.1f} ms",
                    f"{p99:.1f} ms",
                    f"{processor * 1e6:.0f} µs",
                ]
            )
    return grid(head, rows)


def footprint(figures: Figures) -> str:
    costs = figures.footprint
    rows = [
        [f"`{name}`", f"{cost.seconds * 1000:.0f} ms, {cost.modules} modules"]
        for name, cost in costs.imports.items()
    ]
    rows += [
        [f"each additional idle `{name}`", f"{idle.kilobytes:.0f} KB, {idle.threads:.0f} threads"]
        for name, idle in costs.idle.items()
    ]
    return grid(("", "cost"), rows)


def losses(figures: Figures) -> str:
    """List all rows in which a peer is faster than this library, the largest difference first."""
    found: list[tuple[float, str]] = []
    for section, row in dict.fromkeys((sample.section, sample.row) for sample in figures.samples):
        faster = {
            peer: pace
            for peer in figures.peers(section, row)
            if not peer.startswith(OURS)
            and (pace := figures.pace(section, row, OURS, peer)) is not None
            and pace < LOST
        }
        if not faster:
            continue
        about = f", {section.partition(', ')[2] or section}" if "uvloop" in section else ""
        theirs = ", ".join(
            f"{peer} {microseconds(figures, section, row, peer)} ({pace:.2f}x)"
            for peer, pace in sorted(faster.items(), key=lambda item: item[1])
        )
        ours = microseconds(figures, section, row, OURS)
        found.append((min(faster.values()), f"- {row}{about}: {OURS} {ours}; {theirs}\n"))
    return "".join(line for _, line in sorted(found)) or "- None in this run.\n"


def microseconds(figures: Figures, section: str, row: str, peer: str) -> str:
    each = figures.each(section, row, peer)
    return "failed" if each is None else f"{number(each * 1e6)} µs"


def conditions(figures: Figures) -> str:
    about = figures.environment
    versions = [f"{name} {version}" for name, version in about.packages.items() if version]
    rows = [
        ["date", about.date[:10]],
        ["processor", f"{about.processor}, {about.cores} cores, shared by clients and server"],
        ["system", f"{about.system}, {about.python}"],
        ["server", f"{about.server}, without persistence, over TCP on the loopback interface"],
        ["packages", ", ".join(versions)],
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in [["", ""], ["---", "---"], *rows])


def per_second(figures: Figures, section: str, row: str) -> dict[str, float]:
    found = {peer: figures.each(section, row, peer) for peer in figures.peers(section, row)}
    return {peer: 1 / each for peer, each in found.items() if each}


def draw_at_100(theme: Theme, figures: Figures) -> str:
    columns = {heading: per_second(figures, "asyncio", row) for row, heading in AT_100.items()}
    for column in columns.values():
        column.pop(f"{OURS}, max_size=0", None)
    return bars(
        theme,
        "100 tasks on one event loop",
        "Calls per second, higher is better. async-redis-cache stores with max_size=1000.",
        columns,
    )


def draw_tasks(theme: Theme, figures: Figures) -> str:
    by_row = [per_second(figures, "asyncio", row) for row in TASKS]
    series = {
        peer: [row[peer] for row in by_row]
        for peer in figures.peers("asyncio", *TASKS)
        if all(peer in row for row in by_row)
    }
    return lines(
        theme,
        "Throughput by the number of tasks",
        "Retrieves of 100 B per second. Logarithmic scale.",
        [f"{n} task{'' if n == '1' else 's'}" for n in TASKS.values()],
        series,
    )


def draw_threads(theme: Theme, figures: Figures) -> str:
    columns = {
        f"{n} thread{'' if n == '1' else 's'}": per_second(figures, "threads", row)
        for row, n in THREADS.items()
    }
    for row, column in zip(THREADS, columns.values(), strict=True):
        on_uvloop = figures.each("threads, uvloop", row, OURS)
        if on_uvloop:
            column[f"{OURS}, uvloop"] = 1 / on_uvloop
    return bars(
        theme,
        "Threads that share one cache",
        "Retrieves of 100 B per second, higher is better.",
        columns,
    )


def draw_near(theme: Theme, figures: Figures) -> str:
    return bars(
        theme,
        "Near hits",
        "Retrieves of 100 B per second by one task, higher is better. redis-py reads from the server.",
        {"": per_second(figures, "near cache", NEAR_HIT)},
    )


TABLES: Mapping[str, Callable[[Figures], str]] = {
    "tasks": compared("asyncio", TASKS, "tasks"),
    "at 100 tasks": compared("asyncio", AT_100, "100 tasks"),
    "open loop": open_loop,
    "near hit": compared("near cache", {NEAR_HIT: "time per hit"}, "one task"),
    "near miss": compared("near misses", NEAR_MISS, "tasks", PLAIN),
    "threads": compared("threads", THREADS, "threads"),
    "threads on uvloop": compared("threads, uvloop", THREADS, "threads, private loop on uvloop"),
    "uvloop": compared("uvloop", ON_UVLOOP, "tasks, on uvloop"),
    "no serializer": compared("no serializer", NO_SERIALIZER, "tasks", PROTOCOL),
    "footprint": footprint,
    "losses": losses,
    "conditions": conditions,
}
PICTURES: Mapping[str, Callable[[Theme, Figures], str]] = {
    "at-100-tasks": draw_at_100,
    "tasks": draw_tasks,
    "near-hit": draw_near,
    "threads": draw_threads,
}


if __name__ == "__main__":
    main()
