"""`pytest --faults`: run the tests of the fault-injection scenarios only, and print a table of their promises.

The run fails if a scenario has no test, or lacks a required proof that its test can fail.
"""

from __future__ import annotations

import inspect
import json
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import pytest

from harness.figures import Judging, said
from harness.flavours import FLAVOURS, installed
from harness.run_length import LONG
from harness.scenarios import PROVED, TITLES, Label, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROPERTY = "faults"
LONGEST_SECONDS = 3600
"""The time limit of a test in the long form."""
WIDTHS = (26, 50, 60)
"""The column widths of scenario, promise and figure."""


@dataclass
class Row:
    """A promise of a scenario, with the results of its test."""

    scenario: int
    test: str
    promise: str
    proof: bool
    figure: str = ""
    badness: float | None = None
    runs: int = 0
    failed: int = 0
    skipped: int = 0
    servers: list[str] = field(default_factory=list[str])

    @property
    def verdict(self) -> str:
        """The verdict in a word or two."""
        if not self.test:
            return "MISSING"
        if self.failed:
            return f"BROKEN in {self.failed} of {self.runs}"
        if self.skipped:
            return f"NOT RUN in {self.skipped} of {self.runs}"
        return f"kept in {self.runs}"

    @property
    def kept(self) -> bool:
        """Whether every run passed."""
        return self.runs > 0 and not self.failed and not self.skipped

    def told(self) -> dict[str, Any]:
        """The row as JSON."""
        told = asdict(self) | {"title": TITLES[self.scenario]}
        del told["badness"]
        return told

    def add(self, run: dict[str, Any], outcome: str) -> None:
        """Count a run of the test."""
        self.runs += 1
        self.failed += outcome == "failed"
        self.skipped += outcome == "skipped"
        if run["server"] and run["server"] not in self.servers:
            self.servers = sorted([*self.servers, run["server"]])
        for scenario, text, badness, proof in run["figures"]:
            ours = (scenario, proof) == (self.scenario, self.proof)
            if ours and (self.badness is None or badness > self.badness):
                self.figure, self.badness = text, badness


class FaultReport:
    """Collects the results of the tests, in this process and from the xdist workers."""

    def __init__(self, *, alone: bool, file: str | None) -> None:
        self.rows: dict[tuple[int, str, bool], Row] = {}
        self._alone = alone
        Judging.times = alone
        self._file = file
        self._outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect tests that belong to no scenario."""
        if self._alone:
            others = [item for item in items if _label_of(item) is None]
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if _label_of(item) is not None]
        if LONG:
            for item in items:
                # Before its own mark, which is meant for the short form.
                item.add_marker(pytest.mark.timeout(LONGEST_SECONDS), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Attach label and figures to the report, for the controller."""
        if call.when == "setup":
            said.clear()
        if found := _label_of(item):
            run = {"label": asdict(found), "server": _server_of(item), "figures": said[:]}
            item.user_properties[:] = [(PROPERTY, json.dumps(run))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once its last phase has ended."""
        run = dict(report.user_properties).get(PROPERTY)
        if not isinstance(run, str):
            return
        before = self._outcomes.pop(report.nodeid, "passed")
        outcome = report.outcome if before == "passed" else before
        if report.when == "teardown":
            self._count(report.nodeid.partition("[")[0], json.loads(run), outcome)
        else:
            self._outcomes[report.nodeid] = outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run if a promise is missing; an xdist worker runs a part only and cannot judge that."""
        config = session.config
        part = config.option.collectonly or hasattr(config, "workerinput")
        if part or not self._alone:
            return
        if session.exitstatus == pytest.ExitCode.OK and not self._is_complete():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and write the JSON file."""
        if not self._alone or terminalreporter.config.option.collectonly:
            return
        rows = self.table()
        terminalreporter.section("faults")
        for line in lines(rows):
            terminalreporter.line(line)
        if self._file:
            told = {**_circumstances(), "rows": [row.told() for row in rows]}
            file = Path(self._file)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def table(self) -> list[Row]:
        """A row for each promise, with or without a test."""
        rows = [*self.rows.values(), *self._missing()]
        return sorted(rows, key=lambda row: (row.scenario, row.proof, row.test))

    def _is_complete(self) -> bool:
        return all(row.kept for row in self.table())

    def _missing(self) -> Iterator[Row]:
        met = {(row.scenario, row.proof) for row in self.rows.values()}
        for scenario in TITLES:
            if (scenario, False) not in met:
                yield Row(scenario, "", "no test", proof=False)
            if scenario in PROVED and (scenario, True) not in met:
                yield Row(scenario, "", "no proof that it can fail", proof=True)

    def _count(self, test: str, run: dict[str, Any], outcome: str) -> None:
        told = run["label"]
        # A test that runs with and without its protection marks its figures accordingly.
        proof = not told["promise"] or any(proof for *_, proof in run["figures"])
        promise = told["proof"] if proof else told["promise"]
        for scenario in told["scenarios"]:
            key = (scenario, test, proof)
            row = self.rows.setdefault(key, Row(scenario, test, promise, proof))
            row.add(run, outcome)


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the printed table."""
    for row in rows:
        title = f"{row.scenario:>2} {TITLES[row.scenario]}"
        promise = f"the proof: {row.promise}" if row.proof else row.promise
        servers = f"{row.verdict}, {' and '.join(row.servers)}" if row.servers else row.verdict
        cells = [
            wrap(text, width) or [""]
            for text, width in zip((title, promise, row.figure), WIDTHS, strict=True)
        ]
        for number in range(max(map(len, cells))):
            line = " ".join(
                (cell[number] if number < len(cell) else "").ljust(width)
                for cell, width in zip(cells, WIDTHS, strict=True)
            )
            yield f"{line} {'' if number else servers}".rstrip()


def _circumstances() -> dict[str, Any]:
    programs = filter(None, map(installed, FLAVOURS))
    versions = [
        subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
        for program in programs
    ]
    return {
        "date": time.strftime("%F"),
        "python": platform.python_version(),
        "servers": [" ".join(version.split()[:3]) for version in versions],
        "long": LONG,
    }


def _label_of(item: pytest.Item) -> Label | None:
    return label(inspect.getdoc(item.obj)) if isinstance(item, pytest.Function) else None


def _server_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    flavour = callspec.params.get("flavour", "") if callspec else ""
    return str(flavour)
