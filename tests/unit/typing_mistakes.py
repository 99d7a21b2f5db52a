"""What type checkers have to find: checked by mypy and pyright, never executed.

Each mistake is ignored by the code of its error. A mistake that a checker does not find makes the comment superfluous,
which is an error itself: mypy's `warn_unused_ignores`, and pyright's `reportUnnecessaryTypeIgnoreComment`, which
`nox -s types-installed` turns on.
"""

from __future__ import annotations

from dataclasses import dataclass

from async_redis_cache import (
    AsyncRedisCache,
    CacheEntry,
    CacheError,
    CacheStats,
    LoadOptions,
    RedisCache,
    cached,
)


@dataclass
class Product:
    name: str


async def find(number: int) -> Product:
    raise NotImplementedError


async def find_all(keys: list[str]) -> dict[str, Product]:
    raise NotImplementedError


def keywords_of_from_url() -> None:
    """Names that are none, and values of another type."""
    url = "redis://host"
    AsyncRedisCache.from_url(url, key_prefx="shop:")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RedisCache.from_url(url, key_prefx="shop:")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AsyncRedisCache.from_url(url, retries="three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncRedisCache.from_url(url, timeout=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncRedisCache.from_url(url, fail_open="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RedisCache.from_url(url, credential_provider="password")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RedisCache.from_url(url, serializer="yaml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def attributes(
    cache: AsyncRedisCache, plain: RedisCache, entry: CacheEntry[Product], error: CacheError
) -> None:
    """Of classes that derive from those of Pip.Services, too."""
    _ = cache.retreive  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    _ = plain.retreive  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    _ = error.reason  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    _ = entry.ttl  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    _ = entry.value.name  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    _ = error.code + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnknownVariableType]
    _ = error.trace_id.upper()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    entry.age = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def arguments(cache: AsyncRedisCache, plain: RedisCache) -> None:
    """Of both caches."""
    await cache.retrieve(1, "key")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    plain.retrieve(1, "key")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await cache.store(None, "key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.store(None, 1, "value")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.store(None, "key", "value", "60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.touch(None, "key", 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.configure({"host": "localhost"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.configure({"host": "localhost"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache.set_references("redis")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncRedisCache(serializer="json")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def loading(cache: AsyncRedisCache, plain: RedisCache) -> None:
    """A loader takes nothing or a `Load`, and an option has a name."""
    await cache.retrieve_or_load(None, "key", find)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.retrieve_or_load(None, "key", find(1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    plain.retrieve_or_load(None, "key", find)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await cache.refresh(None, "key", lambda: 1, refresh_on=0.5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    plain.refresh(None, "key", lambda: 1, stale_timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await cache.retrieve_or_load_many(None, ["key"], find)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.retrieve_or_load_many(None, ["key"], len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LoadOptions(refresh_on=0.5)  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportCallIssue]
    product = await cache.retrieve_or_load(None, "key", lambda: find(1), type=Product)
    _ = product.price  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    entry = plain.retrieve_or_load_entry(None, "key", lambda: Product(""), type=Product)
    _ = entry.status == "fresh"  # type: ignore[comparison-overlap]  # pyright: ignore[reportUnnecessaryComparison]


async def decorated(cache: AsyncRedisCache, plain: RedisCache) -> None:
    """The decorator is of the function's kind, and the function keeps its parameters."""

    @cached(cache, refresh_on=0.5)  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
    async def misspelt(number: int) -> Product:
        raise NotImplementedError

    @cached(cache)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def blocking(number: int) -> Product:
        raise NotImplementedError

    @cached(cache, timeout=60_000)
    async def product(number: int) -> Product:
        raise NotImplementedError

    @cached(plain, timeout=60_000)
    def plain_product(number: int) -> Product:
        raise NotImplementedError

    await product("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain_product("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    product(1).name  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # noqa: B018
    await plain_product(1)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    _ = (await product(1)).price  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    product.invalidte(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    plain_product.key("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def counted(stats: CacheStats) -> None:
    """Counters have names."""
    _ = stats.hit  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
