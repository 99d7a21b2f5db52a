"""What `Namespace` and `SyncNamespace` have in common: a view of a cache, and the defaults of its calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from async_redis_cache._common.durations import Ttl, ttl_milliseconds
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.load_options import LoadOptions

from .namespace_defaults import Defaults
from .view import view_of

__all__ = ["NamespaceView"]

T = TypeVar("T")


class NamespaceView(Generic[T]):
    """A namespace without the methods that read and write.

    Args:
        cache: open or not.
        defaults: of the namespace.
    """

    def __init__(self, cache: Any, defaults: Defaults) -> None:
        self._defaults = defaults
        self._type = defaults.type
        self._tags = defaults.tags
        self._caches_none = defaults.view.cache_none
        self._cache = cache
        self._view: Any = view_of(cache, defaults.name, defaults.view)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self._cache!r}>"

    @property
    def name(self) -> str:
        """The name, with which the keys begin."""
        return self._defaults.name

    def stats(self) -> CacheStats:
        """Return a snapshot of what the calls of this namespace have counted in this process.

        Fields that concern connections, the near cache and what else all calls of a cache share are 0. The namespaces
        of one name in a cache share their counters, and `stats()` of the cache includes them.
        """
        stats: CacheStats = self._view.stats()
        return stats

    def _decorator(
        self, key: str | None, ttl: Ttl, kind: Any, long_keys: LongKeys | None, loading: LoadOptions
    ) -> Any:
        """Return the decorator `cached` of the namespace."""
        from .decorator import cached_in_namespace  # noqa: PLC0415  most programs do not need it

        return cached_in_namespace(
            self._view,
            self._type,
            key,
            self._defaults.with_tags(loading),
            timeout=ttl_milliseconds(ttl),
            type=kind,
            long_keys=long_keys or self._defaults.view.long_keys,
        )

    def _all_tags(self, tags: Iterable[str]) -> Iterable[str]:
        return self._defaults.all_tags(tags) if self._tags else tags
