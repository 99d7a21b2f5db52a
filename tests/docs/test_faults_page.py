"""The fault-injection page is generated from its figures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from code_blocks import ROOT

DOCS = ROOT / "docs"
NEEDED = ("faults_page.py", "benchmark_charts.py", "benchmark_figures.py", "marked_places.py")


def written(docs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "faults_page.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_table_and_pictures_are_those_of_the_figures() -> None:
    """The files in the repository are what the command generates from the figures."""
    done = written(DOCS, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_figure_changed_by_hand_is_found(tmp_path: Path) -> None:
    """A figure that no run gave fails the check, and the command puts it right."""
    for name in NEEDED:
        shutil.copy(DOCS / name, tmp_path / name)
    shutil.copytree(DOCS / "faults", tmp_path / "faults")
    (tmp_path / "explanation").mkdir()
    page = tmp_path / "explanation" / "fault-injection.md"
    right = (DOCS / "explanation" / "fault-injection.md").read_text()
    page.write_text(re.sub(r"[\d,]+ calls", "7 calls", right, count=1))
    done = written(tmp_path, "--check")
    assert done.returncode == 1
    assert "fault-injection.md" in done.stderr
    assert written(tmp_path).returncode == 0
    assert page.read_text() == right
