"""Fills the places of pages that are marked for what is made from code, or from the figures of a run."""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def filled(page: Path, texts: Mapping[str, str], script: str) -> str:
    """A page with each of these texts in the place of its name, which the script is to write."""
    written = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        begin = f"<!-- {name}: written by docs/{script} -->\n"
        before, found, rest = written.partition(begin)
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (found and end):
            raise SystemExit(f"{page.name} has no place for {name}")
        written = f"{before}{begin}\n{text}\n{end}{after}"
    return written


def put(wanted: Mapping[Path, str], script: str) -> None:
    """Write what is not so already; with `--check` fail if that would change anything."""
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if sys.argv[1:] == ["--check"]:
        if stale:
            names = ", ".join(path.name for path in stale)
            raise SystemExit(f"not what it would be today: {names}; run docs/{script}")
        return
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
