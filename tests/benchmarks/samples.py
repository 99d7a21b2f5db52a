"""What the measurements share: the step of a row, who walks which keys, and what is counted."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from .peers import AsyncPeer, SyncPeer
from .workloads import BATCH, PUBLISHED, Operation, Workload, key_names

GRACE = 30.0
"""Seconds that callers are waited for after the end of a measurement."""

FILLED = 1000
"""Values that the cache holds when the clock starts: as many as the default bound allows."""

AnyPeer = TypeVar("AnyPeer", bound=AsyncPeer | SyncPeer)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of one peer in one round. Processor time is that of the client's process."""

    section: str
    row: str
    peer: str
    round: int
    operations: int
    wall: float
    processor: float
    errors: Mapping[str, int]

    @property
    def wall_each(self) -> float:
        return self.wall / self.operations if self.operations else math.inf

    @property
    def processor_each(self) -> float:
        return self.processor / self.operations if self.operations else math.inf

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Finished:
    """A caller that made its last call: how many, when the last ended, and what stopped it."""

    calls: int
    at: float
    error: str | None = None


class Tally:
    """What the callers of a measurement have done, burst by burst."""

    def __init__(self) -> None:
        self.operations = 0
        self.wall = 0.0
        self.processor = 0.0
        self.errors = Counter[str]()

    def add(
        self, callers: Sequence[Finished], stranded: int, started: float, processor: float
    ) -> None:
        """Count one burst, to the end of its last call: no caller's last call is given away."""
        self.operations += sum(caller.calls for caller in callers)
        self.wall += max((caller.at for caller in callers), default=started) - started
        self.processor += processor
        self.errors.update(caller.error for caller in callers if caller.error is not None)
        if stranded:
            self.errors["never answered"] += stranded

    def sample(self, section: str, workload: Workload, peer: str, round_: int) -> Sample:
        measured = (self.operations, self.wall, self.processor, dict(self.errors))
        return Sample(section, workload.name, peer, round_, *measured)


def step_of(peer: AsyncPeer | SyncPeer, workload: Workload) -> Callable[[int], Any]:
    """The call that is measured, by the index of its key; of an asynchronous peer, to be awaited.

    Built outside the clock, so that a step is one function call on top of the peer's own.
    """
    keys = key_names(workload.keys)
    value = workload.value
    turns = itertools.count()
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]

    def store(index: int) -> Any:
        return peer.store(keys[index], value)

    def retrieve(index: int) -> Any:
        return peer.retrieve(keys[index])

    def remove(index: int) -> Any:
        return peer.remove(keys[index])

    def mixed(index: int) -> Any:
        if next(turns) % 10 == 0:
            return peer.store(keys[index], value)
        return peer.retrieve(keys[index])

    def retrieve_many(index: int) -> Any:
        return peer.retrieve_many(batches[index])

    return {
        Operation.STORE: store,
        Operation.RETRIEVE_HIT: retrieve,
        Operation.RETRIEVE_MISS: retrieve,
        Operation.NEAR_HIT: retrieve,
        Operation.REMOVE: remove,
        Operation.MIX: mixed,
        Operation.RETRIEVE_MANY: retrieve_many,
    }[workload.operation]


def filling(workload: Workload) -> dict[str, object]:
    """What the cache holds before the clock starts."""
    if workload.operation is Operation.RETRIEVE_MISS:
        return {}
    return dict.fromkeys(key_names(min(workload.keys, FILLED)), workload.value)


def lanes(workload: Workload) -> list[range]:
    """The indices that each caller walks, so that no two callers ask for one key at a time."""
    is_batch = workload.operation is Operation.RETRIEVE_MANY
    count = workload.keys // BATCH if is_batch else workload.keys
    return [range(caller, count, workload.callers) for caller in range(workload.callers)]


def check_answer(peer: str, workload: Workload, answer: object) -> None:
    """Refuse to measure a peer that does not do the work."""
    value = workload.value
    if workload.operation is Operation.RETRIEVE_MISS:
        expected: object = None
    elif workload.operation is Operation.RETRIEVE_MANY:
        expected = dict.fromkeys(key_names(workload.keys)[:BATCH], value)
    elif workload.operation is Operation.REMOVE and peer == PUBLISHED:
        expected = 1
    else:
        expected = value
    if answer != expected:
        message = f"{peer} gave a wrong answer to {workload.name}"
        raise AssertionError(message)


def in_turn(peers: Sequence[AnyPeer], workload: Workload, round_: int) -> Iterator[AnyPeer]:
    """The peers that take part in a row, each round beginning with another one.

    They are measured a moment apart, and ratios are taken within a round: the machine's mood,
    which changes by the minute, then meets all of them alike.
    """
    taking_part = [peer for peer in peers if workload.operation in peer.operations]
    for offset in range(len(taking_part)):
        yield taking_part[(round_ + offset) % len(taking_part)]
