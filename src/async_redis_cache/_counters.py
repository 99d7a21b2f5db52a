"""What a cache counts about itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

__all__ = ["LEVELS", "CacheStats"]

LEVELS: Final = frozenset(
    {"loader_threads", "owed", "breakers_open", "near_entries", "near_bytes", "near_trusted"}
)
"""What is so now; all else only grows."""


@dataclass(slots=True, kw_only=True)
class CacheStats:
    """What a cache has done since it was created, and what is near now; of this process alone."""

    hits: int = 0
    """Keys asked for whose fresh value was given."""
    misses: int = 0
    """Keys asked for where there was none to give, and it was loaded or nothing was given."""
    stores: int = 0
    """Values that `store` or `store_many` stored and the server acknowledged."""
    removals: int = 0
    """Values that were there and that `remove`, `remove_many`, `clear` or storing None removed."""
    evictions: int = 0
    """Values that this process's stores and loads evicted to keep `options.max_size`. What the server
    evicts by itself, for its `maxmemory`, is not in it."""
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
    """Connections made for calls."""
    stale_hits: int = 0
    """Stale values given by the calls that load."""
    loads: int = 0
    """Keys that a loader was called for."""
    load_failures: int = 0
    """Of these, those for which it ended in an error."""
    refused_loads: int = 0
    """Loads refused since as many threads as `loading.max_threads` allows were running loaders."""
    loader_threads: int = 0
    """Threads that run loaders now, those included whose load has ended: a thread cannot be cancelled."""
    not_kept: int = 0
    """Results of loaders that were returned and not stored: too large, or not serializable."""
    refreshes: int = 0
    """Loads begun ahead of time, in the background."""
    overtaken: int = 0
    """Loaded values that went to those who asked and not into the cache, since the key was changed
    while they were loaded."""
    owed: int = 0
    """Keys of changes that failed or were refused, and that are still to be removed: until then nothing
    is given for them."""
    invalidations_dropped: int = 0
    """Such keys that were given up: beyond 10,000 the earliest, and those that were left at `close`. Their
    old values can be read again until they expire."""
    breakers_open: int = 0
    """Servers that the calls that load leave alone now, since they do not answer."""
    near_hits: int = 0
    """Keys answered from the near cache, without a question to the server."""
    near_misses: int = 0
    """Keys looked for in the near cache and not answered from it."""
    near_invalidations: int = 0
    """Keys that the server said had changed, whether they were held near or not."""
    near_flushes: int = 0
    """Times that the near cache was emptied as a whole: by `clear`, or when the server was flushed,
    or when the link that says what changes was lost, silent for two heartbeats, or flooded."""
    near_evictions: int = 0
    """Entries dropped from the near cache to make room."""
    near_entries: int = 0
    """Entries near now."""
    near_bytes: int = 0
    """Memory they take, in bytes, about: keys, data, and a fixed amount for each."""
    near_trusted: bool = False
    """Whether the link is armed now, so that what is near may be given."""

    def snapshot(self) -> CacheStats:
        """As it is now."""
        return replace(self)
