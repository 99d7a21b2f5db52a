"""What became of the mutants of `nox -s mutation`, by module, and which of them no test has seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MUTANTS = Path(__file__).parents[2] / "mutants" / "src" / "async_redis_cache"
KILLED = {1, 3, 24, -24, 36, 152, 255}
"""Exit codes: a test has failed, there was no end, or the tests could not even be collected. A run that
crashed has shown nothing."""


def main() -> None:
    """Write a table of those that were tried."""
    lines = [f"{'module':<16}{'mutants':>8}{'tried':>7}{'killed':>8}{'survived':>10}{'score':>8}"]
    survivors: list[str] = []
    for path in sorted(MUTANTS.glob("*.meta")):
        codes: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
        tried = [code for code in codes.values() if code is not None]
        alive = [name for name, code in codes.items() if code not in {None, *KILLED}]
        if tried:
            killed = len(tried) - len(alive)
            figures = f"{len(codes):>8}{len(tried):>7}{killed:>8}{len(alive):>10}"
            lines.append(
                f"{path.name.removesuffix('.py.meta'):<16}{figures}{killed / len(tried):>8.1%}"
            )
        survivors += alive
    sys.stdout.write("\n".join([*lines, "", *survivors, ""]))


if __name__ == "__main__":
    main()
