"""What a step of the story comes to, and how it is printed."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from case_study_database import LENGTH
from case_study_shop import category_of
from case_study_worker import Answer, Change

COLUMNS = 64
"""Into how many parts a step is divided, to see what happens when."""
WAIT = 25
"""Milliseconds; shorter than any query."""
NAME_WIDTH = 33


@dataclass(frozen=True)
class Figures:
    """One step. Latencies are milliseconds, from the moment at which a request was due."""

    step: str
    requests: int
    loads: int
    """Queries that the database was asked."""
    waited: int
    """Requests that took longer than `WAIT`, which no cache does."""
    p50: float
    p99: float
    longest: float
    errors: int
    old: int
    """Answers with a price that had been changed, and the service told so, before the question."""
    round_trips: int
    """To Redis, of all processes."""
    loads_by_column: list[int]
    longest_by_column: list[float]
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
    """The figures of a step that began then.

    Args:
        step: its name.
        answers: to all who asked.
        changes: that the service was told of.
        queries: when each was made, in seconds of the story.
        round_trips: of all processes.
        began: when, by `time.monotonic`.
        pace: real seconds for each second of the story.
    """
    latencies = sorted((answer.ended - answer.due) * 1000 for answer in answers)
    longest, errors = [0.0] * COLUMNS, [0] * COLUMNS
    for answer in answers:
        column = _column((answer.due - began) / pace)
        longest[column] = max(longest[column], round((answer.ended - answer.due) * 1000, 2))
        errors[column] += answer.price_list is None
    loads = [0] * COLUMNS
    for moment in queries:
        loads[_column(moment)] += 1
    return Figures(
        step=step,
        requests=len(answers),
        loads=len(queries),
        waited=sum(latency > WAIT for latency in latencies),
        p50=round(latencies[len(latencies) // 2], 1),
        p99=round(latencies[len(latencies) * 99 // 100], 1),
        longest=round(latencies[-1], 1),
        errors=sum(errors),
        old=_old(answers, changes),
        round_trips=round_trips,
        loads_by_column=loads,
        longest_by_column=longest,
        errors_by_column=errors,
    )


def _column(moment: float) -> int:
    # What is asked after the end, or a hair before the begin, counts where it is nearest.
    return min(max(0, int(moment / LENGTH * COLUMNS)), COLUMNS - 1)


def _old(answers: Iterable[Answer], changes: Iterable[Change]) -> int:
    told: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
    for change in changes:
        told[change.category].append((change.told, change.price_list))
    for known in told.values():
        known.sort()
    return sum(
        answer.price_list is not None
        and answer.price_list < _newest(told[category_of(answer.number)], answer.began)
        for answer in answers
    )


def _newest(known: list[tuple[float, int]], moment: float) -> int:
    """The newest of the price lists that were known at a moment."""
    before = known[: bisect_right(known, moment, key=lambda change: change[0])]
    return max((price_list for _, price_list in before), default=0)


def heading() -> str:
    return " " * NAME_WIDTH + "".join(f"{name:>{width}}" for name, width in _WIDTHS.items())


def row(figures: Figures) -> str:
    """The figures under the heading."""
    cells = (
        f"{figures.requests:,}",
        f"{figures.loads:,}",
        f"{figures.waited:,}",
        *(f"{ms:,.{0 if ms >= 10 else 1}f}" for ms in (figures.p50, figures.p99, figures.longest)),
        f"{figures.errors:,}",
        f"{figures.old:,}",
        f"{figures.round_trips:,}",
    )
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS.values(), strict=True))


_WIDTHS = {
    "requests": 8,
    "loads": 7,
    "waited": 8,
    "p50 ms": 8,
    "p99": 7,
    "longest": 9,
    "errors": 8,
    "old": 6,
    "round trips": 13,
}
