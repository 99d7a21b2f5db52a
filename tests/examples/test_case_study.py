"""The story is told by its script, its page is what the figures give, and what the page says is so."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from code_blocks import ROOT, blocks_of

DOCS = ROOT / "docs"
PAGE = DOCS / "case-study.md"
SHOP = DOCS / "examples" / "case_study_shop.py"
TOLD_SHORTLY = (
    "no cache",
    "cache-aside",
    "single-flight",
    "stale-while-revalidate",
    "Redis killed",
)
REDIS_DEAD = slice(52, 60)
"""Columns of the picture."""
BUSY = 2
"""Errors of those who were kept waiting by a busy machine until they left."""
NEVER = 'Redis killed, fail_open="never"'

Steps = dict[str, dict[str, Any]]


def steps_of(figures: Path) -> Steps:
    return {step["step"]: step for step in json.loads(figures.read_text())["steps"]}


@pytest.fixture(scope="module")
def measured() -> Steps:
    """The figures that the page shows."""
    return steps_of(DOCS / "case-study" / "figures.json")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Steps]:
    """What a short run prints, and its figures."""
    figures = tmp_path_factory.mktemp("case-study") / "figures.json"
    options = ["--seconds", "2", "--json", str(figures), "--steps", *TOLD_SHORTLY]
    done = subprocess.run(
        [sys.executable, "docs/examples/case_study.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, steps_of(figures)


def test_short_run_shows_what_each_step_is_for(told: tuple[str, Steps]) -> None:
    """The same requests in each step; fewer loads with a cache; no error where stale values are given, or without Redis."""
    _, steps = told
    assert list(steps) == list(TOLD_SHORTLY)
    none, by_hand, one, stale, killed = steps.values()
    assert none["requests"] > 100
    assert {step["requests"] for step in steps.values()} == {none["requests"]}
    assert one["loads"] < none["loads"] * 0.75
    assert one["loads"] < by_hand["loads"] * 1.2
    assert none["errors"] > 20
    assert stale["errors"] <= BUSY
    assert sum(killed["errors_by_column"][REDIS_DEAD]) <= BUSY
    assert killed["round_trips"] > 0


def test_what_is_printed_is_what_is_written(told: tuple[str, Steps]) -> None:
    """The rows on the screen have the figures of the file, and tell all of them apart."""
    printed, steps = told
    _, *rows = printed.strip("\n").splitlines()
    for (name, step), row in zip(steps.items(), rows, strict=True):
        assert row.startswith(name)
        cells = [float(cell.replace(",", "")) for cell in row.removeprefix(name).split()]
        keys = ("requests", "loads", "slow", "p50", "p99", "max", "errors", "outdated")
        assert cells == pytest.approx([step[key] for key in (*keys, "round_trips")], abs=0.5)


def test_figures_add_up(measured: Steps) -> None:
    """What is drawn adds up to what is said."""
    for step in measured.values():
        assert sum(step["loads_by_column"]) == step["loads"]
        assert sum(step["errors_by_column"]) == step["errors"]
        assert max(step["max_by_column"]) == pytest.approx(step["max"], abs=0.1)
        assert step["p50"] <= step["p99"] <= step["max"]


def test_what_the_page_says_of_its_figures_is_so(measured: Steps) -> None:
    """Each step has the effect that its text claims; where a run does not show it, measure again."""

    def each(figure: str, *names: str) -> list[float]:
        return [measured[name][figure] for name in names]

    none, by_hand, one = each("loads", "no cache", "cache-aside", "single-flight")
    assert one < by_hand < none / 2
    hand_p99, one_p99 = each("p99", "cache-aside", "single-flight")
    assert one_p99 < hand_p99
    assert measured["cache-aside"]["p50"] < measured["no cache"]["p50"] / 5
    assert one < measured["refresh-ahead"]["loads"]
    assert measured["refresh-ahead"]["errors"] > 0
    assert measured["stale-while-revalidate"]["errors"] == 0
    soft_timeout = 100
    assert soft_timeout < measured["stale-while-revalidate"]["max"] < 2 * soft_timeout
    stale, tags, anew, near = each(
        "outdated", "stale-while-revalidate", "tag invalidation", "batch reload", "near cache"
    )
    assert max(tags, anew, near) < stale / 20
    assert measured["batch reload"]["errors"] <= measured["tag invalidation"]["errors"]
    stale, tags, near = each(
        "round_trips", "stale-while-revalidate", "tag invalidation", "near cache"
    )
    assert tags > 1.5 * stale
    assert near < tags / 1.5
    never, opens = each("errors", NEVER, "Redis killed")
    assert opens < never / 10


def written(docs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "case_study_page.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_page_is_that_of_the_figures() -> None:
    """The tables and pictures on the page are what the command makes of the figures there."""
    done = written(DOCS, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_figure_changed_by_hand_is_found(tmp_path: Path) -> None:
    """A number that the figures do not give fails the check, and the command puts it right."""
    for name in ("case-study.md", "case_study_page.py", "marked_places.py"):
        shutil.copy(DOCS / name, tmp_path / name)
    shutil.copytree(DOCS / "case-study", tmp_path / "case-study")
    page = tmp_path / "case-study.md"
    right = page.read_text()
    page.write_text(re.sub(r"(\| single-flight \| [\d,]+) \| [\d,]+", r"\1 | 1", right))
    assert page.read_text() != right
    done = written(tmp_path, "--check")
    assert done.returncode == 1
    assert "case-study.md" in done.stderr
    assert written(tmp_path).returncode == 0
    assert page.read_text() == right


def definitions(code: str) -> Iterator[tuple[str, str]]:
    for node in ast.parse(code).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name, ast.unparse(node)


def test_code_on_the_page_is_the_code_that_was_run() -> None:
    """Each class and function of the service stands on the page as in the script, in its order."""
    shown = [found for block in blocks_of(PAGE, "python") for found in definitions(block.text)]
    run = list(definitions(SHOP.read_text()))
    names = {name for name, _ in run}
    assert [(name, code) for name, code in shown if name in names] == run
