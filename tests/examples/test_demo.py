"""The demo runs, quickly, and what it claims holds in the run that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = 100


@pytest.fixture(scope="module")
def shown() -> str:
    """What the demo prints on a terminal of 100 columns."""
    done = subprocess.run(
        [sys.executable, "docs/examples/demo.py"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(COLUMNS), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def row(shown: str, name: str) -> list[int]:
    """Requests, store loads, cache calls and round trips of a row of the table."""
    found = re.search(rf"^ *{name} +(\d+) +(\d+) +(\d+) +(\d+) *$", shown, re.MULTILINE)
    assert found is not None
    return [int(figure) for figure in found.groups()]


def milliseconds(figure: str) -> float:
    number, unit = figure.split()
    return float(number) * {"s": 1000, "ms": 1}[unit]


def test_store_is_asked_once_for_each_product(shown: str) -> None:
    """With the cache the store is asked once for each product, without it once for each request."""
    assert row(shown, "without the cache") == [300, 300, 0, 0]
    assert row(shown, "cold, each product once")[:3] == [30, 30, 60]
    assert row(shown, "warm cache")[:3] == [300, 0, 300]


def test_calls_share_round_trips(shown: str) -> None:
    """Requests that arrive together share their round trips."""
    _, _, calls, round_trips = row(shown, "warm cache")
    assert 0 < round_trips <= calls / 2


def test_cache_is_faster_than_the_store(shown: str) -> None:
    """Latency is better with the cache, in the middle and in the tail."""
    figures = re.findall(r"(?:without the|warm) cache +█+ ([\d.]+ m?s)", shown)
    plain_p50, warm_p50, plain_p99, warm_p99 = map(milliseconds, figures)
    assert warm_p50 < plain_p50
    assert warm_p99 < plain_p99


def test_no_request_fails_while_the_server_is_dead(shown: str) -> None:
    """The service answers all the way through a kill, and from the cache again afterwards."""
    said = re.search(
        r"(\d+) requests, (\d+) failed\. The store stood in for the cache in (\d+): "
        r"p50 ([\d.]+ m?s), p99 ([\d.]+ m?s)\.\s+"
        r"They had tried .* It answered again ([\d.]+ m?s) after its start\.",
        shown,
    )
    assert said is not None
    requests, failed, away = map(int, said.groups()[:3])
    assert failed == 0
    assert 0 < away < requests
    assert milliseconds(said[4]) <= milliseconds(said[5])
    assert milliseconds(said[6]) > 0


def test_files_it_points_to_are_there(shown: str) -> None:
    """Each example that the demo names exists."""
    named = re.findall(r"docs/examples/\w+\.py", shown)
    assert len(named) == 5
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_lines_fit_the_terminal(shown: str) -> None:
    """Nothing is wrapped on a terminal of 100 columns."""
    assert max(map(len, shown.splitlines())) <= COLUMNS
