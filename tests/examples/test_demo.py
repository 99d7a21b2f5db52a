"""The demo runs quickly, and its claims hold in the run that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = 100

# One worker runs the demo for all tests.
pytestmark = pytest.mark.xdist_group("demo")
PROCESSES = 2


@pytest.fixture(scope="module")
def shown() -> str:
    """What the demo prints on a terminal of 100 columns."""
    done = subprocess.run(
        [sys.executable, "docs/examples/demo.py"],
        cwd=ROOT,
        env={
            **os.environ,
            "COLUMNS": str(COLUMNS),
            "DEMO_PATIENCE": "20",
            "PYTHONIOENCODING": "utf-8",
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def row(shown: str, name: str) -> list[str]:
    """The cells of a row of a table."""
    found = re.search(rf"^ *{re.escape(name)}  +(.+?) *$", shown, re.MULTILINE)
    assert found is not None
    return re.split(r"  +", found[1])


def microseconds(figure: str) -> float:
    number, unit = figure.split()
    return float(number) * {"s": 1e6, "ms": 1e3, "µs": 1}[unit]


def test_stampede_causes_one_query(shown: str) -> None:
    """All concurrent requests for a cold key share one load, or one per process if Redis was late."""
    without = int(row(shown, "get, then set")[0])
    with_it = int(row(shown, "get_or_load")[0])
    assert 1 <= with_it <= PROCESSES < without


def test_client_side_cache_is_faster_than_a_round_trip(shown: str) -> None:
    """The median read from the client-side cache is faster than a read from the server."""
    names = ("client-side cache", "from the server")
    near, remote = (microseconds(row(shown, f"async-redis-cache: {name}")[0]) for name in names)
    assert near < remote
    assert near < microseconds(row(shown, "redis-py: GET")[0])


def test_no_request_fails_during_the_outages(shown: str) -> None:
    """The service answers while Redis hangs, restarts, and while the database is down."""
    said = re.search(r"3\. Outages: ([\d,]+) requests, (\d+) failed, the slowest", shown)
    assert said is not None
    requests, failed = (int(figure.replace(",", "")) for figure in said.groups())
    assert failed == 0
    used = re.search(
        r"(\d+) were answered from the database.* (\d+) with an expired", shown, re.DOTALL
    )
    assert used is not None
    loaded, stale = map(int, used.groups())
    assert min(loaded, stale) > 0
    assert loaded + stale < requests


def test_page_is_made_once(shown: str) -> None:
    """All concurrent requests for a page share one run of its handler, or one per process, and then need none."""
    names = ("at once, ResponseCache", "one by one, stored", "one by one, unchanged")
    cold, stored, unchanged = (row(shown, name) for name in names)
    assert 1 <= int(cold[0]) <= PROCESSES < int(row(shown, "at once, no cache")[0])
    assert (stored[0], unchanged[0]) == ("0", "0")
    assert (stored[2], unchanged[2:]) == ("200", ["304", "0 bytes"])


def test_each_event_is_on_the_timeline(shown: str) -> None:
    """The timeline has a marker for each event, in the row of the system that it happens to."""
    # Markers touch where the machine stalled, and the columns of the timeline are longer.
    assert re.search(r"^ *Redis +▼ hangs *▼ killed *▼ restarted *$", shown, re.MULTILINE)
    assert re.search(r"^ *database +▼ down *▼ up *$", shown, re.MULTILINE)


def test_named_files_exist(shown: str) -> None:
    """Each example that the demo names exists."""
    named = re.findall(r"docs/examples/\w+\.py", shown)
    assert len(named) == 5
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_lines_fit_the_terminal(shown: str) -> None:
    """No line is wrapped on a terminal of 100 columns."""
    assert max(map(len, shown.splitlines())) <= COLUMNS
