"""How long the tests may take: `ARC_LONG=1` repeats what RELIABILITY promises in full."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("ARC_LONG") == "1"


def scaled(short: T, full: T) -> T:
    """The size of a test: the full one where there is time for it."""
    return full if LONG else short
