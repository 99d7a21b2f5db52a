"""Every operation of a cache as one call with the trace id "trace", for either API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "store": lambda cache: cache.store("trace", "key", 1),
    "retrieve": lambda cache: cache.retrieve("trace", "key"),
    "remove": lambda cache: cache.remove("trace", "key"),
    "store_many": lambda cache: cache.store_many("trace", {"key": 1}),
    "retrieve_many": lambda cache: cache.retrieve_many("trace", ["key"]),
    "remove_many": lambda cache: cache.remove_many("trace", ["key"]),
    "invalidate_tags": lambda cache: cache.invalidate_tags("trace", "tag"),
    "contains": lambda cache: cache.contains("trace", "key"),
    "touch": lambda cache: cache.touch("trace", "key"),
    "time_to_live": lambda cache: cache.time_to_live("trace", "key"),
    "clear": lambda cache: cache.clear("trace"),
    "ping": lambda cache: cache.ping("trace"),
}
"""Operations of an open cache. Each returns an awaitable for `AsyncRedisCache`."""

STEPS: dict[str, Callable[[Any], Any]] = {
    "open": lambda cache: cache.open("trace"),
    "close": lambda cache: cache.close("trace"),
}
"""Operations that open and close a cache."""
