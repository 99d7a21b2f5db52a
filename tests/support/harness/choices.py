"""Variants of the whole suite, chosen by the environment variables `ARC_LOOP` and `ARC_SERVERS`.

Several are joined by "+", as in `ARC_LOOP=eager+debug`. A test that does not work with a variant is marked
`not_with(choice, ..., reason=)` and is skipped there.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

LOOP_CHOICES: Final = {
    "uvloop": "the loops are uvloop's",
    "eager": "a task runs at once where it is made, until it first waits (Python 3.12 or newer)",
    "debug": "asyncio looks at itself, and its warnings are errors as all others",
    "watched": "blockbuster refuses what the library does that blocks a loop",
}

SERVER_CHOICES: Final = {
    "user": "servers are reached as the least user of the documentation who may do everything",
    "tls": "servers are reached over TLS alone",
}


def _chosen(variable: str, choices: dict[str, str]) -> frozenset[str]:
    chosen = frozenset(filter(None, os.environ.get(variable, "").split("+")))
    if unknown := chosen - choices.keys():
        raise pytest.UsageError(f"{variable} has {', '.join(unknown)}, and may have {[*choices]}")
    return chosen


LOOP: Final = _chosen("ARC_LOOP", LOOP_CHOICES)
SERVERS: Final = _chosen("ARC_SERVERS", SERVER_CHOICES)

by_host_and_port = pytest.mark.not_with(
    "user", "tls", reason="it names host and port, and nothing else"
)
by_host_and_port_with_login = pytest.mark.not_with(
    "tls", reason="it names host and port and a login, and nothing else"
)

says_who_speaks_tls = pytest.mark.not_with(
    "tls", reason="it says itself who speaks TLS, and who is trusted"
)


def reason_against(item: pytest.Item) -> str:
    """The reason why a test is skipped with the chosen variants, or an empty text."""
    chosen = LOOP | SERVERS
    for mark in item.iter_markers("not_with"):
        if unknown := set(mark.args) - (LOOP_CHOICES | SERVER_CHOICES).keys():
            raise pytest.UsageError(f"{item.nodeid} is marked as not to be run with {unknown}")
        if against := chosen.intersection(mark.args):
            return f"not with {'+'.join(against)}: {mark.kwargs['reason']}"
    return ""
