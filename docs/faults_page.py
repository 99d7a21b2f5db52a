"""Write the table and the charts of explanation/fault-injection.md from the figures of a run.

Run `python docs/faults_page.py`. With `--check` it writes nothing, and fails if the page is out of date.
The figures are faults/scenarios.json and faults/soak.json, written by `nox -s faults -- --page` and
`nox -s soak -- --page`.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

import msgspec
from benchmark_charts import THEMES, Theme, time_series
from marked_places import filled, put

DOCS = Path(__file__).parent
PAGE = DOCS / "explanation" / "fault-injection.md"
FOLDER = DOCS / "faults"
MEGABYTE = 1_000_000


class Row(msgspec.Struct):
    scenario: int
    title: str
    test: str
    promise: str
    proof: bool
    figure: str
    runs: int
    failed: int
    skipped: int
    servers: list[str]


class Scenarios(msgspec.Struct):
    """A run of all scenarios."""

    date: str
    python: str
    servers: list[str]
    long: bool
    rows: list[Row]


class Usage(msgspec.Struct):
    """The resources of the process at one time."""

    seconds: float
    resident: int
    blocks: int
    descriptors: int
    tasks: int
    threads: int


class Soak(msgspec.Struct):
    """A soak test. `at_rest` is measured between its rounds, `under_way` while it serves."""

    date: str
    server: str
    at_rest: list[Usage]
    under_way: list[Usage]
    wrong: list[str]
    codes: dict[str, int]
    faults: dict[str, int]


class Figures(msgspec.Struct):
    scenarios: Scenarios | None
    """None if no run has been recorded."""
    soak: Soak


def main() -> None:
    run = FOLDER / "scenarios.json"
    figures = Figures(
        msgspec.json.decode(run.read_bytes(), type=Scenarios) if run.exists() else None,
        msgspec.json.decode((FOLDER / "soak.json").read_bytes(), type=Soak),
    )
    texts = {name: text(figures) for name, text in TEXTS.items()}
    wanted = {PAGE: filled(PAGE, texts, Path(__file__).name)}
    for theme in THEMES:
        wanted[FOLDER / f"soak-{theme}.svg"] = draw_soak(THEMES[theme], figures.soak)
    put(wanted, Path(__file__).name)


def scenarios(figures: Figures) -> str:
    """Return a row for each guarantee, grouped by scenario."""
    if figures.scenarios is None:
        return "No run has been recorded yet.\n"
    lines = ["| scenario | guarantee | measured | result |", "|---|---|---|---|"]
    for _, rows in groupby(figures.scenarios.rows, key=lambda row: row.scenario):
        for number, row in enumerate(rows):
            title = "" if number else f"{row.scenario}. {row.title}"
            guarantee = f"*negative control:* {row.promise}" if row.proof else row.promise
            cells = (title, guarantee, row.figure, result(row))
            # The cells are plain text, not Markdown.
            lines.append(f"| {' | '.join(cells).replace('<', '&lt;')} |")
    return "".join(f"{line}\n" for line in lines)


def result(row: Row) -> str:
    if not row.test:
        return "**no test**"
    count = f"{row.runs} run{'' if row.runs == 1 else 's'}"
    if row.failed or row.skipped:
        return f"**failed or skipped in {row.failed + row.skipped} of {count}**"
    return f"passed in {count}"


def conditions(figures: Figures) -> str:
    run = figures.scenarios
    if run is None:
        return ""
    form = "in the long form" if run.long else "in the short form"
    return (
        f"Recorded on {run.date}, {form}, with Python {run.python}, {' and '.join(run.servers)}.\n"
    )


def soak(figures: Figures) -> str:
    found = figures.soak
    start, first, last = found.at_rest[0], found.at_rest[1], found.at_rest[-1]
    calls, faults = sum(found.codes.values()), sum(found.faults.values())
    return (
        f"In {last.seconds / 60:.0f} minutes on {found.date} there were {calls:,} calls, "
        f"{faults:,} faults, and {len(found.wrong)} wrong values. Before and after the run, with all "
        f"caches closed, the process had {start.descriptors} and {last.descriptors} descriptors, "
        f"{start.threads} and {last.threads} threads, {start.tasks} and {last.tasks} tasks. Its memory "
        f"was {first.resident / MEGABYTE:.1f} MB after the first of {len(found.at_rest) - 1} rounds "
        f"and {last.resident / MEGABYTE:.1f} MB after the last; Python had allocated {first.blocks:,} "
        f"and {last.blocks:,} memory blocks.\n"
    )


def draw_soak(theme: Theme, found: Soak) -> str:
    def series(of: Callable[[Usage], float], usage: list[Usage]) -> list[tuple[float, float]]:
        return [(sample.seconds, of(sample)) for sample in usage]

    return time_series(
        theme,
        "Resources of a service under random faults",
        "At rest: between rounds, with all caches closed. Otherwise: while serving.",
        {
            "MB at rest": series(lambda sample: sample.resident / MEGABYTE, found.at_rest),
            "MB": series(lambda sample: sample.resident / MEGABYTE, found.under_way),
            "blocks at rest": series(lambda sample: sample.blocks, found.at_rest),
            "descriptors at rest": series(lambda sample: sample.descriptors, found.at_rest),
            "descriptors": series(lambda sample: sample.descriptors, found.under_way),
            "tasks": series(lambda sample: sample.tasks, found.under_way),
            "threads": series(lambda sample: sample.threads, found.under_way),
        },
    )


TEXTS: Mapping[str, Callable[[Figures], str]] = {
    "conditions": conditions,
    "scenarios": scenarios,
    "soak": soak,
}


if __name__ == "__main__":
    main()
