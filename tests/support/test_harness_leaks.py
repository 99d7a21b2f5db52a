"""A test that leaks a task or descriptor fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

CARELESS_AND_CAREFUL = """
import asyncio, contextlib, os, pytest
from harness import connect

def start():
    global task  # The loop keeps only weak references.
    task = asyncio.create_task(asyncio.sleep(60))

@pytest.fixture
async def careless():
    start()
    yield

@pytest.fixture
async def careful():
    start()
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

async def test_leaves_a_task():
    start()

async def test_fixture_leaves_a_task(careless):
    pass

@pytest.mark.no_leaks
def test_leaves_a_descriptor():
    os.pipe()

def test_leaves_a_descriptor_unasked():
    os.pipe()

@pytest.mark.no_leaks
async def test_leaves_nothing(careful, private_server, proxy, raw):
    with connect(proxy(private_server()).url) as client:
        client.ping()
        raw.ping()
"""


def test_what_is_left_is_found(tmp_path: Path) -> None:
    """Tasks always, descriptors where a test is marked `no_leaks`, both after its fixtures."""
    (tmp_path / "test_inner.py").write_text(CARELESS_AND_CAREFUL)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-c", f"{TESTS.parent}/pyproject.toml"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", "test_inner.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "support")))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = re.findall(r"^ERROR test_inner.py::(\w+) - (.+)", run.stdout, re.MULTILINE)
    assert [name for name, _ in errors] == [
        "test_leaves_a_task",
        "test_fixture_leaves_a_task",
        "test_leaves_a_descriptor",
    ]
    assert "pipe:" in run.stdout
    assert "failed" not in run.stdout.splitlines()[-1]
