"""Write the table of speeds in explanation/http-peers.md from the figures of a run.

Run `python docs/http_peers_speed.py`. With `--check` it writes nothing, and fails if the page is out of date. The figures
are benchmarks/responses.json, written by `nox -s bench -- --responses --json docs/benchmarks/responses.json`.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec
from benchmark_figures import OURS, Environment, Sample
from marked_places import filled, put

DOCS = Path(__file__).parent
PAGE = DOCS / "explanation" / "http-peers.md"
FIGURES = DOCS / "benchmarks" / "responses.json"

ALONE = "ASGI, no cache"
ROWS = {
    "retrieve, hit, 100 B, response, 1 task": "100 B",
    "retrieve, hit, 10 KB, response, 1 task": "10 KB",
}


class Run(msgspec.Struct):
    """A run of the benchmark."""

    environment: Environment
    samples: list[Sample]

    def above(self, row: str, peer: str) -> list[float]:
        """Return the seconds of processor time per request above those of the bare application, round by round."""
        alone, each = (
            {sample.round: sample for sample in self.samples if (sample.row, sample.peer) == key}
            for key in ((row, ALONE), (row, peer))
        )
        if any(sample.errors for sample in each.values()):
            raise SystemExit(f"{peer} failed in {row}")
        return [
            sample.processor / sample.operations - alone[at].processor / alone[at].operations
            for at, sample in each.items()
        ]


def table(run: Run) -> str:
    """One row for each cache, in the order of the run; the applications without a cache are the last rows."""
    heads = [cell for size in ROWS.values() for cell in (size, "ratio")]
    lines = [f"| a stored response | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for peer in dict.fromkeys(sample.peer for sample in run.samples):
        if peer == ALONE:
            continue
        cells: list[str] = []
        for row in ROWS:
            each, ours = run.above(row, peer), run.above(row, OURS)
            ratio = statistics.median(one / two for one, two in zip(each, ours, strict=True))
            cells += [f"{statistics.median(each) * 1e6:.0f} µs", f"{ratio:.1f}"]
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def conditions(run: Run) -> str:
    """Name what was measured, and where."""
    about = run.environment
    packages = ("fastapi", "redis", "hiredis")
    versions = ", ".join(f"{name} {about.packages[name]}" for name in packages)
    return (
        f"Measured on {about.date[:10]} with {about.python} and {about.server} on {about.cores} cores of an "
        f"{about.processor}; {versions}.\n"
    )


def main() -> None:
    run = msgspec.json.decode(FIGURES.read_bytes(), type=Run)
    texts = {"speed": table(run) + "\n" + conditions(run)}
    put({PAGE: filled(PAGE, texts, Path(__file__).name)}, Path(__file__).name)


if __name__ == "__main__":
    main()
