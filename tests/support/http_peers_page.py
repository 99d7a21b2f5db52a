"""The table of docs/explanation/http-peers.md: what each cache of HTTP responses is said to do."""

from __future__ import annotations

import re
from typing import NamedTuple

from code_blocks import ROOT

__all__ = ["OURS", "PAGE", "Table", "table"]

PAGE = ROOT / "docs" / "explanation" / "http-peers.md"
OURS = "async-redis-cache"


class Table(NamedTuple):
    """The table.

    Attributes:
        versions: the release of each cache, by its package; empty for this library.
        cells: what is said, by the first cell of the row and the package.
    """

    versions: dict[str, str]
    cells: dict[tuple[str, str], str]


def table() -> Table:
    """Read the first table of the page."""
    found = re.search(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{PAGE.name} has no table"
    (_, *heads), _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()
    ]
    versions = {head.partition(" ")[0]: head.partition(" ")[2] for head in heads}
    return Table(
        versions,
        {
            (name, cache): cell
            for name, *cells in rows
            for cache, cell in zip(versions, cells, strict=True)
        },
    )
