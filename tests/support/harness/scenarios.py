"""The fault-injection scenarios, and how the docstring of a test names its scenario.

The first line of a docstring begins with the number: "6. All tasks are served again", or "7 and 20." for two
scenarios. "2, the proof: without the check, the reply is used" proves that the tests of scenario 2 can fail; so
does a line "The proof: ..." in the docstring of a test that also runs without its protection, and then reports its
figures with `proof=True`.
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
    39: "login refused at run time",
    40: "impossible replies",
    41: "server's clock set",
}
PROVED = frozenset({2, 19, 28, 33})
"""Scenarios that need a proof: their tests fail without the protection."""

_LABEL = re.compile(r"(?P<numbers>\d+(?: and \d+)*)(?P<proof>, the proof:|\.) (?P<promise>.+)")
_PROOF_INSIDE = re.compile(r"^\s*The proof: (?P<promise>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Label:
    """The scenarios of a test and its promise."""

    scenarios: tuple[int, ...]
    promise: str
    """Empty if the test is only a proof."""
    proof: str
    """What happens without the protection; empty if the test does not show it."""


def label(docstring: str | None) -> Label | None:
    """Parse the docstring of a test; None if it names no scenario."""
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
