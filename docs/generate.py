"""Write the table of options in reference/configuration.md from the code.

Run `python docs/generate.py`. With `--check` it writes nothing, and fails if the table is out of date.
"""  # noqa: INP001  a script beside the pages, not a package

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from marked_places import filled, put

from async_redis_cache._common.durations import HOUR
from async_redis_cache._common.options import Options, path_of

PAGE = Path(__file__).parent / "reference" / "configuration.md"


def option_table() -> str:
    """One row for each field of `Options`, in their order."""
    rows = ["| option | default | unit | allowed | description |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(Options):
        about = field.metadata
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        cells = (
            f"`{path_of(field).removeprefix('options.')}`",
            "" if default in {"", None} else f"`{default}`",
            about["unit"],
            allowed(field),
            about["doc"],
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def allowed(field: dataclasses.Field[Any]) -> str:
    """The values that the option accepts; empty for text."""
    least, most = field.metadata["least"], field.metadata["most"]
    if field.metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
    if isinstance(field.default, bool):
        return "`true`, `false`"
    if isinstance(field.default, float) or most == HOUR:
        return f"{least} to {most}"
    return f"{least} or more" if isinstance(field.default, int) else ""


def main() -> None:
    script = Path(__file__).name
    put({PAGE: filled(PAGE, {"options": option_table()}, script)}, script)


if __name__ == "__main__":
    main()
