"""The table of the caches of HTTP responses: processor time above the call of the bare application."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .peers_response_caches import ALONE
from .runs import Results
from .workloads import OURS, Workload


def print_response_caches(
    console: Console, results: Results, workloads: Sequence[Workload]
) -> None:
    """One line per peer: microseconds of processor time in each row, and how many times that of ours."""
    table = Table("peer", title="a stored response, µs of processor time above the bare ASGI call")
    for workload in workloads:
        table.add_column(workload.name, justify="right")
        table.add_column("ours = 1", justify="right")
    for peer in dict.fromkeys(sample.peer for sample in results.samples):
        cells: list[str] = []
        for workload in workloads:
            each, ours = (_above(results, workload.name, name) for name in (peer, OURS))
            cells += [f"{each * 1e6:.1f}", f"{each / ours:.2f}x"] if each and ours else ["", ""]
        table.add_row(peer, *cells)
    console.print(table)
    for sample in results.samples:
        for error, count in sample.errors.items():
            console.print(f"{sample.row}: {sample.peer}: {count} {error}", style="red")


def _above(results: Results, row: str, peer: str) -> float | None:
    """Return the median over the rounds; None if a call failed, or for the bare application itself."""
    alone, each = (
        {sample.round: sample for sample in results.samples if (sample.row, sample.peer) == key}
        for key in ((row, ALONE), (row, peer))
    )
    if peer == ALONE or any(sample.errors for sample in each.values()):
        return None
    return statistics.median(
        sample.processor_each - alone[at].processor_each for at, sample in each.items()
    )
