"""What is measured: operations, sizes and callers, and the goal each row has to reach."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import msgspec

BATCH = 100
"""Keys in one ``retrieve_many``."""

EXPIRY_MS = 60_000

OURS = "async-redis-cache"
REFERENCE = "redis-py"
PROTOCOL = "hand-written protocol"
DICTIONARY = "hand-written near hit"
UNBOUNDED = f"{OURS}, max_size=0"
PLAIN = f"{OURS}, no near cache"
RETRIEVE = f"{OURS}, retrieve"
RESPONSE = "response"
UNCACHED = "response not opted in"
UNWATCHED = f"{OURS}, without spans"
PUBLISHED = "pip-services4-redis"
ONE_LOOP = f"{OURS}, any_loop=False"
SYNC_TO_ASYNC = f"{REFERENCE} by sync_to_async"


class Api(StrEnum):
    ASYNC = "async"
    SYNC = "sync"


class Operation(StrEnum):
    STORE = "store"
    RETRIEVE_HIT = "retrieve, hit"
    RETRIEVE_MISS = "retrieve, miss"
    NEAR_HIT = "near hit"
    REMOVE = "remove"
    MIX = "90/10 mix"
    RETRIEVE_MANY = f"retrieve_many of {BATCH}"


@dataclass(frozen=True, slots=True)
class Goal:
    """How many times the reference's pace is asked for: of wall time, of processor time, or of both.

    No goal is an absolute time, which would depend on the processor that runs the bench.

    "Never slower" is written as 0.95: a lone round trip is ruled by how fast the machine wakes an
    idle core, and two equal clients differ by a few per cent in either direction.
    """

    wall: float | None = None
    processor: float | None = None
    floor: float | None = None
    """What the tests ask of wall time, where half of the goal is too near to what is reached."""

    @property
    def half(self) -> Self:
        """Half of the pace, which noise does not miss and a regression by a factor does."""
        return type(self)(
            self.floor or (None if self.wall is None else self.wall / 2),
            None if self.processor is None else self.processor / 2,
        )

    def __str__(self) -> str:
        parts = [f"{self.wall:.3g}x"] if self.wall is not None else []
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

    api: Api
    operation: Operation
    callers: int
    size: int
    keys: int = 1000
    note: str = ""
    goal: Goal | None = None
    reference: str = REFERENCE
    """The peer whose pace is 1."""
    is_serialized: bool = False
    """Whether the value is given as bytes, so that no peer has to serialize."""

    @property
    def value(self) -> object:
        value = value_of(self.size)
        return msgspec.json.encode(value) if self.is_serialized else value

    @property
    def work(self) -> str:
        """What each caller does, whatever their number."""
        note = f", {self.note}" if self.note else ""
        size = "100 B" if self.size == 100 else f"{self.size // 1000} KB"
        return f"{self.operation}, {size}{note}"

    @property
    def name(self) -> str:
        callers = "task" if self.api is Api.ASYNC else "thread"
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
    1: Goal(wall=0.95, processor=1 / 0.5),
    10: Goal(wall=5),
    100: Goal(wall=15),
    1000: Goal(wall=14),
}
_THREAD_GOALS = {
    1: Goal(wall=0.65, floor=0.25),
    8: Goal(wall=2, floor=0.6),
    32: Goal(wall=3, floor=0.75),
}
_UVLOOP_THREAD_GOALS = {1: Goal(wall=0.9), 8: Goal(wall=2.5), 32: Goal(wall=4)}


def async_workloads() -> list[Workload]:
    found: list[Workload] = []
    for callers in (1, 10, 100, 1000):
        goal = _RETRIEVE_GOALS[callers]
        store_goal = Goal(wall=10, floor=4) if callers == 100 else None
        found += [
            Workload(Api.ASYNC, Operation.RETRIEVE_HIT, callers, 100, goal=goal),
            Workload(Api.ASYNC, Operation.RETRIEVE_MISS, callers, 100, goal=goal),
            Workload(Api.ASYNC, Operation.STORE, callers, 100, note=FITS, goal=store_goal),
            Workload(
                Api.ASYNC, Operation.STORE, callers, 100, keys=4000, note=EVICTS, goal=store_goal
            ),
            Workload(Api.ASYNC, Operation.REMOVE, callers, 100),
            Workload(Api.ASYNC, Operation.MIX, callers, 100),
            Workload(
                Api.ASYNC,
                Operation.RETRIEVE_HIT,
                callers,
                10_000,
                goal=Goal(wall=5, floor=1.5) if callers == 100 else None,
            ),
            Workload(Api.ASYNC, Operation.STORE, callers, 10_000, note=FITS),
            Workload(Api.ASYNC, Operation.MIX, callers, 10_000),
        ]
    many = Operation.RETRIEVE_MANY
    found += [
        Workload(Api.ASYNC, many, 1, 100, goal=Goal(wall=1.0)),
        Workload(Api.ASYNC, many, 10, 100),
        Workload(Api.ASYNC, many, 1, 10_000),
    ]
    return found


def near_workloads() -> list[Workload]:
    """A lone caller, as a near hit is answered without waiting: others would only take turns."""
    goal = Goal(wall=150, floor=15)
    return [Workload(Api.ASYNC, Operation.NEAR_HIT, 1, 100, keys=100, goal=goal)]


def hand_written_near_workloads() -> list[Workload]:
    """A near hit beside the least that one can cost: both are pure Python on the same processor."""
    return [
        Workload(
            Api.ASYNC,
            Operation.NEAR_HIT,
            1,
            100,
            keys=100,
            note="by hand",
            goal=Goal(wall=0.65, floor=0.15),
            reference=DICTIONARY,
        )
    ]


def near_miss_workloads() -> list[Workload]:
    """What a near cache costs where it never helps: ten times as many keys as it holds, in turn."""
    return [
        Workload(
            Api.ASYNC,
            Operation.RETRIEVE_HIT,
            callers,
            100,
            note="near miss",
            goal=Goal(wall=1 / 1.3),
            reference=PLAIN,
        )
        for callers in (1, 10, 100)
    ]


def loading_workloads(way: str) -> list[Workload]:
    """What a hit costs beside `retrieve` of the same value, when the call could load it."""
    return [
        Workload(
            Api.ASYNC,
            Operation.RETRIEVE_HIT,
            callers,
            100,
            note=way,
            goal=Goal(wall=1 / 1.3),
            reference=RETRIEVE,
        )
        for callers in (1, 10, 100)
    ]


def near_loading_workloads(way: str) -> list[Workload]:
    """The same of a value that is near."""
    goal = Goal(wall=1 / 2)
    near = Operation.NEAR_HIT
    return [Workload(Api.ASYNC, near, 1, 100, keys=100, note=way, goal=goal, reference=RETRIEVE)]


def watched_workloads() -> list[Workload]:
    """What a span for each call costs, beside none. No goal: who asks for spans pays for them."""
    hit = Operation.RETRIEVE_HIT
    return [
        Workload(Api.ASYNC, hit, callers, 100, note="spans", reference=UNWATCHED)
        for callers in (1, 100)
    ]


def response_workloads() -> list[Workload]:
    """What a stored response costs beside `retrieve` of its body, and what the middleware costs other routes.

    Concurrent calls of `retrieve` share their round trips, while the work for each response stays the same: no goal.
    """
    hit = Operation.RETRIEVE_HIT
    return [
        Workload(
            Api.ASYNC,
            hit,
            callers,
            100,
            note=note,
            goal=goal,
            reference=RETRIEVE,
            is_serialized=True,
        )
        for note, callers, goal in (
            (RESPONSE, 1, Goal(processor=1 / 1.5)),
            (RESPONSE, 100, None),
            (UNCACHED, 1, Goal(processor=1 / 0.1)),
        )
    ]


def response_cache_workloads() -> list[Workload]:
    """What a stored response costs in this library and in other caches of responses. No goal: they are compared."""
    hit = Operation.RETRIEVE_HIT
    return [
        Workload(Api.ASYNC, hit, 1, size, keys=100, note=RESPONSE, is_serialized=True)
        for size in (100, 10_000)
    ]


def near_response_workloads() -> list[Workload]:
    """The same of a response that is near."""
    return [
        Workload(
            Api.ASYNC,
            Operation.NEAR_HIT,
            1,
            100,
            keys=100,
            note=RESPONSE,
            goal=Goal(wall=1 / 3, floor=0.03),
            reference=RETRIEVE,
            is_serialized=True,
        )
    ]


def any_loop_workloads() -> list[Workload]:
    """What a change of threads costs for each call: where there is one task, and where these share it."""
    hit, goals = Operation.RETRIEVE_HIT, {1: (SYNC_TO_ASYNC, 1 / 0.5), 100: (REFERENCE, 3)}
    return [
        Workload(
            Api.ASYNC,
            hit,
            callers,
            100,
            note="any_loop",
            goal=Goal(wall=times),
            reference=reference,
        )
        for callers, (reference, times) in goals.items()
    ]


def bytes_workloads() -> list[Workload]:
    """What asking costs without the serializer, beside a protocol that does nothing but ask."""
    hit = Operation.RETRIEVE_HIT
    return [
        Workload(
            Api.ASYNC,
            hit,
            callers,
            100,
            note="no serializer",
            goal=Goal(wall=0.8, floor=0.25) if callers == 100 else None,
            reference=PROTOCOL,
            is_serialized=True,
        )
        for callers in (1, 10, 100, 1000)
    ]


def sync_workloads(*, uvloop: bool = False) -> list[Workload]:
    """The goals are those of a private loop that is asyncio's own, or uvloop's."""
    found: list[Workload] = []
    goals = _UVLOOP_THREAD_GOALS if uvloop else _THREAD_GOALS
    for callers in (1, 8, 32):
        goal = goals[callers]
        found += [
            Workload(Api.SYNC, Operation.RETRIEVE_HIT, callers, 100, goal=goal),
            Workload(Api.SYNC, Operation.RETRIEVE_MISS, callers, 100),
            Workload(Api.SYNC, Operation.STORE, callers, 100, note=FITS),
            Workload(Api.SYNC, Operation.REMOVE, callers, 100),
            Workload(Api.SYNC, Operation.MIX, callers, 100),
            Workload(Api.SYNC, Operation.RETRIEVE_HIT, callers, 10_000),
            Workload(Api.SYNC, Operation.STORE, callers, 10_000, note=FITS),
        ]
    found += [
        # With more threads than batches, two would ask for the same keys at a time.
        Workload(Api.SYNC, Operation.RETRIEVE_MANY, 1, 100),
        Workload(Api.SYNC, Operation.RETRIEVE_MANY, 8, 100),
    ]
    return found


def with_goals(workloads: Iterable[Workload]) -> list[Workload]:
    """The rows that a quick run keeps."""
    return [workload for workload in workloads if workload.goal is not None]


OPEN_LOOP_GOALS = {10_000: 10.0}
"""How many times sooner than redis-py's the p99 is, while every call is served; by arrivals a second."""
