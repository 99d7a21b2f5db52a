"""Writes the tables and pictures of case-study.md from the figures of a run.

`python docs/case_study_page.py` writes them; with `--check` it fails if that would change anything.
The figures are case-study/figures.json, which `nox -s story -- --json docs/case-study/figures.json` measures.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import msgspec
from marked_places import filled, put

PAGE = Path(__file__).parent / "case-study.md"
FIGURES = PAGE.with_suffix("") / "figures.json"

FROM = {
    "no cache": [],
    "a cache by hand": ["no cache"],
    "one load": ["a cache by hand"],
    "refresh ahead": ["one load"],
    "stale values": ["refresh ahead"],
    "tags": ["stale values"],
    "loaded anew at once": ["tags"],
    "near cache": ["loaded anew at once"],
    'Redis killed, fail_open="never"': ["near cache"],
    "Redis killed": ["near cache", 'Redis killed, fail_open="never"'],
}
"""Each step, and those that stand above it in its table."""

COLUMNS = ("requests", "loads", "waited", "p50", "p99", "longest", "errors", "old", "round trips")
LEVELS = " ▁▂▃▄▅▆▇█"
WAITS = (10, 25, 50, 100, 250, 500, 1000, 1500)
"""Milliseconds from which on a wait has each of the levels."""
MARGIN = 14


class Stretch(msgspec.Struct):
    begin: float
    end: float


class Step(msgspec.Struct):
    step: str
    requests: int
    loads: int
    waited: int
    p50: float
    p99: float
    longest: float
    errors: int
    old: int
    round_trips: int
    loads_by_column: list[int]
    longest_by_column: list[float]
    errors_by_column: list[int]


class Figures(msgspec.Struct):
    conditions: str
    scenario: dict[str, str]
    length: float
    stretches: dict[str, Stretch]
    steps: list[Step]

    @property
    def most_in_a_column(self) -> int:
        """Queries or errors."""
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
    """Markdown; every column but the first to the right."""
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
                f"{step.waited:,}",
                *(f"{wait:,.{0 if wait >= 10 else 1}f}" for wait in (step.p50, step.p99)),
                f"{step.longest:,.0f}",
                f"{step.errors:,}",
                f"{step.old:,}",
                f"{step.round_trips:,}",
            ]
            for step in steps
        ),
    )


def scenario(figures: Figures) -> str:
    rows = {**figures.scenario, "measured": figures.conditions}
    lines = ["| | |", "| --- | --- |", *(f"| {what} | {how} |" for what, how in rows.items())]
    return "\n".join(lines) + "\n"


def levels(figures: Figures) -> str:
    each = figures.most_in_a_column / (len(LEVELS) - 1)
    counts = [f"{each * level:.0f}" for level in range(1, len(LEVELS))]
    columns = len(figures.steps[0].loads_by_column)
    rows = (
        ["queries and errors, up to", *counts],
        ["longest wait in ms, from", *(f"{wait:,}" for wait in WAITS)],
    )
    width = f"A column is {figures.length / columns:g} s of the story.\n\n"
    return width + grid(["", *LEVELS[1:]], rows)


def section(figures: Figures, step: Step) -> str:
    """The step below those that it is compared with, and what happened when."""
    compared = {one.step: one for one in figures.steps}
    rows = [compared[name] for name in FROM[step.step]]
    return f"{table([*rows, step])}\n```text\n{picture(figures, step)}```\n"


def picture(figures: Figures, step: Step) -> str:
    columns = len(step.loads_by_column)
    each = columns / figures.length

    weather = ["·"] * columns
    for name, stretch in figures.stretches.items():
        if name != "no Redis" or step.step.startswith("Redis killed"):
            begin, end = round(stretch.begin * each), round(stretch.end * each)
            weather[begin:end] = f"{name:─^{end - begin}}"
    lines = {
        "second": "".join(
            f"{second:<{round(2 * each)}}" for second in range(0, round(figures.length), 2)
        ),
        "": "".join(weather),
        "queries": "".join(counted(figures, count) for count in step.loads_by_column),
        "longest wait": "".join(
            LEVELS[bisect_right(WAITS, wait)] for wait in step.longest_by_column
        ),
        "errors": "".join(counted(figures, count) for count in step.errors_by_column),
    }
    return "".join(f"{name:<{MARGIN}}{line}".rstrip() + "\n" for name, line in lines.items())


def counted(figures: Figures, count: int) -> str:
    return LEVELS[-(-count * (len(LEVELS) - 1) // figures.most_in_a_column)]


if __name__ == "__main__":
    main()
