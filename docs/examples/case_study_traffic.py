"""The requests and price changes of the case study: the same in each step and in each run."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from case_study_database import LENGTH

SEED = 4
PRODUCTS = 1_000
WORKERS = 3
REQUESTS_PER_SECOND = 100
PRICE_CHANGES = ((1.5, 0), (4.0, 1), (6.5, 0), (8.7, 3), (12.0, 0), (14.0, 2))
"""The second of the step and the category of each change."""
SKEW = 1.3
"""The product on rank r is requested in proportion to 1 / r ** SKEW, which is typical of shops."""

WEIGHTS: list[float] = list(accumulate((rank + 1) ** -SKEW for rank in range(PRODUCTS)))
"""By rank, the summed weight of the product and of all more popular ones."""


@dataclass(frozen=True)
class Event:
    """A request for a product, or a change of the prices of a category."""

    due: float
    """Seconds after the beginning."""
    kind: Literal["request", "change"]
    number: int
    """The number of the product or category."""


def events(worker: int, seconds: float) -> list[Event]:
    """Return the events for one of the processes, ordered by time."""
    chance = random.Random(f"{SEED}/{worker}")  # noqa: S311  reproducible, not secret

    def random_times(rate: float) -> Iterator[float]:
        time = chance.expovariate(rate)
        while time < seconds:
            yield time
            time += chance.expovariate(rate)

    def random_product() -> int:
        return chance.choices(range(PRODUCTS), cum_weights=WEIGHTS)[0]

    requests = [
        Event(due, "request", random_product())
        for due in random_times(REQUESTS_PER_SECOND / WORKERS)
    ]
    changes = [
        Event(second * seconds / LENGTH, "change", category)
        for second, category in PRICE_CHANGES[worker::WORKERS]
    ]
    return sorted(requests + changes, key=lambda event: event.due)
