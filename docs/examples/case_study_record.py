"""What a run of the story leaves for its page: the figures, and what they were measured on."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import case_study_database as database
import case_study_traffic as traffic
from case_study_database import Stretch
from case_study_figures import Figures
from case_study_shop import CATEGORY_SIZE
from case_study_worker import PATIENCE

LIFE = 4_000
"""Milliseconds of the story for which a product is kept."""


def record(told: Sequence[Figures], seconds: float) -> str:
    """The file, as JSON; a line for each step, so that one can see what has changed."""
    parts = {
        "conditions": json.dumps(_conditions()),
        "scenario": json.dumps(_scenario(seconds), ensure_ascii=False),
        "length": json.dumps(database.LENGTH),
        "stretches": json.dumps(
            {
                "slow": asdict(database.SLOW),
                "fail": asdict(database.FAILING),
                "down": asdict(database.DOWN),
                "no Redis": asdict(database.REDIS_DEAD),
            }
        ),
        "steps": "[\n" + ",\n".join(json.dumps(asdict(figures)) for figures in told) + "\n]",
    }
    return "{\n" + ",\n".join(f'"{name}": {part}' for name, part in parts.items()) + "\n}\n"


def _conditions() -> str:
    now, cores = datetime.now(UTC), os.cpu_count()
    return f"{now:%Y-%m-%d}, {platform.system()}, {cores} cores, Python {platform.python_version()}"


def _scenario(seconds: float) -> dict[str, str]:
    first, tenth = (_share(ranks) for ranks in (1, traffic.PRODUCTS // 10))
    usual, long, slow = (
        " to ".join(f"{bound * 1000:.0f}" for bound in bounds)
        for bounds in (database.USUAL_SECONDS, database.LONG_SECONDS, database.SLOW_SECONDS)
    )
    return {
        "products": f"{traffic.PRODUCTS:,}, in categories of {CATEGORY_SIZE}",
        "requests": f"{traffic.REQUESTS_A_SECOND} a second, at random moments, whatever the service "
        f"manages; {first:.0%} for one product, {tenth:.0%} for a tenth of all",
        "who asks": f"has left after {PATIENCE:.0f} s without an answer, which is an error",
        "processes of the service": f"{traffic.WORKERS}",
        "database": f"{database.AT_ONCE} queries at once; one takes {usual} ms, one in "
        f"{1 / database.LONG_SHARE:.0f} takes {long} ms",
        "it is slow": f"{_when(database.SLOW)}: a query takes {slow} ms",
        "it fails": f"{_when(database.FAILING)}: {database.FAILING_SHARE:.0%} of all queries",
        "it is down": f"{_when(database.DOWN)}: refuses every query",
        "prices change": f"{len(traffic.PRICE_CHANGES)} times, those of a whole category each time",
        "life of a product in the cache": f"{LIFE / 1000:.0f} s; all are there at the begin",
        "each step takes": f"{database.LENGTH:.0f} s"
        + (f", told in {seconds:g} s" if seconds != database.LENGTH else ""),
    }


def _share(ranks: int) -> float:
    """Of the requests, those for the products on the first ranks."""
    return traffic.WEIGHTS[ranks - 1] / traffic.WEIGHTS[-1]


def _when(stretch: Stretch) -> str:
    return f"from second {stretch.begin:g} to {stretch.end:g}"
