"""What a cache counts about itself."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheStats", "Counters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What a cache has done since it was created. Counts of this process alone."""

    hits: int = 0
    """Keys asked for by `retrieve` or `retrieve_many` whose value was given."""
    misses: int = 0
    """Keys asked for by `retrieve` or `retrieve_many` for which nothing was given."""
    stores: int = 0
    """Values that `store` or `store_many` stored and the server acknowledged."""
    removals: int = 0
    """Values that were there and that `remove`, `remove_many`, `clear` or storing None removed."""
    errors: int = 0
    """Calls that ended in a `CacheError`, whichever."""
    unreadable: int = 0
    """Values that could not be read, and were given as None: foreign, damaged, unsigned, or not
    of the type that was asked for."""
    round_trips: int = 0
    """Exchanges begun with the server."""
    batched_calls: int = 0
    """Calls that shared their exchange with another."""
    retries: int = 0
    """Calls sent, or queued to be sent, once more."""
    connects: int = 0
    """Connections made."""


@dataclass(slots=True)
class Counters:
    """The same, as they move."""

    hits: int = 0
    misses: int = 0
    stores: int = 0
    removals: int = 0
    errors: int = 0
    unreadable: int = 0
    round_trips: int = 0
    batched_calls: int = 0
    retries: int = 0
    connects: int = 0

    def snapshot(self) -> CacheStats:
        """As they are now."""
        return CacheStats(**{name: getattr(self, name) for name in CacheStats.__slots__})
