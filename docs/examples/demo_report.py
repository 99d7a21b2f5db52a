"""How the demo shows what it measured: tables, bars and a timeline. Nothing to copy in here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from demo_service import QUERIES_AT_ONCE, QUERY_MS

CACHE, STORE, AWAY = "cache", "store", "store, cache away"
COLUMN_SECONDS = 0.1
LEVELS = " ▁▂▃▄▅▆▇█"
EXAMPLES = {
    "fastapi_app.py": "FastAPI: lifespan and dependency",
    "aiohttp_app.py": "aiohttp: cleanup context, many at once",
    "legacy_service.py": "threads and blocking calls",
    "pip_services_app.py": "Pip.Services: from configuration",
    "demo_service.py": "the service you have just seen",
}


@dataclass(frozen=True)
class Answer:
    """What one request came to; `began` is on the clock of `perf_counter`."""

    began: float
    seconds: float
    ok: bool
    source: str

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass(frozen=True)
class Run:
    """Answers, and by how much each figure of the service moved meanwhile."""

    answers: Sequence[Answer]
    figures: dict[str, int]

    @property
    def p50(self) -> float:
        return percentile(self.answers, 0.5)

    @property
    def p99(self) -> float:
        return percentile(self.answers, 0.99)


@dataclass(frozen=True)
class Outage:
    """A run of steady traffic in which the server was killed, and started again."""

    run: Run
    began: float
    killed: float
    started: float

    def counted(self, source: str) -> list[int]:
        """How many answers came from there, for each whole column of the timeline."""
        counts = [0] * self.column(max(answer.began for answer in self.run.answers))
        for answer in self.run.answers:
            column = self.column(answer.began)
            if answer.source == source and column < len(counts):
                counts[column] += 1
        return counts

    def column(self, moment: float) -> int:
        return int((moment - self.began) / COLUMN_SECONDS)


class Report:
    def __init__(self, console: Console) -> None:
        self._console = console

    def working(self, what: str) -> AbstractContextManager[object]:
        """Keep whoever watches informed while nothing is printed."""
        return self._console.status(f"[dim]{what} …[/]")

    def opening(self, requests: int, products: int) -> None:
        self._heading("async-redis-cache")
        self._say(
            f"A FastAPI service in front of a store that takes [b]{QUERY_MS} ms[/] a query, "
            f"[b]{QUERIES_AT_ONCE}[/] at a time.\n"
            f"[b]{requests}[/] requests come at once, for [b]{products}[/] products."
        )

    def load(self, plain: Run, cold: Run, warm: Run) -> None:
        """The same requests without the cache and with it."""
        named = (
            ("without the cache", plain, "yellow"),
            ("cold, each product once", cold, "cyan"),
            ("warm cache", warm, "green"),
        )
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        table.add_column("")
        for heading in ("requests", "store loads", "cache calls", "round trips"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, run, colour in named:
            calls = sum(run.figures[verb] for verb in ("hits", "misses", "stores"))
            counts = (
                len(run.answers),
                run.figures["store_loads"],
                calls,
                run.figures["round_trips"],
            )
            table.add_row(Text(name, style=colour), *(str(count) for count in counts))
        self._console.print(Padding(table, (1, 2)))

        bars = Table.grid(padding=(0, 2, 0, 0))
        room = self._console.width - 50
        for label, of in (("p50", by_p50), ("p99", by_p99)):
            for name, run, colour in (named[0], named[2]):
                cells = max(1, round(room * of(run) / plain.p99))
                bar = f"[{colour}]{'█' * cells}[/] {duration(of(run))}"
                times = "" if run is plain else f"[b]{of(plain) / of(run):.1f} times faster[/]"
                bars.add_row(f"[dim]{label if run is plain else ''}[/]", name, f"{bar}  {times}")
        self._console.print(Padding(bars, (0, 2)))

    def outage(self, outage: Outage) -> None:
        """What a server that dies and comes back empty does to steady traffic."""
        self._heading("kill -9, and back again with nothing in it")
        answers = outage.run.answers
        rate = len(answers) / (max(answer.began for answer in answers) - outage.began)
        self._say(f"{rate:.0f} requests a second; one column is {COLUMN_SECONDS:.1f} s.")

        cell = 2 if self._console.width >= 98 else 1
        rows = [(CACHE, "green"), (STORE, "cyan"), (AWAY, "yellow")]
        peak = max(max(outage.counted(source)) for source, _ in rows)
        markers = Text(" " * 20)
        for moment, label in ((outage.killed, "▼ killed"), (outage.started, "▼ started again")):
            markers.pad_right(20 + cell * outage.column(moment) - len(markers))
            markers.append(label, style="red")
        self._console.print(Padding(markers, (1, 2, 0, 2)))
        for source, colour in rows:
            columns = "".join(cell * LEVELS[-(-8 * n // peak)] for n in outage.counted(source))
            self._console.print(f"  {source:<20}[{colour}]{columns}[/]", no_wrap=True)

        failed = sum(not answer.ok for answer in answers)
        away = [answer for answer in answers if answer.source == AWAY]
        again = min(
            answer.ended
            for answer in answers
            if answer.source == CACHE and answer.began > outage.started
        )
        self._say(
            f"[b]{len(answers)}[/] requests, [b]{failed}[/] failed. "
            f"The store stood in for the cache in [b]{len(away)}[/]: "
            f"p50 {duration(percentile(away, 0.5))}, p99 {duration(percentile(away, 0.99))}.\n"
            f"They had tried the cache twice first. "
            f"It answered again [b]{duration(again - outage.started)}[/] after its start."
        )

    def closing(self, directory: Path, seconds: float) -> None:
        self._heading("yours to copy")
        table = Table.grid(padding=(0, 4, 0, 0))
        for name, what in EXAMPLES.items():
            path = directory / name
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            table.add_row(Text(str(shown), style="bold"), what)
        self._console.print(Padding(table, (1, 2)))
        self._console.print(f"  [dim]Everything above was measured in these {seconds:.0f} s.[/]\n")

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(f"[b]{text}[/]", style="red"))

    def _say(self, text: str) -> None:
        self._console.print(Padding(text, (1, 2, 0, 2)))


def by_p50(run: Run) -> float:
    return run.p50


def by_p99(run: Run) -> float:
    return run.p99


def percentile(answers: Sequence[Answer], share: float) -> float:
    ordered = sorted(answer.seconds for answer in answers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
