"""What is measured: operations, sizes and callers, and the goal each row has to reach."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

BATCH = 100
"""Keys in one ``retrieve_many``."""

EXPIRY_MS = 60_000

OURS = "async-redis-cache"
REFERENCE = "redis-py"
UNBOUNDED = f"{OURS}, max_size=0"
ON_UVLOOP = f"{OURS}, on uvloop"
PUBLISHED = "pip-services4-redis"


class Door(StrEnum):
    ASYNC = "async"
    SYNC = "sync"


class Operation(StrEnum):
    STORE = "store"
    RETRIEVE_HIT = "retrieve, hit"
    RETRIEVE_MISS = "retrieve, miss"
    REMOVE = "remove"
    MIX = "90/10 mix"
    RETRIEVE_MANY = f"retrieve_many of {BATCH}"


@dataclass(frozen=True, slots=True)
class Goal:
    """How many times the reference's pace is asked for: of wall time, of processor time, or both.

    "Never slower" is written as 0.95: a lone round trip is ruled by how fast the machine wakes an
    idle core, and two equal clients differ by a few per cent in either direction.
    """

    wall: float | None = None
    processor: float | None = None

    @property
    def half(self) -> Self:
        """Half of the pace, which noise does not miss and a regression by a factor does."""
        return type(self)(
            None if self.wall is None else self.wall / 2,
            None if self.processor is None else self.processor / 2,
        )

    def __str__(self) -> str:
        parts = [f"{self.wall:g}x"] if self.wall is not None else []
        if self.processor is not None:
            parts.append(f"{self.processor:g}x cpu")
        return ", ".join(parts)

    def is_reached(self, wall: float, processor: float) -> bool:
        return (self.wall is None or wall >= self.wall) and (
            self.processor is None or processor >= self.processor
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """One row: `callers` tasks or threads, each of which awaits one operation after the other.

    The keys are dealt out to the callers, so no two of them ask for the same key at the same time
    and nothing is gained by answering one question for two (1,000 callers on 1,000 keys).
    """

    door: Door
    operation: Operation
    callers: int
    size: int
    keys: int = 1000
    note: str = ""
    goal: Goal | None = None

    @property
    def work(self) -> str:
        """What each caller does, whatever their number."""
        note = f", {self.note}" if self.note else ""
        size = "100 B" if self.size == 100 else f"{self.size // 1000} KB"
        return f"{self.operation}, {size}{note}"

    @property
    def name(self) -> str:
        callers = "task" if self.door is Door.ASYNC else "thread"
        plural = "" if self.callers == 1 else "s"
        return f"{self.work}, {self.callers:,} {callers}{plural}"


def value_of(size: int) -> dict[str, object]:
    """A JSON object of about `size` bytes, such as a service would cache."""
    if size <= 100:
        user: dict[str, object] = {"id": 123456, "name": "Ada Lovelace", "score": 3.14159}
        return user | {"email": "ada@example.com", "roles": ["editor"]}
    orders = [
        {"sku": f"A-{at:04}-5678", "quantity": 3 + at, "price": at + 0.99, "tags": ["new", "gift"]}
        for at in range(size // 72)
    ]
    return {"id": 123456, "name": "Ada Lovelace", "orders": orders}


def key_names(count: int) -> list[str]:
    return [f"user:{number:06}:profile" for number in range(count)]


FITS = "max_size 1,000, 1,000 keys"
EVICTS = "max_size 1,000, 4,000 keys"

_RETRIEVE_GOALS = {
    1: Goal(wall=0.95, processor=1 / 0.8),
    10: Goal(wall=4),
    100: Goal(wall=12),
    1000: Goal(wall=10),
}
_THREAD_GOALS = {1: Goal(wall=0.5), 8: Goal(wall=1.2), 32: Goal(wall=1.5)}


def async_workloads() -> list[Workload]:
    found: list[Workload] = []
    for callers in (1, 10, 100, 1000):
        goal = _RETRIEVE_GOALS[callers]
        store_goal = Goal(wall=8) if callers == 100 else None
        found += [
            Workload(Door.ASYNC, Operation.RETRIEVE_HIT, callers, 100, goal=goal),
            Workload(Door.ASYNC, Operation.RETRIEVE_MISS, callers, 100, goal=goal),
            Workload(Door.ASYNC, Operation.STORE, callers, 100, note=FITS, goal=store_goal),
            Workload(
                Door.ASYNC, Operation.STORE, callers, 100, keys=4000, note=EVICTS, goal=store_goal
            ),
            Workload(Door.ASYNC, Operation.REMOVE, callers, 100),
            Workload(Door.ASYNC, Operation.MIX, callers, 100),
            Workload(
                Door.ASYNC,
                Operation.RETRIEVE_HIT,
                callers,
                10_000,
                goal=Goal(wall=3) if callers == 100 else None,
            ),
            Workload(Door.ASYNC, Operation.STORE, callers, 10_000, note=FITS),
            Workload(Door.ASYNC, Operation.MIX, callers, 10_000),
        ]
    many = Operation.RETRIEVE_MANY
    found += [
        Workload(Door.ASYNC, many, 1, 100, goal=Goal(wall=0.9)),
        Workload(Door.ASYNC, many, 10, 100),
        Workload(Door.ASYNC, many, 1, 10_000),
    ]
    return found


def sync_workloads() -> list[Workload]:
    found: list[Workload] = []
    for callers in (1, 8, 32):
        goal = _THREAD_GOALS[callers]
        found += [
            Workload(Door.SYNC, Operation.RETRIEVE_HIT, callers, 100, goal=goal),
            Workload(Door.SYNC, Operation.RETRIEVE_MISS, callers, 100),
            Workload(Door.SYNC, Operation.STORE, callers, 100, note=FITS),
            Workload(Door.SYNC, Operation.REMOVE, callers, 100),
            Workload(Door.SYNC, Operation.MIX, callers, 100),
            Workload(Door.SYNC, Operation.RETRIEVE_HIT, callers, 10_000),
            Workload(Door.SYNC, Operation.STORE, callers, 10_000, note=FITS),
        ]
    found += [
        # With more threads than batches, two would ask for the same keys at a time.
        Workload(Door.SYNC, Operation.RETRIEVE_MANY, 1, 100),
        Workload(Door.SYNC, Operation.RETRIEVE_MANY, 8, 100),
    ]
    return found


def with_goals(workloads: Iterable[Workload]) -> list[Workload]:
    """The rows that a quick run keeps."""
    return [workload for workload in workloads if workload.goal is not None]


OPEN_LOOP_GOALS = {8000: 20.0}
"""The p99 in milliseconds to stay below while every call is served, by arrivals a second."""
