"""Times as callers give them: milliseconds, or a timedelta."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from .errors import CacheInputError
from .options import LONGEST

__all__ = ["Timeout", "milliseconds"]

Timeout = int | timedelta | None
"""Milliseconds, or a timedelta; None and 0 for the configured default.

Whole floats, bools, text and numbers of other libraries are refused, whatever their value is.
"""

_MILLISECOND: Final = timedelta(milliseconds=1)


def milliseconds(timeout: object, *, most: int = LONGEST) -> int:
    """A whole number of milliseconds.

    Raises:
        CacheInputError: BAD_TIMEOUT.
    """
    if isinstance(timeout, timedelta):
        # Rounded away from zero: a little is not none, which would mean the default, and nothing
        # less than zero becomes none.
        exact = timeout / _MILLISECOND
        timeout = math.ceil(exact) if exact > 0 else math.floor(exact)
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        problem = "a timeout is a whole number of milliseconds or a timedelta"
        raise CacheInputError("BAD_TIMEOUT", problem)
    if not 0 <= timeout <= most:
        limit = "ten years" if most == LONGEST else f"{most} milliseconds"
        raise CacheInputError("BAD_TIMEOUT", f"a timeout is from 0 milliseconds to {limit}")
    return int(timeout)
