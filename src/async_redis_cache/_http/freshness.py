"""Age and freshness of stored responses (RFC 9111, section 4.2)."""

from __future__ import annotations

from typing import Final, NamedTuple

from .cache_control import Directives, delta_seconds, response_directives
from .dates import date_in
from .fields import Fields, combined, members

__all__ = ["HEURISTIC_STATUSES", "Freshness", "freshness_of"]

HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Status codes whose responses may be reused without explicit freshness (RFC 9110, section 15.1)."""
_REVALIDATE: Final = ("must-revalidate", "proxy-revalidate", "s-maxage", "no-cache")
_HEURISTIC_SHARE: Final = 0.1
"""The share of the time since the last modification for which a response counts as fresh (section 4.2.2)."""


class Freshness(NamedTuple):
    """How fresh a response is, for a shared cache.

    Attributes:
        age: seconds since the origin generated or validated it.
        lifetime: seconds for which it is fresh.
        is_explicit: whether the response states its lifetime.
        directives: of the response.
    """

    age: float
    lifetime: float
    is_explicit: bool
    directives: Directives

    @property
    def must_revalidate(self) -> bool:
        """Whether it must not be reused once it is stale (sections 5.2.2.2, 5.2.2.8 and 5.2.2.10)."""
        return any(self.directives.has(name) for name in _REVALIDATE)


def freshness_of(
    status: int,
    fields: Fields,
    requested: float,
    received: float,
    *,
    targeted: tuple[bytes, ...] = (),
    heuristic_limit: float = 0,
) -> Freshness:
    """Return how fresh a response is that was just received.

    Args:
        status: its status code.
        fields: its header fields.
        requested: when the request was passed to the application, in seconds since 1970.
        received: when the response was complete.
        targeted: the targeted fields that the cache follows, see `response_directives`.
        heuristic_limit: the most seconds for which a response without explicit freshness is fresh.
    """
    directives = response_directives(fields, targeted)
    generated = date_in(fields, b"date", received)
    date = received if generated is None else generated
    lifetime = _explicit_lifetime(fields, directives, date, received)
    is_explicit = lifetime is not None
    if lifetime is None:
        may_guess = status in HEURISTIC_STATUSES or directives.has("public")
        lifetime = _heuristic_lifetime(fields, date, received, heuristic_limit) if may_guess else 0
    age = max(0.0, received - date, _age_value(fields) + max(0.0, received - requested))
    return Freshness(age, lifetime, is_explicit, directives)


def _explicit_lifetime(
    fields: Fields, directives: Directives, date: float, now: float
) -> float | None:
    for name in ("s-maxage", "max-age"):
        seconds = directives.seconds(name)
        if seconds is not None:
            return seconds
    if directives.is_targeted or combined(fields, b"expires") is None:
        return None
    expires = date_in(fields, b"expires", now)
    # An invalid date is in the past (section 5.3).
    return 0 if expires is None else max(0.0, expires - date)


def _heuristic_lifetime(fields: Fields, date: float, now: float, limit: float) -> float:
    modified = date_in(fields, b"last-modified", now)
    if modified is None or limit <= 0:
        return 0
    return min(limit, max(0.0, date - modified) * _HEURISTIC_SHARE)


def _age_value(fields: Fields) -> int:
    """Return the first member of `Age`; 0 if it is not a number of seconds (section 5.1)."""
    return delta_seconds(next(members(fields, b"age"), ""))
