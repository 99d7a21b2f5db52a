"""The benchmark page is generated from its figures."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from code_blocks import ROOT

DOCS = ROOT / "docs"
SCRIPTS = ("benchmark_page.py", "benchmark_charts.py", "benchmark_figures.py", "marked_places.py")


def written(docs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "benchmark_page.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def copied(to: Path) -> Path:
    """The page, its figures and its pictures, to be changed."""
    for name in (*SCRIPTS, "benchmarks.md"):
        shutil.copy(DOCS / name, to / name)
    shutil.copytree(DOCS / "benchmarks", to / "benchmarks")
    return to


def test_page_and_pictures_are_those_of_the_figures() -> None:
    """The tables and pictures in the repository are what the command generates from the figures."""
    done = written(DOCS, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_figure_changed_by_hand_is_found(tmp_path: Path) -> None:
    """A number that the figures do not give fails the check, and the command puts it right."""
    docs = copied(tmp_path)
    page, picture = docs / "benchmarks.md", docs / "benchmarks" / "tasks-dark.svg"
    right = page.read_text()
    page.write_text(re.sub(r"\*\*[\d.]+ µs", "**0.01 µs", right))
    picture.unlink()
    done = written(docs, "--check")
    assert done.returncode == 1
    assert "benchmarks.md, tasks-dark.svg" in done.stderr
    assert written(docs).returncode == 0
    assert page.read_text() == right
    assert written(docs, "--check").returncode == 0


def test_every_picture_is_shown_in_both_themes() -> None:
    """Each picture beside the figures is on the page, and the page shows no other."""
    shown = re.findall(r'(?:src|srcset)="benchmarks/([^"]+)"', (DOCS / "benchmarks.md").read_text())
    there = [picture.name for picture in (DOCS / "benchmarks").glob("*.svg")]
    assert sorted(shown) == sorted(there)
    assert {name.replace("-dark", "-light") for name in shown} == {
        name for name in shown if "-light" in name
    }
