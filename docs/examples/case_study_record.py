"""The JSON file that a run of the case study writes for its page: the figures and the conditions."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import case_study_database as database
import case_study_traffic as traffic
from case_study_database import Period
from case_study_figures import Figures
from case_study_shop import CATEGORY_SIZE
from case_study_worker import CLIENT_TIMEOUT

TTL = 4_000
"""TTL of a product, in milliseconds of the step."""


def record(steps: Sequence[Figures], seconds: float) -> str:
    """Return the file as JSON, with one line per step to keep diffs readable."""
    parts = {
        "conditions": json.dumps(_conditions()),
        "scenario": json.dumps(_scenario(seconds), ensure_ascii=False),
        "length": json.dumps(database.LENGTH),
        "periods": json.dumps(
            {
                "slow": asdict(database.SLOW),
                "fail": asdict(database.FAILING),
                "down": asdict(database.DOWN),
                "no Redis": asdict(database.REDIS_DOWN),
            }
        ),
        "steps": "[\n" + ",\n".join(json.dumps(asdict(figures)) for figures in steps) + "\n]",
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
        "requests": f"{traffic.REQUESTS_PER_SECOND} per second at random times, independent of the "
        f"response times; {first:.0%} for one product, {tenth:.0%} for a tenth of the products",
        "client timeout": f"{CLIENT_TIMEOUT:.0f} s; a request without a response by then is an error",
        "processes of the service": f"{traffic.WORKERS}",
        "database": f"{database.MAX_CONCURRENT_QUERIES} concurrent queries; one takes {usual} ms, one in "
        f"{1 / database.LONG_SHARE:.0f} takes {long} ms",
        "database is slow": f"{_when(database.SLOW)}: a query takes {slow} ms",
        "database fails": f"{_when(database.FAILING)}: {database.FAILING_SHARE:.0%} of all queries",
        "database is down": f"{_when(database.DOWN)}: it refuses every query",
        "price changes": f"{len(traffic.PRICE_CHANGES)}, each of a whole category",
        "TTL of a product": f"{TTL / 1000:.0f} s; all products are cached at the beginning",
        "duration of a step": f"{database.LENGTH:.0f} s"
        + (f", run in {seconds:g} s" if seconds != database.LENGTH else ""),
    }


def _share(ranks: int) -> float:
    """Return the share of the requests for the most popular products."""
    return traffic.WEIGHTS[ranks - 1] / traffic.WEIGHTS[-1]


def _when(period: Period) -> str:
    return f"from second {period.begin:g} to {period.end:g}"
