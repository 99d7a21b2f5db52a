"""Prints what the demo measured: tables and a timeline. Nothing in here is meant to be copied."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from demo_service import COMMAND_TIMEOUT_MS, CONNECTIONS, QUERY_MS

LEVELS = " ▁▂▃▄▅▆▇█"
NAME_WIDTH = 16
ROWS = {
    "fresh value": (("hit", "near"), "green"),
    "stale value": (("stale",), "yellow"),
    "from database": (("loaded",), "cyan"),
}
EXAMPLES = {
    "fastapi_app.py": "FastAPI: lifespan and dependency",
    "aiohttp_app.py": "aiohttp: cleanup context, several keys at once",
    "legacy_service.py": "threads and blocking calls",
    "pip_services_app.py": "Pip.Services: a component made from configuration",
    "demo_service.py": "the service of this demo",
}


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent, and how long the service needed to get the product."""

    began: float
    seconds: float
    ok: bool
    source: str


@dataclass(frozen=True)
class Stampede:
    """Concurrent requests for one product that is not cached, and the queries that they caused."""

    answers: Sequence[Answer]
    queries: int


@dataclass(frozen=True)
class Page:
    """A response: seconds until the client had all of it, and bytes of its body."""

    seconds: float
    status: int
    size: int
    etag: str


@dataclass(frozen=True)
class Pages:
    """Requests for one page, and the runs of its handler that they caused."""

    what: str
    answers: Sequence[Page]
    runs: int


@dataclass(frozen=True)
class HotKey:
    """Seconds of each read, by the way of reading; seconds until a write elsewhere was visible."""

    seconds: dict[str, list[float]]
    delay: float


@dataclass(frozen=True)
class Outages:
    """Steady traffic, and what happened to each system: seconds after `began`."""

    answers: Sequence[Answer]
    began: float
    events: dict[str, dict[str, float]]

    @property
    def seconds(self) -> float:
        """From the first request to the last."""
        return self.answers[-1].began - self.began

    def counted(self, statuses: Sequence[str], column_seconds: float) -> list[int]:
        """Answers with one of these statuses, for each column of the timeline."""
        counts = [0] * (int(self.seconds / column_seconds) + 1)
        for answer in self.answers:
            if answer.ok and answer.source in statuses:
                counts[int((answer.began - self.began) / column_seconds)] += 1
        return counts


