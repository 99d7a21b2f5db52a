"""Django integration: invalidations that are sent when the database transaction commits.

Needs the extra `django`: `pip install 'async-redis-cache[django]'`.

    with transaction.atomic():
        Product.objects.filter(id=7).update(price=19)
        bind(cache).delete("product:7")

Transactions of Django are synchronous, so the cache is a `RedisCache`, or a namespace of one. In asynchronous code, call
the function with the transaction through `sync_to_async`, as Django requires it anyway.
"""

from __future__ import annotations

try:
    from django.db import transaction
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.django needs the extra 'django': pip install 'async-redis-cache[django]'"
    ) from _error

from async_redis_cache._api.bound_cache import BoundCache, Invalidations, SyncBindable, is_async

__all__ = ["BoundCache", "bind"]


def bind(cache: SyncBindable, using: str | None = None) -> BoundCache:
    """Bind a cache or a namespace to the transactions of a database.

    What is deleted or invalidated through the result is sent on commit. It is dropped when the transaction is rolled
    back, and with a savepoint (an inner `atomic` block) that is rolled back. The outermost `atomic` block ends after the
    server has acknowledged the invalidations. If they fail, it does not raise: they are pending invalidations of the
    cache, or an error is logged. Outside of a transaction, where Django commits every query by itself, they are sent at
    once.

    Each call of a method is one round trip at the commit: use `delete_many` for many keys. The result may be a global of
    the program; threads have transactions of their own.

    Args:
        cache: an open cache, or a namespace of one.
        using: the alias of the database; by default the default database.

    Raises:
        TypeError: the cache is asynchronous.
    """
    if is_async(cache):
        kind = type(cache).__name__
        raise TypeError(
            f"Django's transactions need a RedisCache or a SyncNamespace, not {kind}: "
            "as_sync() of a cache with any_loop=True returns a RedisCache"
        )

    def defer(invalidations: Invalidations) -> None:
        transaction.on_commit(invalidations.send, using=using, robust=True)

    return BoundCache(cache, defer)
