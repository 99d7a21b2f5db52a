"""Writes the table of options into the documentation, from the code.

`python docs/generate.py` writes it; with `--check` it fails if that would change anything.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import dataclasses
from pathlib import Path

from marked_places import filled, put

from async_redis_cache._common.options import HOUR, Options, path_of

PAGE = Path(__file__).parent / "reference" / "configuration.md"


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
        least, most = about["least"], about["most"]
        if isinstance(field.default, float):
            what += f"; from 0 to {most}"
        elif most == HOUR:
            what += f"; from {least} to {most}"
        elif least:
            what += f"; {least} or more"
        rows.append(
            f"| `{path_of(field).removeprefix('options.')}` | {shown} | {about['unit']} | {what} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    script = Path(__file__).name
    put({PAGE: filled(PAGE, {"options": option_table()}, script)}, script)


if __name__ == "__main__":
    main()
