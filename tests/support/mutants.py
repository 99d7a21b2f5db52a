"""Print the results of `nox -s mutation` by module, and the mutants that survived."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MUTANTS = Path(__file__).parents[2] / "mutants" / "src" / "async_redis_cache"
KILLED = {1, 3, 24, -24, 36, 152, 255}
"""Exit codes: a test failed, the run timed out, or the tests could not be collected. A crash proves nothing."""


def _module(path: Path) -> str:
    """The name of the module within the package."""
    parts = path.relative_to(MUTANTS).parts
    return ".".join(parts).removesuffix(".py.meta")


def main() -> None:
    """Print a table of the mutants that were tried."""
    lines = [f"{'module':<32}{'mutants':>8}{'tried':>7}{'killed':>8}{'survived':>10}{'score':>8}"]
    survivors: list[str] = []
    for path in sorted(MUTANTS.rglob("*.meta")):
        codes: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
        tried = [code for code in codes.values() if code is not None]
        alive = [name for name, code in codes.items() if code not in {None, *KILLED}]
        if tried:
            killed = len(tried) - len(alive)
            figures = f"{len(codes):>8}{len(tried):>7}{killed:>8}{len(alive):>10}"
            lines.append(f"{_module(path):<32}{figures}{killed / len(tried):>8.1%}")
        survivors += alive
    sys.stdout.write("\n".join([*lines, "", *survivors, ""]))


if __name__ == "__main__":
    main()
