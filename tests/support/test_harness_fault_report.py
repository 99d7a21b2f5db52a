"""`pytest --faults`: which tests it runs, and what it reports for each scenario."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from code_blocks import ROOT
from harness.scenarios import TITLES, Label, label


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("6. All are served.\n\nMore.", Label((6,), "All are served.", "")),
        ("7 and 20. Data lost: 0 old.", Label((7, 20), "Data lost: 0 old.", "")),
        ("2, the proof: without it, one is.", Label((2,), "", "without it, one is.")),
        ("19. 0 stale.\n\nThe proof: some are.", Label((19,), "0 stale.", "some are.")),
        ("10,000 changes: none is lost.", None),
        ("2.5 seconds at most.", None),
        (None, None),
    ],
)
def test_docstring_names_the_scenario(docstring: str | None, expected: Label | None) -> None:
    """The number, the promise, and what happens without the protection; or that it is no scenario."""
    assert label(docstring) == expected


def test_scenario_that_does_not_exist_is_refused() -> None:
    """A number that RELIABILITY does not have is a slip of the pen."""
    with pytest.raises(ValueError, match="99"):
        label("99. Never heard of.")


TESTS = '''
import pytest
from harness.figures import report

@pytest.mark.parametrize("badness", [1, 3, 2])
def test_kept(badness):
    """6. All are served."""
    report(6, f"figure {badness}", badness)

@pytest.mark.parametrize("naive", [False, True])
def test_with_its_proof(naive):
    """2 and 19. Nothing stray.

    The proof: something is.
    """
    report(19, "with" if naive else "without", proof=naive)

@pytest.fixture
def leaking():
    yield
    assert False

def test_broken(leaking):
    """8. Nothing leaks."""

def test_of_no_scenario():
    """3 of 4 pass."""
    raise AssertionError
'''


@pytest.mark.parametrize("processes", ["0", "2"])
def test_table(tmp_path: Path, processes: str) -> None:
    """The table distinguishes kept, broken, unproved and missing promises, whichever process ran the test."""
    (tmp_path / "test_some.py").write_text(TESTS)
    file = tmp_path / "table.json"
    options = ["-p", "conftest", "--faults", "--faults-file", str(file), "-n", processes]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env=os.environ
        | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'tests' / 'support'}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    found = {
        (row["scenario"], row["proof"]): (row["figure"], row["runs"], row["failed"]) for row in rows
    }
    assert found[6, False] == ("figure 3", 3, 0)
    assert found[19, False] == ("without", 1, 0)
    assert found[19, True] == ("with", 1, 0)
    assert found[8, False] == ("", 1, 1)
    assert found[28, False] == found[28, True] == found[3, False] == ("", 0, 0)
    assert {scenario for scenario, _ in found} == TITLES.keys()
    assert "MISSING" in ended.stdout
    assert "BROKEN in 1 of 1" in ended.stdout
    assert "kept in 3" in ended.stdout
