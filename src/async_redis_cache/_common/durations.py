"""Durations: units, limits, and the timeouts that callers pass."""

from __future__ import annotations

import math
from datetime import timedelta
from enum import Enum
from typing import Final

from .errors import CacheInputError

__all__ = [
    "CENTURY",
    "FOREVER",
    "HOUR",
    "LONGEST",
    "SECOND",
    "Forever",
    "Timeout",
    "Ttl",
    "milliseconds",
    "ttl_milliseconds",
    "ttl_seconds",
]


class Forever(Enum):
    """The type of `FOREVER`, which is its only member."""

    FOREVER = "forever"
    """The TTL of a value that does not expire. On the server it is a TTL of a hundred years, so that a cache with
    `max_size` evicts such values last."""

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


FOREVER: Final = Forever.FOREVER

Timeout = int | timedelta | Forever | None
"""Milliseconds, a timedelta, or FOREVER; None and 0 for the configured default.

Floats, bools, text and numbers of other libraries are refused, even where their value is a whole number.
"""

Ttl = float | timedelta | Forever | None
"""Seconds, as an int or a float, a timedelta, or FOREVER; None for the default. The methods of namespaces take it."""

SECOND: Final = 1000
"""In milliseconds."""
HOUR: Final = 3600 * SECOND
"""In milliseconds: the maximum duration of a load."""
LONGEST: Final = 10 * 365 * 24 * HOUR
"""Ten years in milliseconds, the maximum TTL except FOREVER. Redis rejects what overflows its clock; long before that,
a TTL is a mistake of units."""
CENTURY: Final = 10 * LONGEST
"""A hundred years in milliseconds, which stand for FOREVER. What remains of it exceeds `LONGEST` for ninety years."""
_MILLISECOND: Final = timedelta(milliseconds=1)


def milliseconds(
    timeout: object, *, most: int = LONGEST, name: str = "timeout", may_be_forever: bool = True
) -> int:
    """A timeout as a whole number of milliseconds.

    Args:
        timeout: an int in milliseconds, a timedelta, which is rounded away from zero, or FOREVER.
        most: the maximum, in milliseconds.
        name: the argument's name, for the error message.
        may_be_forever: whether FOREVER is accepted.

    Raises:
        CacheInputError: BAD_TIMEOUT.
    """
    if timeout is FOREVER and may_be_forever:
        return CENTURY
    if isinstance(timeout, timedelta):
        # Away from zero: rounding a short timeout to 0 would select the default, and rounding a negative one
        # to 0 would accept it.
        exact = timeout / _MILLISECOND
        timeout = math.ceil(exact) if exact > 0 else math.floor(exact)
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        kind = type(timeout).__name__
        problem = f"`{name}` must be an int, in milliseconds, or a timedelta, not `{kind}`"
        raise CacheInputError("BAD_TIMEOUT", problem)
    if not 0 <= timeout <= most:
        limit = "ten years" if most == LONGEST else f"{most} milliseconds"
        problem = f"`{name}` must be between 0 milliseconds and {limit}"
        raise CacheInputError("BAD_TIMEOUT", problem)
    return int(timeout)


def ttl_milliseconds(ttl: Ttl) -> int | Forever | None:
    """A TTL of a namespace as a whole number of milliseconds, at least 1, or FOREVER; None for the default.

    Raises:
        CacheInputError: BAD_TIMEOUT.
    """
    if ttl is None or ttl is FOREVER:
        return ttl
    if isinstance(ttl, timedelta):
        exact = ttl / _MILLISECOND
    elif isinstance(ttl, (int, float)) and not isinstance(ttl, bool):  # type: ignore[redundant-expr]  # pyright: ignore[reportUnnecessaryIsInstance]
        exact = ttl * SECOND
    else:
        kind = type(ttl).__name__
        problem = f"`ttl` must be a number of seconds, a timedelta or FOREVER, not `{kind}`"
        raise CacheInputError("BAD_TIMEOUT", problem)
    # False for NaN too.
    if not 0 < exact <= LONGEST:
        problem = "`ttl` must be more than 0 seconds and at most ten years, or FOREVER"
        raise CacheInputError("BAD_TIMEOUT", problem)
    return math.ceil(exact)


def ttl_seconds(left: int | None) -> float | Forever | None:
    """What remains of a TTL, in seconds; FOREVER if that is more than the maximum TTL."""
    if left is None:
        return None
    return FOREVER if left > LONGEST else left / SECOND
