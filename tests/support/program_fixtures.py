"""The private loops of the synchronous API, and programs that run with each of them.

A test module takes the fixtures by `pytest_plugins = ["program_fixtures"]`.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from harness.programs import PROGRAMS, SUPPORT, PrivateLoop, Program, StartProgram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


if find_spec("uvloop") is not None:
    import uvloop

    # The first loop of uvloop opens a pipe for signals, which a process then keeps.
    uvloop.new_event_loop().close()


@pytest.fixture(
    params=[
        "asyncio",
        pytest.param(
            "uvloop",
            marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is an extra"),
        ),
    ]
)
def private_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PrivateLoop:
    """The private loop of the synchronous API, in this process and in the programs of the test."""
    chosen: PrivateLoop = request.param
    if chosen == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)  # Now it cannot be imported.
    return chosen


@pytest.fixture
def environment(private_loop: PrivateLoop, tmp_path: Path) -> dict[str, str]:
    """The environment of programs: they import the library as this process does, without uvloop where that is chosen."""
    path = [str(SUPPORT), *filter(None, sys.path)]
    if private_loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError('not in this test')\n")
        path.insert(0, str(tmp_path))
    # On Python 3.12 and later a fork beside threads is warned about; here it is what is tested.
    forking = "ignore:This process:DeprecationWarning"
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": f"error,{forking}"}


@pytest.fixture
def start_program(environment: dict[str, str]) -> Iterator[StartProgram]:
    """Start programs; they are killed at the end of the test."""
    programs: list[Program] = []

    def start(name: str, *arguments: object) -> Program:
        command = [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)]
        programs.append(Program(command, environment))
        return programs[-1]

    yield start
    for program in programs:
        program.close()
