"""Write the tables and timelines of case-study.md from the figures of a run.

Run `python docs/case_study_page.py`. With `--check` it writes nothing, and fails if the page is out of date.
The figures are case-study/figures.json, written by `nox -s case-study -- --json docs/case-study/figures.json`.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import msgspec
from marked_places import filled, put

PAGE = Path(__file__).parent / "case-study.md"
FIGURES = PAGE.with_suffix("") / "figures.json"

COMPARED_WITH = {
    "no cache": [],
    "cache-aside": ["no cache"],
    "single-flight": ["cache-aside"],
    "refresh-ahead": ["single-flight"],
    "stale-while-revalidate": ["refresh-ahead"],
    "tag invalidation": ["stale-while-revalidate"],
    "batch reload": ["tag invalidation"],
    "near cache": ["batch reload"],
    'Redis killed, fail_open="never"': ["near cache"],
    "Redis killed": ["near cache", 'Redis killed, fail_open="never"'],
}
"""By step, the steps above it in its table."""

COLUMNS = ("requests", "loads", "slow", "p50", "p99", "max", "errors", "outdated", "round trips")
LEVELS = " ▁▂▃▄▅▆▇█"
LATENCIES = (10, 25, 50, 100, 250, 500, 1000, 1500)
"""The smallest latency of each level, in milliseconds."""
MARGIN = 14


class Period(msgspec.Struct):
    begin: float
    end: float


class Step(msgspec.Struct):
    step: str
    requests: int
    loads: int
    slow: int
    p50: float
    p99: float
    max: float
    errors: int
    outdated: int
    round_trips: int
    loads_by_column: list[int]
    max_by_column: list[float]
    errors_by_column: list[int]


class Figures(msgspec.Struct):
    conditions: str
    scenario: dict[str, str]
    length: float
    periods: dict[str, Period]
    steps: list[Step]

    @property
    def max_in_a_column(self) -> int:
        """The largest number of queries or errors in a column of any step."""
        return max(max(step.loads_by_column + step.errors_by_column) for step in self.steps)


def main() -> None:
    figures = msgspec.json.decode(FIGURES.read_bytes(), type=Figures)
    texts = {
        "scenario": scenario(figures),
        "all steps": table(figures.steps),
        "levels": levels(figures),
        **{step.step: section(figures, step) for step in figures.steps},
    }
    script = Path(__file__).name
    put({PAGE: filled(PAGE, texts, script)}, script)


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a Markdown table; all columns but the first are right-aligned."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table(steps: Iterable[Step]) -> str:
    return grid(
        ("", *COLUMNS),
        (
            [
                step.step,
                f"{step.requests:,}",
                f"{step.loads:,}",
                f"{step.slow:,}",
                *(f"{ms:,.{0 if ms >= 10 else 1}f}" for ms in (step.p50, step.p99)),
                f"{step.max:,.0f}",
                f"{step.errors:,}",
                f"{step.outdated:,}",
                f"{step.round_trips:,}",
            ]
            for step in steps
        ),
    )


def scenario(figures: Figures) -> str:
    rows = {**figures.scenario, "measured": figures.conditions}
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines) + "\n"


def levels(figures: Figures) -> str:
    each = figures.max_in_a_column / (len(LEVELS) - 1)
    counts = [f"{each * level:.0f}" for level in range(1, len(LEVELS))]
    columns = len(figures.steps[0].loads_by_column)
    rows = (
        ["queries and errors, up to", *counts],
        ["maximum latency in ms, from", *(f"{ms:,}" for ms in LATENCIES)],
    )
    width = f"A column of a timeline is {figures.length / columns:g} s.\n\n"
    return width + grid(["", *LEVELS[1:]], rows)


def section(figures: Figures, step: Step) -> str:
    """Return the table that compares the step with earlier ones, and its timeline."""
    by_name = {one.step: one for one in figures.steps}
    rows = [by_name[name] for name in COMPARED_WITH[step.step]]
    return f"{table([*rows, step])}\n```text\n{timeline(figures, step)}```\n"


def timeline(figures: Figures, step: Step) -> str:
    columns = len(step.loads_by_column)
    each = columns / figures.length

    faults = ["·"] * columns
    for name, period in figures.periods.items():
        if name != "no Redis" or step.step.startswith("Redis killed"):
            begin, end = round(period.begin * each), round(period.end * each)
            faults[begin:end] = f"{name:─^{end - begin}}"
    lines = {
        "second": "".join(
            f"{second:<{round(2 * each)}}" for second in range(0, round(figures.length), 2)
        ),
        "": "".join(faults),
        "queries": "".join(level(figures, count) for count in step.loads_by_column),
        "max latency": "".join(LEVELS[bisect_right(LATENCIES, ms)] for ms in step.max_by_column),
        "errors": "".join(level(figures, count) for count in step.errors_by_column),
    }
    return "".join(f"{name:<{MARGIN}}{line}".rstrip() + "\n" for name, line in lines.items())


def level(figures: Figures, count: int) -> str:
    return LEVELS[-(-count * (len(LEVELS) - 1) // figures.max_in_a_column)]


if __name__ == "__main__":
    main()