class Report:
    def __init__(self, console: Console) -> None:
        self._console = console

    def working(self, what: str) -> AbstractContextManager[object]:
        """Show on a terminal what goes on while nothing is printed."""
        return self._console.status(f"[dim]{what} …[/]")

    def opening(self) -> None:
        self._say(
            "Two processes of a FastAPI service share one cache server. "
            f"A database query takes [b]{QUERY_MS} ms[/];\n"
            f"each process has [b]{CONNECTIONS}[/] database connections. "
            "Times are measured in the service, without HTTP."
        )

    def stampede(self, without: Stampede, with_it: Stampede) -> None:
        requests = len(with_it.answers)
        queries = "1 database query" if with_it.queries == 1 else f"{with_it.queries} queries"
        self._heading(f"1. Cache stampede: {requests} requests for an uncached product, {queries}")
        table = self._table("", "database queries", "median", "slowest")
        for name, run, colour in (
            ("get, then set", without, "yellow"),
            ("get_or_load", with_it, "green"),
        ):
            seconds = [answer.seconds for answer in run.answers]
            table.add_row(
                Text(name, style=colour),
                f"[b]{run.queries}[/]",
                duration(percentile(seconds, 0.5)),
                duration(max(seconds)),
            )
        self._console.print(Padding(table, (1, 2, 0, 2)))
        self._say(
            "Single-flight: one request of one process loads, all others wait for its result."
        )

    def hot_key(self, hot: HotKey) -> None:
        first, *_, last = hot.seconds.values()
        slowest, fastest = percentile(first, 0.5), percentile(last, 0.5)
        self._heading(f"2. Hot key: {duration(fastest)} a read; redis-py: {duration(slowest)}")
        table = self._table(f"{len(first):,} reads, one at a time", "median", "p99", "")
        for (name, seconds), colour in zip(
            hot.seconds.items(), ("yellow", "cyan", "green"), strict=True
        ):
            middle = percentile(seconds, 0.5)
            times = slowest / middle
            table.add_row(
                Text(name, style=colour),
                duration(middle),
                duration(percentile(seconds, 0.99)),
                f"[b]{times:.1f}x[/]" if times < 10 else f"[b]{times:.0f}x[/]",
            )
        self._console.print(Padding(table, (1, 2, 0, 2)))
        self._say(
            "The client-side cache is invalidated by the server: a value that another client wrote\n"
            f"was returned [b]{duration(hot.delay)}[/] after the write (median)."
        )

    def outages(self, outages: Outages) -> None:
        answers = outages.answers
        failed = sum(not answer.ok for answer in answers)
        slowest = max(answer.seconds for answer in answers)
        self._heading(
            f"3. Outages: {len(answers):,} requests, {failed} failed, the slowest {duration(slowest)}"
        )
        room = self._console.width - NAME_WIDTH - 4
        column_seconds = max(1, ceil(outages.seconds * 10 / room)) / 10
        for name, events in outages.events.items():
            markers = Text(f"{name:<{NAME_WIDTH}}")
            for label, column in labels(events, column_seconds, room):
                markers.pad_right(NAME_WIDTH + column - len(markers))
                markers.append(label, style="red")
            top = 1 if name == next(iter(outages.events)) else 0
            self._console.print(Padding(markers, (top, 2, 0, 2)))

        counts = {
            name: outages.counted(statuses, column_seconds) for name, (statuses, _) in ROWS.items()
        }
        peak = max(map(max, counts.values()))
        for name, (_, colour) in ROWS.items():
            columns = "".join(LEVELS[-(-8 * count // peak)] for count in counts[name])
            self._console.print(f"  {name:<{NAME_WIDTH}}[{colour}]{columns}[/]", no_wrap=True)

        rate = len(answers) / outages.seconds
        stale, loaded = sum(counts["stale value"]), sum(counts["from database"])
        self._say(
            f"{rate:.0f} requests a second; a column is {column_seconds} s. "
            f"[b]{loaded}[/] were answered from the database,\n"
            f"most of them while Redis was down; [b]{stale}[/] with an expired value (stale-if-error), most "
            "of them\nwhile the database was down. "
            f"Deadline for Redis: {COMMAND_TIMEOUT_MS} ms; a query takes "
            f"{QUERY_MS} ms."
        )

    def pages(self, pages: Sequence[Pages]) -> None:
        cold, requests = pages[1], len(pages[1].answers)
        runs = "1 run of its handler" if cold.runs == 1 else f"{cold.runs} runs of its handler"
        self._heading(f"4. Whole responses: {requests} requests for an uncached page, {runs}")
        table = self._table(
            f"{requests} requests", "runs of the handler", "median", "status", "body"
        )
        for run in pages:
            first, seconds = run.answers[0], [answer.seconds for answer in run.answers]
            table.add_row(
                Text(run.what, style="yellow" if run is pages[0] else "green"),
                f"[b]{run.runs}[/]",
                duration(percentile(seconds, 0.5)),
                str(first.status),
                f"{first.size:,} bytes",
            )
        self._console.print(Padding(table, (1, 2, 0, 2)))
        self._say(
            "[b]@cache_response(ttl=60)[/] caches the response of a handler by the rules of HTTP "
            "(RFC 9111).\nTimes include HTTP. Unchanged: the client sends the ETag that it has."
        )

    def closing(self, directory: Path, seconds: float) -> None:
        self._heading("Programs to copy")
        table = Table.grid(padding=(0, 4, 0, 0))
        for name, what in EXAMPLES.items():
            path = directory / name
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            table.add_row(f"[cyan]{shown}[/]", what)
        self._console.print(Padding(table, (1, 2)))
        self._console.print(f"  [dim]Everything above was measured in these {seconds:.0f} s.[/]\n")

    def _table(self, *headings: str) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 4, 0, 0), header_style="dim")
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left", no_wrap=True)
        return table

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[b]{text}[/]", style="red", align="left"))

    def _say(self, text: str) -> None:
        self._console.print(Padding(text, (1, 2, 0, 2)))


def labels(events: dict[str, float], column_seconds: float, room: int) -> list[tuple[str, int]]:
    """The label and the column of each event: earlier where the next one, or the end of the line, would be too near."""
    placed: list[tuple[str, int]] = []
    end = room
    for event, moment in reversed(events.items()):
        label = f"▼ {event}"
        end = min(int(moment / column_seconds), end - len(label))
        placed.append((label, end))
    return placed[::-1]


def percentile(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))]


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.01:
        return f"{seconds * 1000:.0f} ms"
    if seconds >= 0.001:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-5 else f"{seconds * 1e6:.0f} µs"
