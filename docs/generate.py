"""Writes the table of options into the documentation, from the code.

`python docs/generate.py` writes it; with `--check` it fails if that would change anything.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from async_redis_cache._options import Options, path_of

PAGE = Path(__file__).parent / "reference" / "configuration.md"
BEGIN = "<!-- options: written by docs/generate.py -->\n"
END = "<!-- end of options -->"


def option_table() -> str:
    """One row for each field of `Options`, in their order."""
    rows = ["| option | default | unit | what it is |", "|---|---|---|---|"]
    for field in dataclasses.fields(Options):
        about = field.metadata
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        shown = "" if default == "" else f"`{default}`"
        what = about["doc"]
        if about["choices"]:
            what += ": one of " + ", ".join(f"`{choice}`" for choice in about["choices"])
        if about["least"]:
            what += f"; {about['least']} or more"
        rows.append(
            f"| `{path_of(field).removeprefix('options.')}` | {shown} | {about['unit']} | {what} |"
        )
    return "\n".join(rows) + "\n"


def generated(page: str) -> str:
    """The page with the table of today in it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE.name} has no place for the options")
    return before + begin + option_table() + end + after


def main() -> None:
    written = PAGE.read_text()
    wanted = generated(written)
    if sys.argv[1:] == ["--check"]:
        if written != wanted:
            raise SystemExit("the option table is not what the code has: run docs/generate.py")
    else:
        PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
