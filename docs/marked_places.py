"""Fill the marked places of pages with text that is generated from code or from the figures of a run."""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def filled(page: Path, texts: Mapping[str, str], script: str) -> str:
    """Return the text of the page with each of these texts inserted between the marks with its name.

    Raises:
        SystemExit: the page has no such marks for this script.
    """
    written = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        begin = f"<!-- {name}: written by docs/{script} -->\n"
        before, found, rest = written.partition(begin)
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (found and end):
            raise SystemExit(f"{page.name} has no marks for {name}")
        written = f"{before}{begin}\n{text}\n{end}{after}"
    return written


def put(wanted: Mapping[Path, str], script: str) -> None:
    """Write the files that differ. With `--check` write nothing, and exit with an error if any differs."""
    outdated = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if sys.argv[1:] == ["--check"]:
        if outdated:
            names = ", ".join(path.name for path in outdated)
            raise SystemExit(f"out of date: {names}; run docs/{script}")
        return
    for path in outdated:
        path.write_text(wanted[path], encoding="utf-8")
