"""A cache that a FastAPI application opens when it starts, hands to its handlers and closes.

Needs the extra `fastapi`: `pip install 'async-redis-cache[fastapi]'`.

    app = FastAPI(lifespan=cache_lifespan(AsyncRedisCache.from_url("redis://127.0.0.1:6379/0")))

    @app.get("/users/{user_id}")
    async def user(user_id: int, cache: CacheDep) -> User: ...

Inside a lifespan of your own, and for several caches, each under a name of its own:

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with cache_lifespan(pages)(app), cache_lifespan(carts, name="carts")(app):
            yield

    CartCache = Annotated[AsyncRedisCache, Depends(cache_named("carts"))]

An application that is mounted in another, by `app.mount`, has the caches of the other too. Starlette does not run the
lifespan of a mounted application: enter its `cache_lifespan` in the lifespan of the outer one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache as remembered
from typing import Annotated, Final

try:
    from fastapi import Depends, FastAPI
    from fastapi.requests import HTTPConnection
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.fastapi needs the extra 'fastapi': "
        "pip install 'async-redis-cache[fastapi]'"
    ) from _error

from async_redis_cache import AsyncRedisCache

__all__ = ["CacheDep", "cache_lifespan", "cache_named", "get_cache"]

_DEFAULT: Final = "default"
_IN_SCOPE: Final = "async_redis_caches"


def cache_lifespan(
    cache: AsyncRedisCache, *, name: str = _DEFAULT
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Open the cache with the application and close it with it.

    What you get is a lifespan: give it to `FastAPI(lifespan=...)` as it is, or enter it inside your
    own. An application whose cache cannot be opened does not start; with `require_connection`
    false it starts, and the cache connects as soon as it can.

    Raises:
        RuntimeError: when the application starts, if it has another cache of this name already.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        caches = _caches_of(app)
        if name in caches:
            raise RuntimeError(f"this application has a cache named {name!r} already")
        async with cache:
            caches[name] = cache
            try:
                yield
            finally:
                del caches[name]

    return lifespan


@remembered
def cache_named(name: str) -> Callable[[HTTPConnection], Awaitable[AsyncRedisCache]]:
    """Name a cache that a handler depends on, where an application has several.

    The same name gives the same dependency, so it can stand in `app.dependency_overrides` too. It
    serves HTTP handlers and WebSocket handlers alike. Of an application and those it is mounted in, the
    innermost that has a cache of this name has its way.

    Raises:
        LookupError: in the request, if no `cache_lifespan` of this name is running.
    """

    # Asynchronous although it awaits nothing: FastAPI sends plain functions through its threads.
    async def find_cache(connection: HTTPConnection) -> AsyncRedisCache:
        try:
            cache: AsyncRedisCache = connection.scope[_IN_SCOPE][name]
        except KeyError:
            raise LookupError(
                f"no cache named {name!r} is open: is cache_lifespan in the lifespan of this application, "
                "or of one that it is mounted in?"
            ) from None
        return cache

    return find_cache


get_cache: Callable[[HTTPConnection], Awaitable[AsyncRedisCache]] = cache_named(_DEFAULT)
"""The dependency behind `CacheDep`; tests put a cache of their own in its place by it:
`app.dependency_overrides[get_cache] = lambda: cache`."""

CacheDep = Annotated[AsyncRedisCache, Depends(get_cache)]
"""The application's cache, as the parameter of a handler: `async def page(cache: CacheDep)`."""


def _caches_of(app: FastAPI) -> dict[str, AsyncRedisCache]:
    caches: dict[str, AsyncRedisCache] | None = getattr(app.state, "async_redis_caches", None)
    if caches is None:
        caches = app.state.async_redis_caches = {}
        # What is mounted in this application sees the scope of the request, and not this application.
        app.middleware_stack = _Provider(
            app.middleware_stack or app.build_middleware_stack(), caches
        )
    return caches


class _Provider:
    """Puts the open caches of an application into the scope of each request, over those that are there."""

    def __init__(self, app: ASGIApp, caches: dict[str, AsyncRedisCache]) -> None:
        self._app = app
        self._caches = caches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_IN_SCOPE] = {**scope.get(_IN_SCOPE, {}), **self._caches}
        await self._app(scope, receive, send)
