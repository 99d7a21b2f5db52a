"""The scenarios of RELIABILITY, and which of them a test stands for.

A test says so in the first line of its docstring: "6. All tasks are served again", or "7 and 20."
where it shows two of them. "2, the proof: without the look, the reply is served" shows that the
tests of scenario 2 can fail; so does a line "The proof: ..." in the docstring of a test that runs
without its protection too, and then reports its figures with `proof=True`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TITLES = {
    1: "cancellation",
    2: "unread replies",
    3: "deadlines",
    4: "server stopped",
    5: "timed-out writes",
    6: "kill -9 and restart",
    7: "data lost",
    8: "idle connections closed",
    9: "cut replies",
    10: "lost replies",
    11: "maxclients",
    12: "fairness",
    13: "overload",
    14: "refused logins",
    15: "LOADING",
    16: "error replies",
    17: "Sentinel",
    18: "Cluster",
    19: "tracking race",
    20: "invalidation channel",
    21: "single-flight and load leases",
    22: "fork",
    23: "exit and Ctrl-C",
    24: "threads",
    25: "other event loops",
    26: "close",
    27: "model-based",
    28: "damaged values",
    29: "wall clock",
    30: "large values",
    31: "max_size",
    32: "soak",
    33: "loaders that exit",
    34: "budget of a load",
    35: "refused changes",
    36: "name moved",
    37: "idle connections cut",
    38: "several addresses",
    40: "impossible replies",
    41: "server's clock set",
}
PROVED = frozenset({2, 19, 28, 33})
"""These have to show that they fail when the protection is removed."""

_LABEL = re.compile(r"(?P<numbers>\d+(?: and \d+)*)(?P<proof>, the proof:|\.) (?P<promise>.+)")
_PROOF_INSIDE = re.compile(r"^\s*The proof: (?P<promise>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Label:
    """Which scenarios a test stands for, and what it promises."""

    scenarios: tuple[int, ...]
    promise: str
    """Empty where the test is nothing but a proof."""
    proof: str
    """What happens without the protection; empty where the test does not show it."""


def label(docstring: str | None) -> Label | None:
    """What the docstring of a test says; None where it is about no scenario."""
    found = _LABEL.match(docstring or "")
    if not found:
        return None
    numbers = tuple(map(int, found["numbers"].split(" and ")))
    if not TITLES.keys() >= set(numbers):
        raise ValueError(f"there is no such scenario: {found[0]}")
    if found["proof"] != ".":
        return Label(numbers, "", found["promise"])
    inside = _PROOF_INSIDE.search(docstring or "")
    return Label(numbers, found["promise"], inside["promise"] if inside else "")
