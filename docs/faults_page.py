"""Writes the table and the pictures of explanation/fault-injection.md from the figures of a run.

`python docs/faults_page.py` writes them; with `--check` it fails if that would change anything.
The figures are faults/scenarios.json and faults/soak.json, which `nox -s faults` and `nox -s soak`
write with `--page`.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

import msgspec
from benchmark_charts import THEMES, Theme, courses
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


class Taken(msgspec.Struct):
    seconds: float
    resident: int
    blocks: int
    descriptors: int
    tasks: int
    threads: int


class Soak(msgspec.Struct):
    """A soak: what the process held under way, and at rest between its rounds."""

    date: str
    server: str
    at_rest: list[Taken]
    under_way: list[Taken]
    wrong: list[str]
    codes: dict[str, int]
    faults: dict[str, int]


class Figures(msgspec.Struct):
    scenarios: Scenarios | None
    """None until a run has been recorded."""
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
    """A row for each promise, under its scenario's number and name."""
    if figures.scenarios is None:
        return "No run has been recorded yet.\n"
    lines = ["| scenario | promise | figure | verdict |", "|---|---|---|---|"]
    for _, rows in groupby(figures.scenarios.rows, key=lambda row: row.scenario):
        for number, row in enumerate(rows):
            title = "" if number else f"{row.scenario}. {row.title}"
            promise = f"*the proof:* {row.promise}" if row.proof else row.promise
            cells = (title, promise, row.figure, verdict(row))
            # What stands there is text, and no Markdown.
            lines.append(f"| {' | '.join(cells).replace('<', '&lt;')} |")
    return "".join(f"{line}\n" for line in lines)


def verdict(row: Row) -> str:
    if not row.test:
        return "**missing**"
    count = f"{row.runs} run{'' if row.runs == 1 else 's'}"
    if row.failed or row.skipped:
        return f"**not kept in {row.failed + row.skipped} of {count}**"
    return f"kept in {count}"


def conditions(figures: Figures) -> str:
    run = figures.scenarios
    if run is None:
        return ""
    form = "in full" if run.long else "in the short form"
    return (
        f"Recorded on {run.date}, {form}, with Python {run.python}, {' and '.join(run.servers)}.\n"
    )


def soak(figures: Figures) -> str:
    found = figures.soak
    start, first, last = found.at_rest[0], found.at_rest[1], found.at_rest[-1]
    calls, faults = sum(found.codes.values()), sum(found.faults.values())
    return (
        f"In {last.seconds / 60:.0f} minutes on {found.date} there were {calls:,} calls and "
        f"{faults:,} faults, and {len(found.wrong)} wrong values. Before and after, with all caches "
        f"closed, the process had {start.descriptors} and {last.descriptors} descriptors, "
        f"{start.threads} and {last.threads} threads, {start.tasks} and {last.tasks} tasks. Its memory "
        f"was {first.resident / MEGABYTE:.1f} MB after the first of {len(found.at_rest) - 1} rounds "
        f"and {last.resident / MEGABYTE:.1f} MB after the last, of which Python held {first.blocks:,} "
        f"and {last.blocks:,} pieces.\n"
    )


def draw_soak(theme: Theme, found: Soak) -> str:
    def course(of: Callable[[Taken], float], taken: list[Taken]) -> list[tuple[float, float]]:
        return [(look.seconds, of(look)) for look in taken]

    return courses(
        theme,
        "What a service takes in bad weather",
        "At rest: between rounds, with all caches closed. Otherwise: while it serves.",
        {
            "MB at rest": course(lambda look: look.resident / MEGABYTE, found.at_rest),
            "MB": course(lambda look: look.resident / MEGABYTE, found.under_way),
            "pieces at rest": course(lambda look: look.blocks, found.at_rest),
            "descriptors at rest": course(lambda look: look.descriptors, found.at_rest),
            "descriptors": course(lambda look: look.descriptors, found.under_way),
            "tasks": course(lambda look: look.tasks, found.under_way),
            "threads": course(lambda look: look.threads, found.under_way),
        },
    )


TEXTS: Mapping[str, Callable[[Figures], str]] = {
    "conditions": conditions,
    "scenarios": scenarios,
    "soak": soak,
}


if __name__ == "__main__":
    main()
