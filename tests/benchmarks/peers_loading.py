"""Hits of the calls that could load, each beside `retrieve` of the same stored values, under the same keys."""

import asyncio
from collections.abc import Awaitable, Mapping
from enum import StrEnum
from typing import Any

from async_redis_cache import LoadOptions, cached

from .peers import AsyncPeer
from .peers_ours import Ours
from .servers import Target
from .workloads import EXPIRY_MS, OURS, RETRIEVE

Value = dict[str, Any]


class Way(StrEnum):
    """How a value is asked for that could be loaded, were it not there."""

    CALL = "retrieve_or_load"
    REFRESHED = "retrieve_or_load, refresh_at"
    STALE = "retrieve_or_load, stale_timeout"
    DECORATED = "cached, key by template"
    DECORATED_BY_DEFAULT = "cached, key by default"


_OPTIONS: Mapping[Way, LoadOptions] = {
    Way.REFRESHED: {"refresh_at": 0.9},
    Way.STALE: {"stale_timeout": EXPIRY_MS},
}


_ORIGIN: dict[str, Any] = {}


async def _value(key: str) -> Value:
    found: Value = _ORIGIN[key]
    return found


class Loading(Ours):
    """Values that were loaded and are there, asked for in this way; or, once they are, by `retrieve`."""

    def __init__(self, way: Way, *, near: bool, plain: bool = False) -> None:
        super().__init__(RETRIEVE if plain else OURS, near_cache_enabled=near)
        self._way = way
        self._is_plain = plain
        self._said = LoadOptions() if plain else _OPTIONS.get(way, LoadOptions())
        self._is_decorated = way in {Way.DECORATED, Way.DECORATED_BY_DEFAULT}
        self._values: Mapping[str, Any] = {}
        self._keys: Mapping[str, str] = {}

    async def open(self, server: Target) -> None:
        await super().open(server)
        key = "{key}" if self._way is Way.DECORATED else None

        self._cached = cached(self._cache, timeout=EXPIRY_MS, key=key)(_value)

    def retrieve(self, key: str) -> Awaitable[object]:
        if self._is_plain:
            return self._cache.retrieve(None, self._keys[key], type=Value)
        return self._load(key)

    def _load(self, key: str) -> Awaitable[object]:
        if self._is_decorated:
            return self._cached(key)
        return self._cache.retrieve_or_load(
            None, key, lambda: self._values[key], EXPIRY_MS, type=Value, **self._said
        )

    def _load_anew(self, key: str) -> Awaitable[object]:
        if self._is_decorated:
            return self._cached.refresh(key)
        return self._cache.refresh(
            None, key, lambda: self._values[key], EXPIRY_MS, type=Value, **self._said
        )

    async def fill(self, values: Mapping[str, object]) -> None:
        # Not what was near before the server was emptied: that news may still be under way.
        self._values = values
        _ORIGIN.update(values)
        # What `cached` makes of one is longer, which costs whoever asks for it.
        self._keys = {key: self._cached.key(key) if self._is_decorated else key for key in values}
        await asyncio.gather(*map(self._load_anew, values))


def loading(way: Way, *, near: bool = False) -> list[AsyncPeer]:
    """This way, and the one that it is compared with."""
    return [Loading(way, near=near), Loading(way, near=near, plain=True)]
