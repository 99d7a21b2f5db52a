"""Header fields, as a test writes them."""

from __future__ import annotations

from async_redis_cache._http.fields import Fields

__all__ = ["fields"]


def fields(*lines: str) -> Fields:
    """Return the fields of lines such as "Vary: accept"."""
    pairs = (line.partition(": ") for line in lines)
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, _, value in pairs)
