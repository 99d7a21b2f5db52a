"""The figures of a run of the benchmarks, as stored in benchmarks/figures.json."""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import statistics

import msgspec

__all__ = ["OURS", "PLAIN", "PROTOCOL", "REFERENCE", "Figures"]

OURS = "async-redis-cache"
REFERENCE = "redis-py"
PLAIN = f"{OURS}, no near cache"
PROTOCOL = "hand-written protocol"


class Sample(msgspec.Struct):
    section: str
    row: str
    peer: str
    round: int
    operations: int
    wall: float
    processor: float
    errors: dict[str, int]


class Arrivals(msgspec.Struct):
    section: str
    rate: int
    peer: str
    arrivals: int
    served: int
    p50: float | None
    p99: float | None
    processor_each: float


class Environment(msgspec.Struct):
    date: str
    python: str
    system: str
    processor: str
    cores: int
    server: str
    packages: dict[str, str | None]


class Import(msgspec.Struct):
    seconds: float
    modules: int


class Idle(msgspec.Struct):
    kilobytes: float
    threads: float


class Footprint(msgspec.Struct):
    imports: dict[str, Import]
    idle: dict[str, Idle]


class Figures(msgspec.Struct):
    """A run. Each row and peer is measured in several rounds, and the median is shown."""

    environment: Environment
    samples: list[Sample]
    open_loop: list[Arrivals]
    footprint: Footprint

    def rounds(self, section: str, row: str, peer: str) -> dict[int, Sample]:
        return {
            sample.round: sample
            for sample in self.samples
            if (sample.section, sample.row, sample.peer) == (section, row, peer)
        }

    def peers(self, section: str, *rows: str) -> list[str]:
        """Return this library, then the reference, then the others, ordered by their speed in the last row."""
        met = {sample.peer for sample in self.samples if sample.section == section}
        found = [peer for peer in met if any(self.each(section, row, peer) for row in rows)]
        first = {OURS: 0, REFERENCE: 1, PROTOCOL: 1}
        return sorted(
            found,
            key=lambda peer: (first.get(peer, 2), self.each(section, rows[-1], peer) or 0.0, peer),
        )

    def each(self, section: str, row: str, peer: str) -> float | None:
        """Return the seconds per call; None if it was not measured or a call failed."""
        rounds = self.rounds(section, row, peer).values()
        if not rounds or any(sample.errors or not sample.operations for sample in rounds):
            return None
        return statistics.median(sample.wall / sample.operations for sample in rounds)

    def pace(self, section: str, row: str, peer: str, reference: str = REFERENCE) -> float | None:
        """Return the speed relative to the reference: the median of the ratios within each round."""
        theirs = self.rounds(section, row, reference)
        rounds = self.rounds(section, row, peer)
        if not theirs or self.each(section, row, peer) is None:
            return None
        return statistics.median(
            (theirs[at].wall / theirs[at].operations) / (ours.wall / ours.operations)
            for at, ours in rounds.items()
        )
