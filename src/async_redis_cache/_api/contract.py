"""The contract of an asynchronous cache, to type against and to write others by."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from async_redis_cache._common.pip_services import Context

__all__ = ["IAsyncCache"]


@runtime_checkable
class IAsyncCache(Protocol):
    """`ICache` of Pip.Services, awaitable.

    Not an `IOpenable` of the framework, whose container calls `open` without awaiting it.
    """

    def is_open(self) -> bool:
        """Whether the cache can be used."""
        ...

    async def open(self, context: Context) -> None:
        """Open the cache; on an open one this does nothing."""
        ...

    async def close(self, context: Context) -> None:
        """Close the cache and free what it holds; on a closed one this does nothing."""
        ...

    async def store(self, context: Context, key: str, value: Any, timeout: int | None) -> Any:
        """Store a value for `timeout` milliseconds and return it."""
        ...

    async def retrieve(self, context: Context, key: str) -> Any:
        """The value of the key, or None."""
        ...

    async def remove(self, context: Context, key: str) -> Any:
        """Remove the key; the value it had, or None."""
        ...
