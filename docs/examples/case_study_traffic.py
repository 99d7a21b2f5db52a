"""Who comes to the shop of the story, and when: the same in each step, and in each run."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from case_study_database import LENGTH

SEED = 4
PRODUCTS = 1_000
WORKERS = 3
REQUESTS_A_SECOND = 100
PRICE_CHANGES = ((1.5, 0), (4.0, 1), (6.5, 0), (8.7, 3), (12.0, 0), (14.0, 2))
"""In which second of the story, and of which category."""
SKEW = 1.3
"""The product on rank r is asked for in proportion to 1 / r ** SKEW, as in many a shop."""

WEIGHTS: list[float] = list(accumulate((rank + 1) ** -SKEW for rank in range(PRODUCTS)))
"""Of each product and all those above it."""


@dataclass(frozen=True)
class Event:
    """Somebody asks for a product, or has changed the prices of a category."""

    due: float
    """Seconds after the begin."""
    kind: Literal["ask", "change"]
    number: int
    """Of the product, or of the category."""


def events(worker: int, seconds: float) -> list[Event]:
    """What reaches one of the processes, in its order."""
    chance = random.Random(f"{SEED}/{worker}")  # noqa: S311  so that it can be repeated

    def at_random(rate: float) -> Iterator[float]:
        moment = chance.expovariate(rate)
        while moment < seconds:
            yield moment
            moment += chance.expovariate(rate)

    def popular() -> int:
        return chance.choices(range(PRODUCTS), cum_weights=WEIGHTS)[0]

    asked = [Event(due, "ask", popular()) for due in at_random(REQUESTS_A_SECOND / WORKERS)]
    changed = [
        Event(second * seconds / LENGTH, "change", category)
        for second, category in PRICE_CHANGES[worker::WORKERS]
    ]
    return sorted(asked + changed, key=lambda event: event.due)
