"""The calls of an instrumented cache: their names, and what the outcome of one says, as attributes of a span."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, Final, cast

from async_redis_cache._common.errors import CacheError, CacheInputError, CacheServerError

from .cache_entry import CacheEntry, Status
from .loaders import name_of

__all__ = [
    "LOADING",
    "PER_CALL",
    "Attributes",
    "CallOutcome",
    "function_of",
    "name_in_namespace",
    "size_of",
]

Attributes = dict[str, str | int | bool]

_OF_NAMESPACE: Final = {
    "store": "set",
    "retrieve": "get",
    "remove": "delete",
    "store_many": "set_many",
    "retrieve_many": "get_many",
    "remove_many": "delete_many",
    "retrieve_entry": "get_entry",
    "retrieve_or_load": "get_or_load",
    "retrieve_or_load_entry": "get_or_load_entry",
    "retrieve_or_load_many": "get_or_load_many",
    "time_to_live": "ttl",
    "_acquire_lock": "lock",
}
"""What a namespace calls the operations that have another name in a cache."""
_MANY: Final = {
    "store_many": "mapping",
    "retrieve_many": "keys",
    "remove_many": "keys",
    "retrieve_or_load_many": "keys",
}
"""For each method of several keys, the parameter with the keys."""
LOADING: Final = frozenset(
    {"retrieve_or_load", "retrieve_or_load_entry", "retrieve_or_load_many", "refresh"}
)
_READING: Final = LOADING | {"retrieve", "retrieve_entry", "retrieve_many"}
_LOADER: Final = 2
"""The position of the loader among the arguments of a loading method."""
_HTTP_SERVER_ERROR: Final = 500
PER_CALL: Final = (
    *("hits", "misses", "stale_hits", "load_failures", "near_hits", "near_misses", "errors"),
)
"""The counters that are also counted for each call."""


class CallOutcome:
    """The outcome of one call, from what it counted and what it returned."""

    def __init__(self, call: str) -> None:
        self._call = call
        self.counted = dict.fromkeys(PER_CALL, 0)
        self.returned: Any = None

    def result(self) -> Attributes:
        """Return where the value of a single key came from, and whether the call failed open."""
        result: Attributes = {}
        if self.counted["errors"]:
            result["async_redis_cache.failed_open"] = True
        if self._call in _READING and self._call not in _MANY:
            result["async_redis_cache.result"] = self._result()
        return result

    def _result(self) -> Status:
        counted = self.counted
        if self._call.endswith("_entry"):
            entry: CacheEntry[Any] = self.returned
            return entry.status
        if self.returned is None and not counted["hits"]:
            return "missing"
        if counted["stale_hits"]:
            return "stale"
        if not counted["hits"]:
            return "loaded"
        return "near" if counted["near_hits"] and not counted["near_misses"] else "hit"

    def counts(self) -> Attributes:
        """Return, for a call of several keys, how many values came from where."""
        if self._call not in _READING or self._call not in _MANY:
            return {}
        counted, values = self.counted, len(self.returned)
        hits, stale = counted["hits"], counted["stale_hits"]
        near = min(counted["near_hits"], hits)
        loaded = max(0, values - hits - stale)
        counts = {
            "hit": hits - near,
            "near": near,
            "stale": stale,
            "loaded": loaded,
            "missing": max(0, counted["misses"] - loaded),
        }
        return {f"async_redis_cache.result.{name}": count for name, count in counts.items()}

    def failed(self, error: Exception) -> Attributes:
        """Return the attributes of a call that raised."""
        is_load = self._call in LOADING and self._is_of_load(error)
        failed: Attributes = {"async_redis_cache.failure": "load" if is_load else "cache"}
        status = _http_status(error) if is_load else None
        if status is not None:
            failed["http.response.status_code"] = status
            if status < _HTTP_SERVER_ERROR:
                # A response of the origin such as 404 is not a failure of the load.
                return failed | {"async_redis_cache.failure": "response"}
        if not isinstance(error, CacheError):
            return failed | {"error.type": f"{type(error).__module__}.{type(error).__qualname__}"}
        failed["error.type"] = error.code
        if isinstance(error, CacheServerError) and not is_load:
            failed["db.response.status_code"] = error.code
        return failed

    def _is_of_load(self, error: Exception) -> bool:
        if isinstance(error, CacheError):
            # After a failed load it is the loader's, which may use another cache. An input error is about the result
            # of the loader, and is raised by this cache.
            is_input = isinstance(error, CacheInputError)
            return error.code.startswith("LOAD_") or (
                self.counted["load_failures"] > 0 and not is_input
            )
        return True


def name_in_namespace(call: str, args: tuple[Any, ...]) -> str:
    """Return the name that a namespace has for a call."""
    keys: Any = args[1] if call == "remove_many" else None
    if isinstance(keys, tuple) and len(cast("tuple[str, ...]", keys)) == 1:
        # `delete` is a `remove_many` of one key.
        return "delete"
    return _OF_NAMESPACE.get(call, call)


def size_of(call: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Return the number of keys of a call, if it has several and their number is known."""
    if call not in _MANY:
        return None
    many = args[1] if len(args) > 1 else kwargs.get(_MANY[call])
    return len(many) if isinstance(many, Sized) and len(many) > 1 else None


def function_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the name of the loader of a call."""
    loader = args[2] if len(args) > _LOADER else kwargs.get("loader")
    return name_of(loader) if callable(loader) else ""


def _http_status(error: Exception) -> int | None:
    """Return the status of an `HTTPException` of any framework; None for other exceptions."""
    if not any(kind.__name__ == "HTTPException" for kind in type(error).__mro__):
        return None
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int):
            return status
    return None
