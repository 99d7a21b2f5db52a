"""The figures of a step of the case study, and the table that is printed."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from case_study_database import LENGTH
from case_study_shop import category_of
from case_study_worker import Answer, Change

COLUMNS = 64
"""Number of intervals into which a step is divided for its timeline."""
SLOW = 25
"""Milliseconds; shorter than any query."""
NAME_WIDTH = 33


@dataclass(frozen=True)
class Figures:
    """One step. Latencies are milliseconds from the time at which a request was due."""

    step: str
    requests: int
    loads: int
    """Queries to the database."""
    slow: int
    """Requests that took longer than `SLOW`, which means that they waited for a query."""
    p50: float
    p99: float
    max: float
    errors: int
    outdated: int
    """Answers with an old price, although the change was applied before the request began."""
    round_trips: int
    """Round trips to Redis, of all processes."""
    loads_by_column: list[int]
    max_by_column: list[float]
    errors_by_column: list[int]


def figures_of(
    step: str,
    *,
    answers: Sequence[Answer],
    changes: Iterable[Change],
    queries: Sequence[float],
    round_trips: int,
    began: float,
    pace: float,
) -> Figures:
    """Compute the figures of a step.

    Args:
        step: its name.
        answers: the results of all requests.
        changes: the price changes that the service has applied.
        queries: the time of each query, in seconds of the step.
        round_trips: those of all processes.
        began: when the step began, by `time.monotonic`.
        pace: real seconds per second of the step.
    """
    latencies = sorted((answer.ended - answer.due) * 1000 for answer in answers)
    longest, errors = [0.0] * COLUMNS, [0] * COLUMNS
    for answer in answers:
        column = _column((answer.due - began) / pace)
        longest[column] = max(longest[column], round((answer.ended - answer.due) * 1000, 2))
        errors[column] += answer.price_list is None
    loads = [0] * COLUMNS
    for second in queries:
        loads[_column(second)] += 1
    return Figures(
        step=step,
        requests=len(answers),
        loads=len(queries),
        slow=sum(latency > SLOW for latency in latencies),
        p50=round(latencies[len(latencies) // 2], 1),
        p99=round(latencies[len(latencies) * 99 // 100], 1),
        max=round(latencies[-1], 1),
        errors=sum(errors),
        outdated=_outdated(answers, changes),
        round_trips=round_trips,
        loads_by_column=loads,
        max_by_column=longest,
        errors_by_column=errors,
    )


def _column(second: float) -> int:
    # Events slightly before the beginning or after the end count in the first or last column.
    return min(max(0, int(second / LENGTH * COLUMNS)), COLUMNS - 1)


def _outdated(answers: Iterable[Answer], changes: Iterable[Change]) -> int:
    applied: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    for change in changes:
        applied[change.category].append((change.applied, change.price_list))
    for of_category in applied.values():
        of_category.sort()
    return sum(
        answer.price_list is not None
        and answer.price_list < _newest(applied[category_of(answer.number)], answer.began)
        for answer in answers
    )


def _newest(applied: list[tuple[float, int]], time: float) -> int:
    """Return the newest price list that had been applied by this time."""
    before = applied[: bisect_right(applied, time, key=lambda change: change[0])]
    return max((price_list for _, price_list in before), default=0)


def heading() -> str:
    return " " * NAME_WIDTH + "".join(f"{name:>{width}}" for name, width in _WIDTHS.items())


def row(figures: Figures) -> str:
    """Format the figures as a row below the heading."""
    cells = (
        f"{figures.requests:,}",
        f"{figures.loads:,}",
        f"{figures.slow:,}",
        *(f"{ms:,.{0 if ms >= 10 else 1}f}" for ms in (figures.p50, figures.p99, figures.max)),
        f"{figures.errors:,}",
        f"{figures.outdated:,}",
        f"{figures.round_trips:,}",
    )
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS.values(), strict=True))


_WIDTHS = {
    "requests": 8,
    "loads": 7,
    "slow": 7,
    "p50 ms": 8,
    "p99": 7,
    "max": 7,
    "errors": 8,
    "outdated": 10,
    "round trips": 13,
}
