"""`ARC_LOOP` chooses the loops of the tests, and each variant finds what it is for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.choices import LOOP_CHOICES

TESTS = Path(__file__).parents[1]

# Named after the choices: each shows that it is in force, by passing or, where it refuses, failing.
SIGNS = """
import asyncio, json, time
import pytest
from async_redis_cache import AsyncRedisCache

class Slow:
    def dumps(self, value):
        time.sleep(0.001)
        return json.dumps(value).encode()

    loads = staticmethod(json.loads)

def test_uvloop():
    with asyncio.Runner() as runner:
        loops = runner.get_loop(), asyncio.new_event_loop()
        loops[1].close()
    assert {type(loop).__module__ for loop in loops} == {"uvloop"}

async def test_eager():
    begun = []
    async def begin():
        begun.append(True)
    task = asyncio.create_task(begin())
    at_once = begun[:]
    await task
    assert at_once

async def test_debug():
    assert asyncio.get_running_loop().get_debug()

async def test_watched():
    async with AsyncRedisCache.from_url("fake://", serializer=Slow()) as cache:
        await cache.store(None, "key", 1)

async def test_tests_may_block():
    time.sleep(0.001)

@pytest.mark.not_with("eager", "uvloop", reason="because")
def test_not_with():
    pass
"""


@pytest.mark.parametrize("choice", ["", *LOOP_CHOICES])
def test_choice_is_in_force(choice: str, tmp_path: Path) -> None:
    """Each choice holds where it is chosen, and there alone."""
    if choice == "eager" and sys.version_info < (3, 12):
        pytest.skip("tasks are eager on Python 3.12 and later only")
    found = outcomes(tmp_path, choice)
    signs = {f"test_{name}": "PASSED" if name == choice else "FAILED" for name in LOOP_CHOICES}
    signs["test_watched"] = "ERROR" if choice == "watched" else "PASSED"
    left_out = {"test_not_with": "SKIPPED" if choice in {"eager", "uvloop"} else "PASSED"}
    assert found == signs | left_out | {"test_tests_may_block": "PASSED"}


def test_unknown_choice_is_refused(tmp_path: Path) -> None:
    """A choice that is misspelt does not pass for none."""
    assert outcomes(tmp_path, "egaer") == {}


def outcomes(directory: Path, choice: str) -> dict[str, str]:
    """What has become of the tests above, by name."""
    (directory / "test_signs.py").write_text(SIGNS)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-c", f"{TESTS.parent}/pyproject.toml"]
    path = os.pathsep.join([str(TESTS), str(TESTS / "support"), *filter(None, sys.path)])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-v", f"--rootdir={directory}", "test_signs.py"],
        env=os.environ | {"PYTHONPATH": path, "ARC_LOOP": choice},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(re.findall(r"^test_signs.py::(\w+) ([A-Z]+)", run.stdout, re.MULTILINE))
