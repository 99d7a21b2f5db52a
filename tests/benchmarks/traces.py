"""What a service asks its near cache for: seeded, endless, the same on every machine."""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, count, islice
from random import Random
from typing import NamedTuple

KEYS = 100_000
SCAN_EVERY, SCAN_LENGTH = 40_000, 10_000
SHIFT_EVERY = 50_000
REMOVED = 0.01


class Step(NamedTuple):
    """A key is asked for or, where it is not a read, the server says that it has changed."""

    is_read: bool
    key: bytes


def key_of(number: int) -> bytes:
    return b"product:%06d" % number


def zipf(skew: float, seed: int, keys: int = KEYS) -> Iterator[int]:
    """Numbers below `keys`, the n-th of them 1/n**skew times as often as the first."""
    sums = list(accumulate(1 / rank**skew for rank in range(1, keys + 1)))
    draw = Random(seed).random
    while True:
        yield bisect(sums, draw() * sums[-1], hi=keys - 1)


def scanned(numbers: Iterator[int]) -> Iterator[int]:
    """Between the others, from time to time, a job walks over keys that nobody asks for again."""
    walked = count(KEYS)
    while True:
        yield from islice(numbers, SCAN_EVERY)
        yield from islice(walked, SCAN_LENGTH)


def shifting(numbers: Iterator[int]) -> Iterator[int]:
    """What was popular is suddenly not, and rare keys take its place."""
    for phase in count():
        for number in islice(numbers, SHIFT_EVERY):
            yield (number - phase * KEYS // 9) % KEYS


def with_removals(numbers: Iterator[int], seed: int) -> Iterator[Step]:
    """What is often read is often changed: removed keys are drawn as those that are asked for."""
    draw = Random(seed).random
    for number in numbers:
        yield Step(draw() >= REMOVED, key_of(number))


TRACES: Mapping[str, Callable[[], Iterator[Step]]] = {
    "zipf 0.9": lambda: with_removals(zipf(0.9, 1), 2),
    "zipf 1.1": lambda: with_removals(zipf(1.1, 3), 4),
    "zipf 0.9, scans": lambda: with_removals(scanned(zipf(0.9, 5)), 6),
    "zipf 0.9, shifts": lambda: with_removals(shifting(zipf(0.9, 7)), 8),
}
